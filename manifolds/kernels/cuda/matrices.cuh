// Products of tall n x p matrices, and algebra of p x p ones in float64, by a block of threads; p up to 32.
//
// A slot is a p x p matrix in the block's workspace, named by its number. Every operation ends at a barrier.
#pragma once

#include "block.cuh"

namespace holonomy {

constexpr int kMatrixThreads = 256, kSweeps = 30, kRows = 8;

template <class T, class B> struct Matrices {
    const B& block;
    double* memory;  // kMatrixThreads + 64 numbers
    T *left, *right;  // p x p, in the dtype of the tall matrices
    double* work;
    int n, p;

    METHOD Matrices(const B& b, char* shared, double* workspace, int rows, int columns)
        : block(b), memory(reinterpret_cast<double*>(shared)),
          left(reinterpret_cast<T*>(memory + kMatrixThreads + 64)), right(left + columns * columns), work(workspace),
          n(rows), p(columns) {}

    METHOD double* slot(int k) const { return work + k * p * p; }
    METHOD double& at(int k, int i, int j) const { return work[(k * p + i) * p + j]; }

    // action(i, j) for every entry.
    template <class Action> METHOD void each(Action action) const {
        for (int e = block.thread; e < p * p; e += block.threads) action(e / p, e % p);
        block.sync();
    }
    METHOD void copy(int out, int a) const {
        each([&](int i, int j) { at(out, i, j) = at(a, i, j); });
    }
    METHOD void scaled_identity(int out, double factor) const {
        each([&](int i, int j) { at(out, i, j) = i == j ? factor : 0.0; });
    }
    METHOD void clear(int out) const { scaled_identity(out, 0.0); }
    METHOD void scale(int out, double factor) const {
        each([&](int i, int j) { at(out, i, j) *= factor; });
    }
    METHOD void add_scaled(int out, double factor, int a) const {
        each([&](int i, int j) { at(out, i, j) += factor * at(a, i, j); });
    }
    METHOD void transpose(int out, int a) const {
        each([&](int i, int j) { at(out, i, j) = at(a, j, i); });
    }
    METHOD void symmetrize(int a) const {
        each([&](int i, int j) {
            if (j < i) at(a, i, j) = at(a, j, i) = 0.5 * (at(a, i, j) + at(a, j, i));
        });
    }
    METHOD double entry(int a, int b, int i, int j) const {
        double s = 0.0;
        for (int k = 0; k < p; ++k) s += at(a, i, k) * at(b, k, j);
        return s;
    }
    OUTLINE void product(int out, int a, int b) const {
        each([&](int i, int j) { at(out, i, j) = entry(a, b, i, j); });
    }
    OUTLINE void add_product(int out, double factor, int a, int b) const {
        each([&](int i, int j) { at(out, i, j) += factor * entry(a, b, i, j); });
    }
    METHOD double frobenius(int a) const {
        double s = 0.0;
        for (int e = block.thread; e < p * p; e += block.threads) s += slot(a)[e] * slot(a)[e];
        return ::sqrt(threads_total(block, s, memory));
    }
    METHOD double trace(int a) const {
        double s = 0.0;
        for (int i = 0; i < p; ++i) s += at(a, i, i);
        return s;
    }
    METHOD void narrow(T* out, int a, double factor) const {
        each([&](int i, int j) { out[i * p + j] = T(factor * at(a, i, j)); });
    }

    // out = x^T y of tall matrices. Few entries: threads divide the rows among them.
    OUTLINE void gram(int out, const T* x, const T* y) const {
        const int entries = p * p, parts = block.threads > entries ? block.threads / entries : 1;
        const int part = block.thread / entries;
        if (parts == 1) {
            each([&](int i, int j) {
                double s = 0.0;
#pragma unroll 8
                for (int r = 0; r < n; ++r) s += double(x[r * (long long)p + i]) * double(y[r * (long long)p + j]);
                at(out, i, j) = s;
            });
            return;
        }
        double s = 0.0;
        const int i = block.thread % entries / p, j = block.thread % p;
        const int last = part < parts ? n : 0;
#pragma unroll 8
        for (int r = part; r < last; r += parts)
            s += double(x[r * (long long)p + i]) * double(y[r * (long long)p + j]);
        memory[block.thread] = s;
        block.sync();
        each([&](int i, int j) {
            double total = 0.0;
            for (int k = 0; k < parts; ++k) total += memory[k * entries + i * p + j];
            at(out, i, j) = total;
        });
    }

    // y = x left + u right; u may be null. A thread has one column of several rows at a time, so that their loads
    // do not wait for each other.
    OUTLINE void combine(T* y, const T* x, const T* u) const {
        for (int first = 0; first < n; first += strip()) {
            T s[kRows] = {};
            add_strip(x, left, first, s);
            if (u) add_strip(u, right, first, s);
            write_strip(y, first, s);
        }
        block.sync();
    }
    // y = y left in place: some whole rows at a time, read by all threads before one writes.
    OUTLINE void multiply(T* y) const {
        for (int first = 0; first < n; first += strip()) {
            T s[kRows] = {};
            add_strip(y, left, first, s);
            block.sync();
            write_strip(y, first, s);
        }
        block.sync();
    }
    METHOD int strip() const { return kRows * (block.threads / p); }
    METHOD int strip_row(int first, int q) const { return first + q * (block.threads / p) + block.thread / p; }
    METHOD bool in_strip(int r) const { return block.thread < block.threads / p * p && r < n; }
    METHOD void add_strip(const T* x, const T* factor, int first, T (&s)[kRows]) const {
        const int j = block.thread % p;
        for (int i = 0; i < p; ++i) {
            const T f = factor[i * p + j];
#pragma unroll
            for (int q = 0; q < kRows; ++q) {
                const int r = strip_row(first, q);
                if (in_strip(r)) s[q] += x[r * (long long)p + i] * f;
            }
        }
    }
    METHOD void write_strip(T* y, int first, const T (&s)[kRows]) const {
#pragma unroll
        for (int q = 0; q < kRows; ++q) {
            const int r = strip_row(first, q);
            if (in_strip(r)) y[r * (long long)p + block.thread % p] = s[q];
        }
    }

    // out = r^(-1), upper triangular, where a = r^T r; a is overwritten. NaN where a is not positive definite.
    OUTLINE void cholesky_inverse(int a, int out) const {
        for (int k = 0; k < p; ++k) {
            double s = 1.0 / ::sqrt(at(a, k, k));
            block.sync();
            for (int j = k + block.thread; j < p; j += block.threads) at(a, k, j) *= s;
            block.sync();
            each([&](int i, int j) {
                if (i > k && j >= i) at(a, i, j) -= at(a, k, i) * at(a, k, j);
            });
        }
        for (int j = block.thread; j < p; j += block.threads) {
            for (int i = p - 1; i >= 0; --i) {
                double s = i == j ? 1.0 : 0.0;
                for (int k = i + 1; k <= j; ++k) s -= at(a, i, k) * at(out, k, j);
                at(out, i, j) = i > j ? 0.0 : s / at(a, i, i);
            }
        }
        block.sync();
    }

    // Eigenvalues on the diagonal of a, eigenvectors as rows: a symmetric and overwritten. Jacobi's method, a round of
    // disjoint pairs at a time. Rotations stop where an entry is below rounding relative to its two diagonal entries.
    OUTLINE void eigh(int a, int vectors) const {
        scaled_identity(vectors, 1.0);
        const int even = p + p % 2, pairs = even / 2;
        double* turns = memory + 64;  // cosine and sine of each pair; `threads_total` has the numbers before
        for (int sweep = 0; sweep < kSweeps; ++sweep) {
            double turned = 0.0;
            for (int round = 0; round < even - 1; ++round) {
                // A tournament: the last plays `round`, the others those at equal distance on either side of it.
                const auto first = [&](int t) { return t == 0 ? even - 1 : (round + t) % (even - 1); };
                const auto second = [&](int t) { return t == 0 ? round : (round - t + even - 1) % (even - 1); };
                for (int t = block.thread; t < pairs; t += block.threads) {
                    const int i = first(t), k = second(t);
                    double c = 1.0, s = 0.0;
                    if (i < p && k < p) {
                        double app = at(a, i, i), aqq = at(a, k, k), apq = at(a, i, k);
                        if (::fabs(apq) > 1e-16 * ::sqrt(::fabs(app * aqq)) + 1e-300) {
                            double tangent = 0.5 * (aqq - app) / apq;
                            double length = ::sqrt(1.0 + tangent * tangent);
                            tangent = (tangent < 0.0 ? -1.0 : 1.0) / (::fabs(tangent) + length);
                            c = 1.0 / ::sqrt(1.0 + tangent * tangent);
                            s = tangent * c;
                            turned += 1.0;
                        }
                    }
                    turns[2 * t] = c, turns[2 * t + 1] = s;
                }
                block.sync();
                for (int e = block.thread; e < pairs * p; e += block.threads) {
                    const int t = e / p, j = e % p, i = first(t), k = second(t);
                    if (i >= p || k >= p) continue;
                    const double c = turns[2 * t], s = turns[2 * t + 1];
                    double x = at(a, i, j), y = at(a, k, j);
                    at(a, i, j) = c * x - s * y, at(a, k, j) = s * x + c * y;
                    x = at(vectors, i, j), y = at(vectors, k, j);
                    at(vectors, i, j) = c * x - s * y, at(vectors, k, j) = s * x + c * y;
                }
                block.sync();
                for (int e = block.thread; e < pairs * p; e += block.threads) {
                    const int t = e / p, r = e % p, i = first(t), k = second(t);
                    if (i >= p || k >= p) continue;
                    const double c = turns[2 * t], s = turns[2 * t + 1], x = at(a, r, i), y = at(a, r, k);
                    const bool done = s != 0.0;
                    at(a, r, i) = done && r == k ? 0.0 : c * x - s * y;
                    at(a, r, k) = done && r == i ? 0.0 : s * x + c * y;
                }
                block.sync();
            }
            if (threads_total(block, turned, memory) == 0.0) break;
        }
    }
};

}  // namespace holonomy
