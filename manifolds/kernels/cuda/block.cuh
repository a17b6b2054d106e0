// Kernels whose threads share memory: what they need of their block, on the device, and with other means on a host.
//
// Such a kernel is a function of a block, its shared memory and its arguments. All threads of a block pass every
// barrier and every exchange; a thread without work takes part in them with zeros.
#pragma once

#include "rows.cuh"

namespace holonomy {

// Sum over `lanes` neighbouring threads, 2^k of one warp; each of them gets it.
template <class Block, class N> METHOD N lanes_total(const Block& block, N a, int lanes) {
    for (int offset = lanes >> 1; offset > 0; offset >>= 1) a += block.across(a, offset);
    return a;
}

template <class Block, class N> METHOD N lanes_largest(const Block& block, N a, int lanes) {
    for (int offset = lanes >> 1; offset > 0; offset >>= 1) {
        N other = block.across(a, offset);
        a = other > a ? other : a;
    }
    return a;
}

// Sum over a block of 32 k threads; each of them gets it, summed in one order. `memory` holds k numbers.
template <class Block, class N> METHOD N threads_total(const Block& block, N a, N* memory) {
    a = lanes_total(block, a, 32);
    block.sync();  // what was there before may still be read
    if (block.thread % 32 == 0) memory[block.thread / 32] = a;
    block.sync();
    N sum = memory[0];
    for (int k = 1; k < block.threads / 32; ++k) sum += memory[k];
    return sum;
}

template <class Block, class N> METHOD N threads_largest(const Block& block, N a, N* memory) {
    a = lanes_largest(block, a, 32);
    block.sync();
    if (block.thread % 32 == 0) memory[block.thread / 32] = a;
    block.sync();
    N most = memory[0];
    for (int k = 1; k < block.threads / 32; ++k) most = memory[k] > most ? memory[k] : most;
    return most;
}

#ifdef __CUDACC__

struct Block {
    int thread, threads;
    long long index;  // of this block, among all of the launch

    METHOD void sync() const { __syncthreads(); }
    // The number that the thread has whose place in the warp differs by this bit.
    template <class N> METHOD N across(N a, int bit) const { return __shfl_xor_sync(0xffffffffu, a, bit); }
};

// A kernel of `count` threads a block: its name, its parameters in parentheses, and what it does with `block`, `shared`
// and them.
#define HOLONOMY_BLOCKS(name, count, parameters, ...)                                                                 \
    extern "C" __global__ void __launch_bounds__(count) name parameters {                                             \
        extern __shared__ __align__(16) char shared[];                                                                \
        const holonomy::Block block = {int(threadIdx.x), count, (long long)blockIdx.x};                               \
        __VA_ARGS__;                                                                                                  \
    }

#endif

}  // namespace holonomy
