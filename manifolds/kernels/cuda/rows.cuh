// The one template of the row kernels: sums over a row, scalar work, and a combination of the row's vectors.
//
// Every map of points and vectors that commutes with rotations has this form. A map is a struct, whose members are its
// coefficients, with
//
//     vectors, outs, givens, scalars   how many vectors and scalars it reads and writes in a row,
//     rounds, optional                 rounds of sums, and the one that only rows for which `needs()` run (0: none),
//     lead                             numbers before the vector in a row (the time of the hyperboloid),
//     peaks, peak(v), top(a)           whether the largest of one number of each coordinate is sought first, and given,
//     wide(r), plain(r)                sums of round r in float64, and in the dtype of the rows,
//     add(Round<r>, v, w, s)           adds what one coordinate contributes to the sums,
//     stage(Round<r>, row, w, s)       turns sums into coefficients,
//     blend(v, o, i, d)                the outputs' coordinate i, from the vectors' coordinate i,
//     head(m)                          the number before output m, where there is one.
//
// A row is held by a group of 2^k neighbouring lanes of a warp, each with K packs of V coordinates in registers, or,
// with K = 0, read again in every round. All lanes of a group do the scalar work, so that nothing waits. Compiled as
// C++ a group is what the caller makes it: one lane, or threads that behave as lanes.
#pragma once

#include "scalar.cuh"

