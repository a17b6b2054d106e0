// Entropic transport: Sinkhorn's iteration in the log domain, a block for each matrix, to the end and without the host.
//
// With L = scale cost, an iteration is f = log a - log sum_j exp(L + g), then g = log b - log sum_i exp(L + f). The f
// of the next iteration says how far the rows are from their masses, so that nothing is summed for the error alone.
// Exponents, sums and potentials are float64; exp is that of the matrix' dtype, of numbers up to 0.
#pragma once

#include "block.cuh"

namespace holonomy {

constexpr int kSinkhornThreads = 256, kSinkhornWarps = kSinkhornThreads / 32;

template <class T, class B> struct Transport {
    const B& block;
    double* memory;  // 2 kSinkhornThreads numbers
    const T* cost;
    const double *a, *b;
    double *f, *g, *next;
    int n, m;
    double scale;

    METHOD double nothing() const { return -1.0 / double(T(0.0f) * T(0.0f)); }
    METHOD double logit(int i, int j) const { return scale * double(cost[(long long)i * m + j]); }
    // log mass - most - log sum; -inf where there is no mass, or no pair to carry it.
    METHOD double scaling(double mass, double most, double sum) const {
        if (mass <= 0.0 || most == nothing()) return nothing();
        return ::log(mass) - (most + ::log(sum));
    }

    // `next`, from g: a warp for each row.
    METHOD void rows() const {
        const int warp = block.thread / 32, lane = block.thread % 32;
        for (int first = 0; first < n; first += kSinkhornWarps) {
            const int i = first + warp;
            double most = nothing(), sum = 0.0;
            for (int j = lane; i < n && j < m; j += 32) {
                double e = logit(i, j) + g[j];
                most = e > most ? e : most;
            }
            most = lanes_largest(block, most, 32);
            for (int j = lane; i < n && j < m && most > nothing(); j += 32)
                sum += double(exponential(T((logit(i, j) + g[j]) - most)));
            sum = lanes_total(block, sum, 32);
            if (i < n && lane == 0) next[i] = scaling(a[i], most, sum);
        }
        block.sync();
    }

    // g, from f: 32 columns at a time, the rows divided among the warps.
    METHOD void columns() const {
        const int warp = block.thread / 32, lane = block.thread % 32;
        for (int first = 0; first < m; first += 32) {
            const int j = first + lane;
            double most = nothing(), sum = 0.0;
            for (int i = warp; j < m && i < n; i += kSinkhornWarps) {
                double e = logit(i, j) + f[i];
                most = e > most ? e : most;
            }
            memory[block.thread] = most;
            block.sync();
            for (int k = 0; k < kSinkhornWarps; ++k) most = memory[k * 32 + lane] > most ? memory[k * 32 + lane] : most;
            for (int i = warp; j < m && i < n && most > nothing(); i += kSinkhornWarps)
                sum += double(exponential(T((logit(i, j) + f[i]) - most)));
            memory[kSinkhornThreads + block.thread] = sum;
            block.sync();
            if (warp == 0 && j < m) {
                sum = 0.0;
                for (int k = 0; k < kSinkhornWarps; ++k) sum += memory[kSinkhornThreads + k * 32 + lane];
                g[j] = scaling(b[j], most, sum);
            }
        }
        block.sync();
    }

    // The largest relative error of a row.
    METHOD double error() const {
        double worst = 0.0;
        for (int i = block.thread; i < n; i += block.threads) {
            double off = ::fabs(::expm1(f[i] - next[i]));
            if (a[i] <= 0.0) off = 0.0;
            if (!(off < 1e300)) off = 1.0;  // a row that no pair reaches
            worst = off > worst ? off : worst;
        }
        return threads_largest(block, worst, memory);
    }

    METHOD void potentials() const {
        double mean = 0.0, count = 0.0;
        for (int j = block.thread; j < m; j += block.threads) {
            if (g[j] > nothing()) mean += g[j], count += 1.0;
        }
        mean = threads_total(block, mean, memory);
        count = threads_total(block, count, memory);
        mean /= count > 1.0 ? count : 1.0;
        for (int i = block.thread; i < n; i += block.threads) f[i] += mean;
        for (int j = block.thread; j < m; j += block.threads) g[j] -= mean;
        block.sync();
    }

    METHOD double off(double sum, double mass) const {
        double a = mass <= 0.0 ? 0.0 : ::fabs(sum / mass - 1.0);
        return a != a ? -nothing() : a;
    }

    // The coupling, and the largest relative error of its sums.
    METHOD double finish(T* plan) const {
        const int warp = block.thread / 32, lane = block.thread % 32;
        double worst = 0.0;
        for (int first = 0; first < n; first += kSinkhornWarps) {
            const int i = first + warp;
            double sum = 0.0;
            for (int j = lane; i < n && j < m; j += 32) {
                double p = ::exp((f[i] + g[j]) + logit(i, j));
                plan[(long long)i * m + j] = T(p);
                sum += p;
            }
            sum = lanes_total(block, sum, 32);
            if (i < n) worst = larger(worst, off(sum, a[i]));
        }
        for (int j = block.thread; j < m; j += block.threads) {
            double sum = 0.0;
            for (int i = 0; i < n; ++i) sum += ::exp((f[i] + g[j]) + logit(i, j));
            worst = larger(worst, off(sum, b[j]));
        }
        return threads_largest(block, worst, memory);
    }
};

template <class T, class B>
METHOD void sinkhorn(const B& block, char* shared, const T* cost, const double* a, const double* b, double* f,
                     double* g, double* next, T* plan, double* errors, long long* steps, int n, int m, double scale,
                     double tolerance, long long limit) {
    const long long which = block.index, row = which * n, column = which * m;
    Transport<T, B> work{block, reinterpret_cast<double*>(shared), cost + row * m, a + row, b + column, f + row,
                         g + column, next + row, n, m, scale};
    for (int j = block.thread; j < m; j += block.threads) work.g[j] = work.b[j] > 0.0 ? 0.0 : work.nothing();
    block.sync();
    work.rows();
    long long done = 0;
    while (done < limit) {
        for (int i = block.thread; i < n; i += block.threads) work.f[i] = work.next[i];
        block.sync();
        work.columns();
        work.rows();
        ++done;
        if (work.error() <= tolerance) break;
    }
    work.potentials();
    double worst = work.finish(plan + row * m);
    if (block.thread == 0) errors[which] = worst, steps[which] = done;
}

#define HOLONOMY_SINKHORN(name, T)                                                                                    \
    HOLONOMY_BLOCKS(name, 256, (const T* cost, const double* a, const double* b, double* f, double* g, double* next,  \
                                T* plan, double* errors, long long* steps, int n, int m, double scale,                \
                                double tolerance, long long limit),                                                   \
                    holonomy::sinkhorn<T>(block, shared, cost, a, b, f, g, next, plan, errors, steps, n, m, scale,    \
                                          tolerance, limit))

}  // namespace holonomy
