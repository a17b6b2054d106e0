// B-splines and Chebyshev polynomials at many points, and sums of their derivatives with given numbers.
#pragma once

#include "block.cuh"

namespace holonomy {

constexpr int kBasisThreads = 128, kMostDegree = 7, kAtOnce = 16;

// -- B-splines -----------------------------------------------------------------------------------------------------

// The functions that are not 0 at a point: `value[r]` is that of number first + r, r = 0, ..., degree, or its
// derivative of given order. The recursion of de Boor and Cox, with 0/0 = 0 for functions on empty intervals.
template <class T> struct Splines {
    int first;
    T value[kMostDegree + 1];

    METHOD Splines(T x, const T* knots, int count, int degree, int order) : first(-kMostDegree - 1) {
#pragma unroll
        for (int r = 0; r <= kMostDegree; ++r) value[r] = T(0);
        const T end = knots[count - 1];
        if (!(x >= knots[0] && x <= end) || order > degree) return;
        // The last knot that is not above x; for the end itself the last one below: that interval is closed.
        int low = 0, high = count - 1;
        while (high - low > 1) {
            int middle = (low + high) / 2;
            if (knots[middle] <= x && knots[middle] < end) low = middle;
            else high = middle;
        }
        first = low - degree;
        value[0] = T(1);
#pragma unroll
        for (int q = 1; q <= kMostDegree; ++q) {
            if (q > degree) break;
            // Downwards, so that value[r - 1] and value[r] are those of degree q - 1 still.
#pragma unroll
            for (int r = kMostDegree; r >= 0; --r) {
                if (r > q) continue;
                const int j = low - q + r;
                T next = T(0);
                if (j >= 0 && j + q + 1 < count) {
                    T before = r > 0 ? over_length(value[r > 0 ? r - 1 : 0], knots[j + q] - knots[j]) : T(0);
                    T after = r < q ? over_length(value[r], knots[j + q + 1] - knots[j + 1]) : T(0);
                    next = q <= degree - order ? (x - knots[j]) * before + (knots[j + q + 1] - x) * after
                                               : T(q) * (before - after);
                }
                value[r] = next;
            }
        }
    }
    METHOD static T over_length(T a, T length) { return length > T(0) ? a * (T(1) / length) : T(0); }
};

// All functions at each of `total` points, (total, size); points come in rows of `features`, each with its own knots.
template <class T, class B>
METHOD void bspline_values(const B& block, char* shared, const T* x, const T* knots, T* out, long long total,
                           int features, int count, int degree, int order) {
    const int size = count - degree - 1, stride = kMostDegree + 1;
    T* values = reinterpret_cast<T*>(shared);                                      // (points, stride)
    int* firsts = reinterpret_cast<int*>(values + kBasisThreads * stride);          // (points)
    const long long start = block.index * kBasisThreads, i = start + block.thread;
    if (i < total) {
        Splines<T> splines(x[i], knots + i % features * count, count, degree, order);
        firsts[block.thread] = splines.first;
#pragma unroll
        for (int r = 0; r <= kMostDegree; ++r) values[block.thread * stride + r] = splines.value[r];
    }
    block.sync();
    const long long points = total - start < kBasisThreads ? total - start : kBasisThreads;
    for (long long e = block.thread; e < points * size; e += kBasisThreads) {
        int point = int(e / size), r = int(e % size) - firsts[point];
        out[start * size + e] = r >= 0 && r <= degree ? values[point * stride + r] : T(0);
    }
}

// Sums over the functions of g (total, size) times what `bspline_values` gives.
template <class T, class B>
METHOD void bspline_pull(const B& block, const T* g, const T* x, const T* knots, T* out, long long total, int features,
                         int count, int degree, int order) {
    const int size = count - degree - 1;
    const long long i = block.index * kBasisThreads + block.thread;
    if (i >= total) return;
    Splines<T> splines(x[i], knots + i % features * count, count, degree, order);
    T sum = T(0);
#pragma unroll
    for (int r = 0; r <= kMostDegree; ++r) {
        int k = splines.first + r;
        if (r <= degree && k >= 0 && k < size) sum += g[i * size + k] * splines.value[r];
    }
    out[i] = sum;
}

// -- Chebyshev polynomials -----------------------------------------------------------------------------------------

// T_0, ..., T_(size - 1) at each point, (total, size), kAtOnce polynomials at a time.
template <class T, class B>
METHOD void chebyshev_values(const B& block, char* shared, const T* x, T* out, long long total, int size) {
    T* values = reinterpret_cast<T*>(shared);  // (points, kAtOnce + 1)
    const long long start = block.index * kBasisThreads, i = start + block.thread;
    const long long points = total - start < kBasisThreads ? total - start : kBasisThreads;
    const T at = i < total ? x[i] : T(0), twice = at + at;
    T before = at, now = T(1);  // T_(-1) = T_1
    for (int k0 = 0; k0 < size; k0 += kAtOnce) {
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
            values[block.thread * (kAtOnce + 1) + k] = now;
            T after = twice * now - before;
            before = now, now = after;
        }
        block.sync();
        for (int e = block.thread; e < points * kAtOnce; e += kBasisThreads) {
            int point = e / kAtOnce, k = e % kAtOnce;
            if (k0 + k < size) out[(start + point) * size + k0 + k] = values[point * (kAtOnce + 1) + k];
        }
        block.sync();
    }
}

// sum_n g_n n U_(n-1)(x).
template <class T, class B>
METHOD void chebyshev_pull(const B& block, const T* g, const T* x, T* out, long long total, int size) {
    const long long i = block.index * kBasisThreads + block.thread;
    if (i >= total) return;
    const T twice = x[i] + x[i];
    T before = T(0), now = T(1), sum = T(0);  // U_(-1), U_0
    for (int k = 1; k < size; ++k) {
        sum += g[i * size + k] * (now * T(k));
        T after = twice * now - before;
        before = now, now = after;
    }
    out[i] = sum;
}

#define HOLONOMY_BSPLINE_VALUES(name, T)                                                                              \
    HOLONOMY_BLOCKS(name, 128, (const T* x, const T* knots, T* out, long long total, int features, int count,         \
                                int degree, int order),                                                               \
                    holonomy::bspline_values<T>(block, shared, x, knots, out, total, features, count, degree, order))

#define HOLONOMY_BSPLINE_PULL(name, T)                                                                                \
    HOLONOMY_BLOCKS(name, 128, (const T* g, const T* x, const T* knots, T* out, long long total, int features,        \
                                int count, int degree, int order),                                                    \
                    holonomy::bspline_pull<T>(block, g, x, knots, out, total, features, count, degree, order))

#define HOLONOMY_CHEBYSHEV_VALUES(name, T)                                                                            \
    HOLONOMY_BLOCKS(name, 128, (const T* x, T* out, long long total, int size),                                       \
                    holonomy::chebyshev_values<T>(block, shared, x, out, total, size))

#define HOLONOMY_CHEBYSHEV_PULL(name, T)                                                                              \
    HOLONOMY_BLOCKS(name, 128, (const T* g, const T* x, T* out, long long total, int size),                           \
                    holonomy::chebyshev_pull<T>(block, g, x, out, total, size))

}  // namespace holonomy