namespace holonomy {

template <int r> struct Round {};

// What a row brings besides its vectors, and what it returns besides them.
template <class T, int n> struct Row {
    Curvature<T> curvature;
    T head[n];     // the number before each vector
    T given;       // a scalar that belongs to the row: the upstream gradient of a scalar
    T scalar;      // a scalar result
    double slope;  // derivative by the curvature
};

// Defaults of a map.
struct Map {
    static constexpr int outs = 1, givens = 0, scalars = 0, rounds = 1, optional = 0, lead = 0;
    static constexpr bool seeks = false, peaks = false;
    METHOD static constexpr int wide(int) { return 0; }
    METHOD static constexpr int plain(int) { return 1; }
    METHOD bool needs() const { return true; }
};

template <class T, int V> struct alignas(sizeof(T) * V) Pack {
    T e[V];
};

template <class T, int n, int m> struct Addresses {
    const T* in[n];
    T* out[m ? m : 1];
    const T* given;
    T* scalar;
    unsigned repeated;  // bit i: all rows share the one row of input i; bit n: they share the given scalar

    METHOD const T* row(int i, long long r, int stride) const {
        return (repeated >> i) & 1u ? in[i] : in[i] + r * stride;
    }
};

template <class Group, class Op, class T, int V, int K> struct Evaluation {
    static constexpr int N = Op::vectors, M = Op::outs ? Op::outs : 1, H = K ? K : 1;
    const Group& group;
    Op& op;
    const T* in[N];
    int size;     // numbers in a row, with the lead
    bool active;  // rows past the end take part in the exchange of sums, as zeros
    T x[H][N][V];

    METHOD void load(int at, T (&pack)[N][V]) const {
        bool inside = active && at < size;
#pragma unroll
        for (int m = 0; m < N; ++m) {
            Pack<T, V> p = {};
            if (inside) p = *reinterpret_cast<const Pack<T, V>*>(in[m] + at);
#pragma unroll
            for (int e = 0; e < V; ++e) pack[m][e] = Op::lead && e < Op::lead && at == 0 ? T(0) : p.e[e];
        }
    }

    template <class Action> METHOD void each(Action action) {
        const int step = group.lanes * V;
        int at = group.lane * V;
        if constexpr (K > 0) {
#pragma unroll
            for (int k = 0; k < K; ++k, at += step) action(x[k], at);
        } else {
            for (; at < size; at += step) {
                load(at, x[0]);
                action(x[0], at);
            }
        }
    }

    METHOD void fill() {
        if constexpr (K > 0) {
            int at = group.lane * V;
#pragma unroll
            for (int k = 0; k < K; ++k, at += group.lanes * V) load(at, x[k]);
        }
    }

    template <int r> METHOD void round(Row<T, N>& row) {
        constexpr int W = Op::wide(r), P = Op::plain(r);
        double w[W ? W : 1] = {};
        T s[P ? P : 1] = {};
        each([&](T(&pack)[N][V], int) {
#pragma unroll
            for (int e = 0; e < V; ++e) {
                T v[N];
#pragma unroll
                for (int m = 0; m < N; ++m) v[m] = pack[m][e];
                op.add(Round<r>(), v, w, s);
            }
        });
#pragma unroll
        for (int j = 0; j < W; ++j) w[j] = group.total(w[j]);
#pragma unroll
        for (int j = 0; j < P; ++j) s[j] = group.total(s[j]);
        op.stage(Round<r>(), row, w, s);
    }

    // The coordinate at which the first vector is smallest.
    METHOD void seek() {
        T least = T(1) / T(0.0f);
        int where = 0;
        each([&](T(&pack)[N][V], int at) {
#pragma unroll
            for (int e = 0; e < V; ++e) {
                T a = magnitude(pack[0][e]);
                if (active && at + e < size && a < least) least = a, where = at + e;
            }
        });
        group.argmin(least, where);
        T v[N];
#pragma unroll
        for (int m = 0; m < N; ++m) v[m] = active ? in[m][where] : T(0);
        op.found(where, v);
    }

    // The largest of what the map makes of each coordinate.
    METHOD void climb() {
        T most = T(-1) / T(0.0f);
        each([&](T(&pack)[N][V], int at) {
#pragma unroll
            for (int e = 0; e < V; ++e) {
                T v[N];
#pragma unroll
                for (int m = 0; m < N; ++m) v[m] = pack[m][e];
                T a = op.peak(v);
                if (active && at + e < size && a > most) most = a;
            }
        });
        op.top(group.largest(most));
    }

    METHOD void write(T* const* out) {
        if constexpr (Op::outs > 0) {
            each([&](T(&pack)[N][V], int at) {
                Pack<T, V> o[M];
#pragma unroll
                for (int e = 0; e < V; ++e) {
                    T v[N], y[M];
#pragma unroll
                    for (int m = 0; m < N; ++m) v[m] = pack[m][e];
                    op.blend(v, y, at + e, size);
#pragma unroll
                    for (int m = 0; m < M; ++m) {
                        if constexpr (Op::lead > 0) {
                            if (at + e < Op::lead) y[m] = op.head(m);
                        }
                        o[m].e[e] = y[m];
                    }
                }
                if (active && at < size) {
#pragma unroll
                    for (int m = 0; m < M; ++m) *reinterpret_cast<Pack<T, V>*>(out[m] + at) = o[m];
                }
            });
        }
    }
};

// Evaluate one row; return the derivative by the curvature.
template <class Op, class T, int V, int K, class Group>
METHOD double evaluate(const Group& group, const Addresses<T, Op::vectors, Op::outs>& addresses,
                       Curvature<T> curvature, long long r, long long n, int size) {
    constexpr int N = Op::vectors;
    Op op;
    Evaluation<Group, Op, T, V, K> work{group, op, {}, size, r < n, {}};
    Row<T, N> row = {curvature, {}, T(0), T(0), 0.0};
#pragma unroll
    for (int m = 0; m < N; ++m) {
        work.in[m] = addresses.row(m, r, size);
        if constexpr (Op::lead > 0) row.head[m] = work.active ? work.in[m][0] : T(0);
    }
    if constexpr (Op::givens > 0) {
        if (work.active) row.given = addresses.given[(addresses.repeated >> N) & 1u ? 0 : r];
    }
    work.fill();
    if constexpr (Op::peaks) work.climb();
    work.template round<0>(row);
    if constexpr (Op::seeks) {
        if (group.any(op.needs())) work.seek();
    }
    if constexpr (Op::rounds > 1) {
        if (Op::optional != 1 || group.any(op.needs())) work.template round<1>(row);
    }
    if constexpr (Op::rounds > 2) {
        if (Op::optional != 2 || group.any(op.needs())) work.template round<2>(row);
    }
    if constexpr (Op::rounds > 3) work.template round<3>(row);
    if constexpr (Op::rounds > 4) work.template round<4>(row);
    if constexpr (Op::outs > 0) {
        T* out[Op::outs];
#pragma unroll
        for (int m = 0; m < Op::outs; ++m) out[m] = addresses.out[m] + r * size;
        work.write(out);
    }
    if constexpr (Op::scalars > 0) {
        if (work.active && group.lane == 0) addresses.scalar[r] = row.scalar;
    }
    return work.active ? row.slope : 0.0;
}

#ifdef __CUDACC__

struct Lanes {
    int lane, lanes;

