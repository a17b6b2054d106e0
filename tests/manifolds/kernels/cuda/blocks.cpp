// Runs kernels of block.cuh on the host: the threads of a block are coroutines, which take turns at every barrier, in
// an order that changes from launch to launch: where a barrier is missing, what comes out depends on it. The source of
// the kernels goes before this text, and what instantiates them after it.
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include <ucontext.h>

namespace host {

// A barrier is a meeting, at which each thread lets the next one run until it comes to the meeting itself.
struct Threads {
    int count;
    ucontext_t home;
    std::vector<ucontext_t> context;
    std::unique_ptr<char[]> stacks;
    std::vector<long long> word;
    int running = 0;
    std::function<void(int)> work;

    static constexpr int kStack = 1 << 16;

    explicit Threads(int n) : count(n), context(n), stacks(new char[size_t(n) * kStack]), word(n) {}
    void meet() {
        int from = running;
        running = (from + 1) % count;
        swapcontext(&context[from], &context[running]);
    }
    static void start(unsigned high, unsigned low, int t) {
        Threads* self = reinterpret_cast<Threads*>((static_cast<unsigned long long>(high) << 32) | low);
        self->work(t);
        self->running = t + 1;
    }
    void run() {
        unsigned long long self = reinterpret_cast<unsigned long long>(this);
        running = 0;
        for (int t = 0; t < count; ++t) {
            getcontext(&context[t]);
            context[t].uc_stack.ss_sp = stacks.get() + size_t(t) * kStack;
            context[t].uc_stack.ss_size = kStack;
            context[t].uc_link = t < count - 1 ? &context[t + 1] : &home;
            makecontext(&context[t], reinterpret_cast<void (*)()>(&Threads::start), 3, unsigned(self >> 32),
                        unsigned(self), t);
        }
        swapcontext(&home, &context[0]);
    }
};

struct Block {
    int thread, threads;
    long long index;
    Threads* all;

    void sync() const { all->meet(); }
    template <class N> N across(N a, int bit) const {
        static_assert(sizeof(N) <= sizeof(long long), "one word");
        std::memcpy(&all->word[thread], &a, sizeof(N));
        all->meet();
        std::memcpy(&a, &all->word[thread ^ bit], sizeof(N));
        all->meet();
        return a;
    }
};

long long blocks = 0, bytes = 0;
unsigned order = 0;

// Threads in the order of their turns: as they are, backwards, or at random.
std::vector<int> turns(int count) {
    std::vector<int> found(count);
    for (int t = 0; t < count; ++t) found[t] = order % 3 == 1 ? count - 1 - t : t;
    unsigned state = order;
    for (int t = count - 1; order % 3 == 2 && t > 0; --t) {
        state = state * 1664525u + 1013904223u;
        std::swap(found[t], found[(state >> 8) % (t + 1)]);
    }
    return found;
}

// Whether all blocks kept to their shared memory.
bool sound = true;

template <class Work> void each_block(int count, Work work) {
    Threads threads(count);
    const std::vector<int> turn = turns(count);
    std::vector<double> memory(bytes / 8 + 2);
    for (long long b = 0; b < blocks; ++b) {
        // What a kernel does not write it must not read.
        std::memset(memory.data(), 0xff, memory.size() * 8);
        char* shared = reinterpret_cast<char*>(memory.data());
        threads.work = [&](int t) { work(Block{turn[t], count, b, &threads}, shared); };
        threads.run();
        for (size_t k = size_t(bytes); k < memory.size() * 8; ++k) sound = sound && shared[k] == char(0xff);
    }
}

}  // namespace host

extern "C" void configure(long long blocks, long long bytes, unsigned order) {
    host::blocks = blocks, host::bytes = bytes, host::order = order;
}
extern "C" bool sound() { return host::sound; }

#define HOLONOMY_BLOCKS(name, count, parameters, ...)                                                                 \
    extern "C" void name parameters {                                                                                 \
        host::each_block(count, [&](const host::Block& block, char* shared) {                                         \
            (void)shared;                                                                                             \
            __VA_ARGS__;                                                                                              \
        });                                                                                                           \
    }

namespace host {

// The lanes of a row, of one warp.
struct Lanes {
    const Block& block;
    int lane, lanes;

    template <class N> N total(N a) const {
        for (int bit = lanes >> 1; bit > 0; bit >>= 1) a += block.across(a, bit);
        return a;
    }
    template <class N> N largest(N a) const {
        for (int bit = lanes >> 1; bit > 0; bit >>= 1) {
            N other = block.across(a, bit);
            a = other > a ? other : a;
        }
        return a;
    }
    bool any(bool a) const {
        for (int bit = 16; bit > 0; bit >>= 1) a = block.across(int(a), bit) || a;
        return a;
    }
};

}  // namespace host

// Row maps, by one warp that takes as many rows at once as fit; without derivatives by a curvature.
#define HOLONOMY_ROWS(name, op, T, V, K)                                                                              \
    extern "C" void name(const T* in0, const T* in1, const T* in2, const T* in3, const T* in4, const T* given,        \
                         unsigned repeated, T* out0, T* out1, T* out2, T* scalar, double*, const T*, double,          \
                         long long n, int size, int lanes) {                                                          \
        using Op = holonomy::op<T>;                                                                                   \
        const T* in[5] = {in0, in1, in2, in3, in4};                                                                   \
        T* out[3] = {out0, out1, out2};                                                                               \
        holonomy::Addresses<T, Op::vectors, Op::outs> addresses = {{}, {}, given, scalar, repeated};                  \
        for (int m = 0; m < Op::vectors; ++m) addresses.in[m] = in[m];                                                \
        for (int m = 0; m < Op::outs; ++m) addresses.out[m] = out[m];                                                 \
        host::blocks = 1;                                                                                             \
        host::each_block(32, [&](const host::Block& block, char*) {                                                   \
            host::Lanes group = {block, block.thread & (lanes - 1), lanes};                                           \
            for (long long first = 0; first < n; first += 32 / lanes)                                                 \
                holonomy::evaluate<Op, T, V, K>(group, addresses, {1.0, T(1)}, first + block.thread / lanes, n,       \
                                                size);                                                                \
        });                                                                                                           \
    }