    template <class N> METHOD N total(N a) const {
        for (int offset = lanes >> 1; offset > 0; offset >>= 1) a += __shfl_xor_sync(0xffffffffu, a, offset);
        return a;
    }

    template <class N> METHOD N largest(N a) const {
        for (int offset = lanes >> 1; offset > 0; offset >>= 1) a = larger(a, __shfl_xor_sync(0xffffffffu, a, offset));
        return a;
    }

    METHOD bool any(bool a) const { return __any_sync(0xffffffffu, a); }

    template <class T> METHOD void argmin(T& least, int& where) const {
        for (int offset = lanes >> 1; offset > 0; offset >>= 1) {
            T other = __shfl_xor_sync(0xffffffffu, least, offset);
            int there = __shfl_xor_sync(0xffffffffu, where, offset);
            if (other < least || (other == least && there < where)) least = other, where = there;
        }
    }
};

constexpr int kThreads = 256;

// Sum over the threads of a block, which thread 0 returns.
FN double block_total(double a) {
    __shared__ double part[kThreads / 32];
    a = Lanes{0, 32}.total(a);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = a;
    __syncthreads();
    double sum = 0.0;
    for (int k = 0; k < kThreads / 32; ++k) sum += part[k];
    return sum;
}

// Rows n, with `lanes` lanes for each; `slope` receives the derivative by the curvature, one number a block.
template <class Op, class T, int V, int K>
FN void rows(const T* in0, const T* in1, const T* in2, const T* in3, const T* in4, const T* given,
             unsigned repeated, T* out0, T* out1, T* out2, T* scalar, double* slope, const T* c, double k, long long n, int size, int lanes) {
    const T* in[5] = {in0, in1, in2, in3, in4};
    T* out[3] = {out0, out1, out2};
    Addresses<T, Op::vectors, Op::outs> addresses = {{}, {}, given, scalar, repeated};
#pragma unroll
    for (int m = 0; m < Op::vectors; ++m) addresses.in[m] = in[m];
#pragma unroll
    for (int m = 0; m < Op::outs; ++m) addresses.out[m] = out[m];
    Curvature<T> curvature = c ? Curvature<T>{double(*c), *c} : Curvature<T>{k, T(k)};
    const Lanes group = {int(threadIdx.x) & (lanes - 1), lanes};
    const long long thread = (long long)blockIdx.x * kThreads + threadIdx.x, threads = (long long)gridDim.x * kThreads;
    double total = 0.0;
    // Whole warps stay in the loop together: their lanes exchange sums.
    for (long long first = thread & ~31LL; first / lanes < n; first += threads) {
        long long r = (first + (threadIdx.x & 31)) / lanes;
        double part = evaluate<Op, T, V, K>(group, addresses, curvature, r, n, size);
        if (group.lane == 0) total += part;
    }
    if (slope) {
        total = block_total(total);
        if (threadIdx.x == 0) slope[blockIdx.x] = total;
    }
}

#define HOLONOMY_ROWS(name, op, T, V, K)                                                                              \
    extern "C" __global__ void __launch_bounds__(holonomy::kThreads)                                                  \
        name(const T* in0, const T* in1, const T* in2, const T* in3, const T* in4, const T* given, unsigned repeated, \
             T* out0, T* out1, T* out2, T* scalar, double* slope, const T* c, double k, long long n, int size,        \
             int lanes) {                                                                                             \
        holonomy::rows<holonomy::op<T>, T, V, K>(in0, in1, in2, in3, in4, given, repeated, out0, out1, out2, scalar,  \
                                                 slope, c, k, n, size, lanes);                                        \
    }

#endif

}  // namespace holonomy
