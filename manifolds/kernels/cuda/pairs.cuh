// All pairs of rows: distances, their gradients, and the nearest rows, tile by tile and without a matrix between.
//
// A tile of rows x_i and one of rows y_j pass through shared memory, kDepth coordinates at a time; each thread sums the
// chords of a few pairs in registers, from differences and never from products, so that close pairs keep their digits.
// The backward pass computes the tiles again. A block owns its rows, or with `chunks` its rows' share of the columns,
// and adds in one order: no result depends on chance. The gradient in y is that in x with the roles exchanged.
//
// A kind of pairs is a struct with
//
//     Factor, factor(f, count, i)   what row i brings besides its coordinates; `count` rows lie between its numbers,
//     Slant, slant(x, y)            what the sums need of a pair beforehand,
//     sums, add(t, x, y, s)         the sums, and what one coordinate adds to them,
//     value, key                    the distance, and a number that grows with it,
//     weights, slopes, pull         the gradient: numbers of a pair, two terms that are summed over the row, and what
//                                   one coordinate of the row's gradient gets from a pair.
#pragma once

#include "block.cuh"
#include "even.cuh"

namespace holonomy {

constexpr int kPairThreads = 256, kDepth = 16;

// -- kinds ---------------------------------------------------------------------------------------------------------

// scale arsinh(sqrt(q)), q = a_i b_j |x_i - y_j|^2.
template <class T> struct BallPairs {
    static constexpr int sums = 1, weights = 1;
    struct Factor {
        T a = T(0);
    };
    struct Slant {};
    METHOD static Factor factor(const T* f, long long, long long i) { return {f[i]}; }
    METHOD static Slant slant(Factor, Factor) { return {}; }
    METHOD static void add(Slant, T x, T y, T* s) {
        T h = x - y;
        s[0] += h * h;
    }
    METHOD static T key(Factor x, Factor y, const T* s, T) { return s[0] * (x.a * y.a); }
    METHOD static T value(Factor x, Factor y, const T* s, T c, T scale) { return scale * arsinh_root(key(x, y, s, c)); }
    METHOD static void slopes(Factor x, Factor y, const T* s, T c, T g, T* w, T* rest) {
        T q = key(x, y, s, c), slope = q == T(0) ? T(0) : T(0.5) * g / (root(q) * root(T(1) + q));
        w[0] = T(2) * slope * (x.a * y.a);
        rest[0] = slope * q;
    }
    METHOD static T pull(const T* w, T x, T y) { return w[0] * (x - y); }
};

// 2 atan2(|x_i - y_j|, |x_i + y_j|).
template <class T> struct SpherePairs {
    static constexpr int sums = 2, weights = 2;
    struct Factor {};
    struct Slant {};
    METHOD static Factor factor(const T*, long long, long long) { return {}; }
    METHOD static Slant slant(Factor, Factor) { return {}; }
    METHOD static void add(Slant, T x, T y, T* s) {
        T h = x - y, t = x + y;
        s[0] += h * h;
        s[1] += t * t;
    }
    // From chord to cochord the key goes on where the shorter of the two tells more.
    METHOD static T key(Factor, Factor, const T* s, T) {
        return s[0] <= s[1] ? root(s[0]) : T(2.8284271247461903) - root(s[1]);
    }
    METHOD static T value(Factor, Factor, const T* s, T, T) { return T(2) * arc_tangent(root(s[0]), root(s[1])); }
    METHOD static void slopes(Factor, Factor, const T* s, T, T g, T* w, T* rest) {
        T product = root(s[0] * s[1]);
        T inverse = product == T(0) ? T(0) : T(2) * g / product;
        bool near = s[0] <= s[1];
        T turn = T(2) * inverse / (s[0] + s[1]);
        w[0] = near ? inverse : T(0);
        w[1] = near ? T(0) : -inverse;
        // What the gradient has along x_i, which the difference alone would leave wrong.
        rest[0] = (near ? -s[0] : s[1]) * turn;
    }
    METHOD static T pull(const T* w, T x, T y) { return w[0] * (x - y) + w[1] * (x + y); }
};

// scale arsinh(sqrt(q)) of space parts, q = (c |k|^2 T^2/4 + a^2)/(4 x_0 y_0); k, a, T as in lorentz.cuh. The factors
// are the time, what its rounding lost, and its inverse.
template <class T> struct LorentzPairs {
    static constexpr int sums = 1, weights = 3;
    struct Factor {
        T time = T(1), low = T(0), inverse = T(1);
    };
    struct Slant {
        T near, left, right;
    };
    METHOD static Factor factor(const T* f, long long count, long long i) {
        return {f[i], f[count + i], f[2 * count + i]};
    }
    METHOD static T rise(Factor x, Factor y) { return (x.time - y.time) + (x.low - y.low); }
    METHOD static Slant slant(Factor x, Factor y) {
        T total = x.time + y.time, r = rise(x, y) / total;
        if (r * r < T(0.25)) return {T(1), -r, r};
        return {T(0), T(2) * y.time / total, T(2) * x.time / total};
    }
    METHOD static T between(T near, T left, T right, T x, T y) { return near * (x - y) + (left * x - right * y); }
    METHOD static void add(Slant t, T x, T y, T* s) {
        T k = between(t.near, t.left, t.right, x, y);
        s[0] += k * k;
    }
    // The first term of q.
    METHOD static T across(Factor x, Factor y, const T* s, T c) {
        T total = x.time + y.time;
        return (T(0.0625) * c) * s[0] * ((total * x.inverse) * (total * y.inverse));
    }
    METHOD static T key(Factor x, Factor y, const T* s, T c) {
        T a = rise(x, y);
        return across(x, y, s, c) + T(0.25) * ((a * x.inverse) * (a * y.inverse));
    }
    METHOD static T value(Factor x, Factor y, const T* s, T c, T scale) { return scale * arsinh_root(key(x, y, s, c)); }
    METHOD static void slopes(Factor x, Factor y, const T* s, T c, T g, T* w, T* rest) {
        T q = key(x, y, s, c), slope = q == T(0) ? T(0) : T(0.5) * g / (root(q) * root(T(1) + q));
        T weight = T(0.25) * c * slope * (x.time + y.time);
        Slant t = slant(x, y);
        w[0] = weight * t.near, w[1] = weight * t.left, w[2] = weight * t.right;
        // <k, x_i> of the sum, known better than k itself far from the origin; and q's derivative by c, times c.
        rest[0] = T(0.5) * slope * (rise(x, y) + T(2) * q * x.time);
        rest[1] = slope * across(x, y, s, c);
    }
    METHOD static T pull(const T* w, T x, T y) { return between(w[0], w[1], w[2], x, y); }
};

// -- tiles ---------------------------------------------------------------------------------------------------------

template <class T> struct Points {
    const T* at;      // (batches, size, d)
    const T* factor;  // of all batches, one part after the other
    int size;         // points of a batch
};

// Tiles of `edge` rows and columns; thread t has rows t/16, t/16 + 16, ... and columns t%16, t%16 + 16, ...
template <class Kind, class T, int V, int edge, class B> struct Tiles {
    static constexpr int each = edge / 16, stride = edge + 1;
    static constexpr int bytes = 2 * kDepth * stride * int(sizeof(T));
    const B& block;
    T *xs, *ys;  // of a coordinate one row after the other; an odd stride keeps threads off each other's banks
    Points<T> x, y;
    int batches, d;
    long long batch;
    T s[each][each][Kind::sums];
    typename Kind::Factor fx[each], fy[each];

    METHOD Tiles(const B& b, char* shared, Points<T> rows, Points<T> columns, int count, int size, long long which)
        : block(b), xs(reinterpret_cast<T*>(shared)), ys(xs + kDepth * stride), x(rows), y(columns), batches(count),
          d(size), batch(which) {}
    METHOD int row(int r) const { return block.thread / 16 + 16 * r; }
    METHOD int column(int c) const { return block.thread % 16 + 16 * c; }

    METHOD void stage(T* to, const Points<T>& p, int first, int k0) const {
        constexpr int packs = kDepth / V;
        for (int e = block.thread; e < edge * packs; e += kPairThreads) {
            int r = e / packs, k = e % packs * V;
            Pack<T, V> v = {};
            if (first + r < p.size && k0 + k < d)
                v = *reinterpret_cast<const Pack<T, V>*>(p.at + (batch * p.size + first + r) * d + k0 + k);
#pragma unroll
            for (int j = 0; j < V; ++j) to[(k + j) * stride + r] = v.e[j];
        }
    }
    METHOD void stage(int i0, int j0, int k0) const {
        block.sync();  // the last coordinates may still be read
        stage(xs, x, i0, k0);
        stage(ys, y, j0, k0);
        block.sync();
    }
    METHOD typename Kind::Factor factor(const Points<T>& p, int i) const {
        if (i >= p.size) return {};
        return Kind::factor(p.factor, (long long)batches * p.size, batch * p.size + i);
    }

    // The sums of the pairs from row i0 and column j0 on.
    METHOD void sum(int i0, int j0) {
        typename Kind::Slant slants[each][each];
#pragma unroll
        for (int r = 0; r < each; ++r) fx[r] = factor(x, i0 + row(r)), fy[r] = factor(y, j0 + column(r));
#pragma unroll
        for (int r = 0; r < each; ++r) {
#pragma unroll
            for (int c = 0; c < each; ++c) {
                slants[r][c] = Kind::slant(fx[r], fy[c]);
#pragma unroll
                for (int m = 0; m < Kind::sums; ++m) s[r][c][m] = T(0);
            }
        }
        for (int k0 = 0; k0 < d; k0 += kDepth) {
            stage(i0, j0, k0);
            // Of the staged coordinates first: the rounding of a long sum grows with the number of its parts.
            T part[each][each][Kind::sums] = {};
            for (int k = 0; k < kDepth; ++k) {
                T u[each], v[each];
#pragma unroll
                for (int r = 0; r < each; ++r) u[r] = xs[k * stride + row(r)], v[r] = ys[k * stride + column(r)];
#pragma unroll
                for (int r = 0; r < each; ++r) {
#pragma unroll
                    for (int c = 0; c < each; ++c) Kind::add(slants[r][c], u[r], v[c], part[r][c]);
                }
            }
#pragma unroll
            for (int r = 0; r < each; ++r) {
#pragma unroll
                for (int c = 0; c < each; ++c) {
#pragma unroll
                    for (int m = 0; m < Kind::sums; ++m) s[r][c][m] += part[r][c][m];
                }
            }
        }
    }
};

// -- values --------------------------------------------------------------------------------------------------------

template <class Kind, class T, int V, int edge, class B>
METHOD void pairs_forward(const B& block, char* shared, Points<T> x, Points<T> y, const T* c, double scale, T* out,
                          int batches, int d) {
    const int across = (y.size + edge - 1) / edge, down = (x.size + edge - 1) / edge;
    const int j0 = int(block.index % across) * edge, i0 = int(block.index / across % down) * edge;
    const long long batch = block.index / across / down;
    Tiles<Kind, T, V, edge, B> tiles(block, shared, x, y, batches, d, batch);
    tiles.sum(i0, j0);
#pragma unroll
    for (int r = 0; r < tiles.each; ++r) {
#pragma unroll
        for (int m = 0; m < tiles.each; ++m) {
            int i = i0 + tiles.row(r), j = j0 + tiles.column(m);
            if (i < x.size && j < y.size)
                out[(batch * x.size + i) * y.size + j] =
                    Kind::value(tiles.fx[r], tiles.fy[m], tiles.s[r][m], c[batch], T(scale));
        }
    }
}

// -- gradients -----------------------------------------------------------------------------------------------------

// The columns of a chunk, of `chunks` that share them: from `first` to before `last`, in whole tiles.
struct Chunk {
    int first, last;
    METHOD Chunk(int columns, int edge, int chunks, int which) {
        int each = ((columns + edge - 1) / edge + chunks - 1) / chunks * edge;
        first = which * each;
        last = first + each < columns ? first + each : columns;
    }
};

// Sums over the columns of what the rows get: `sums` (chunks, batches, n, d) and `rest` (chunks, batches, n, 2). The
// gradient that arrives is read with its strides by batch, row and column.
template <class Kind, class T, int V, int edge, class B>
METHOD void pairs_backward(const B& block, char* shared, Points<T> x, Points<T> y, const T* c, double scale,
                           const T* given, long long by_batch, long long by_row, long long by_column, double* sums,
                           double* rest, int batches, int d, int chunks) {
    using Work = Tiles<Kind, T, V, edge, B>;
    constexpr int W = Kind::weights, stride = Work::stride;
    const int down = (x.size + edge - 1) / edge, which = int(block.index % chunks);
    const int i0 = int(block.index / chunks % down) * edge;
    const long long batch = block.index / chunks / down, part = which * (long long)batches + batch;
    Work tiles(block, shared, x, y, batches, d, batch);
    T* weight = reinterpret_cast<T*>(shared + Work::bytes);  // (W, edge, stride)
    const Chunk chunk(y.size, edge, chunks, which);
    double terms[Work::each][2] = {};
    for (int j0 = chunk.first; j0 < chunk.last; j0 += edge) {
        tiles.sum(i0, j0);
#pragma unroll
        for (int r = 0; r < tiles.each; ++r) {
#pragma unroll
            for (int m = 0; m < tiles.each; ++m) {
                int i = i0 + tiles.row(r), j = j0 + tiles.column(m);
                T w[W] = {}, t[2] = {};
                if (i < x.size && j < y.size) {
                    T g = T(scale) * given[batch * by_batch + i * by_row + j * by_column];
                    Kind::slopes(tiles.fx[r], tiles.fy[m], tiles.s[r][m], c[batch], g, w, t);
                }
#pragma unroll
                for (int k = 0; k < W; ++k) weight[(k * edge + tiles.row(r)) * stride + tiles.column(m)] = w[k];
                terms[r][0] += double(t[0]), terms[r][1] += double(t[1]);
            }
        }
        for (int k0 = 0; k0 < d; k0 += kDepth) {
            tiles.stage(i0, j0, k0);  // its barriers are those of the weights too
            for (int e = block.thread; e < edge * kDepth; e += kPairThreads) {
                int r = e / kDepth, k = e % kDepth;
                T total = T(0), at = tiles.xs[k * stride + r];
                for (int j = 0; j < edge; ++j) {
                    T w[W];
#pragma unroll
                    for (int m = 0; m < W; ++m) w[m] = weight[(m * edge + r) * stride + j];
                    total += Kind::pull(w, at, tiles.ys[k * stride + j]);
                }
                if (i0 + r < x.size && k0 + k < d) {
                    double* place = sums + ((part * x.size + i0 + r) * d + k0 + k);
                    *place = (j0 == chunk.first ? 0.0 : *place) + double(total);
                }
            }
        }
    }
#pragma unroll
    for (int r = 0; r < tiles.each; ++r) {
#pragma unroll
        for (int m = 0; m < 2; ++m) {
            double total = lanes_total(block, terms[r][m], 16);
            int i = i0 + tiles.row(r);
            if (block.thread % 16 == 0 && i < x.size) rest[(part * x.size + i) * 2 + m] = total;
        }
    }
}

// -- nearest rows --------------------------------------------------------------------------------------------------

// The k nearest columns of every row within a chunk, nearest first, those of one distance by their number; places that
// no finite distance took have the number -1. With skip > 0 not column i of row i, where every `skip` rows are counted
// anew.
template <class Kind, class T, int V, int edge, class B>
METHOD void pairs_nearest(const B& block, char* shared, Points<T> x, Points<T> y, const T* c, T* keys,
                          long long* indices, int batches, int d, int k, int skip, int chunks) {
    using Work = Tiles<Kind, T, V, edge, B>;
    constexpr int stride = Work::stride;
    const int down = (x.size + edge - 1) / edge, which = int(block.index % chunks);
    const int i0 = int(block.index / chunks % down) * edge;
    const long long batch = block.index / chunks / down, part = which * (long long)batches + batch;
    Work tiles(block, shared, x, y, batches, d, batch);
    T* found = reinterpret_cast<T*>(shared + Work::bytes);  // (edge, stride)
    const Chunk chunk(y.size, edge, chunks, which);
    // One thread looks through a row of the tile: after the first columns it hardly ever writes.
    const int row = i0 + block.thread;
    const bool looks = block.thread < edge && row < x.size;
    T* best = keys + (part * x.size + row) * k;
    long long* where = indices + (part * x.size + row) * k;
    const T nothing = T(1) / T(0.0f);
    if (looks) {
        for (int m = 0; m < k; ++m) best[m] = nothing, where[m] = -1;
    }
    T worst = nothing;
    for (int j0 = chunk.first; j0 < chunk.last; j0 += edge) {
        tiles.sum(i0, j0);
#pragma unroll
        for (int r = 0; r < tiles.each; ++r) {
#pragma unroll
            for (int m = 0; m < tiles.each; ++m)
                found[tiles.row(r) * stride + tiles.column(m)] =
                    Kind::key(tiles.fx[r], tiles.fy[m], tiles.s[r][m], c[batch]);
        }
        block.sync();
        if (!looks) continue;
        const int itself = skip > 0 ? row % skip : -1;
        for (int j = 0; j < edge && j0 + j < y.size; ++j) {
            T key = found[block.thread * stride + j];
            if (!(key < worst) || j0 + j == itself) continue;
            int at = k - 1;
            for (; at > 0 && best[at - 1] > key; --at) best[at] = best[at - 1], where[at] = where[at - 1];
            best[at] = key, where[at] = j0 + j;
            worst = best[k - 1];
        }
    }
}

// Fill the places with number -1 with the lowest numbers that a row has not; one thread a row.
template <class B> METHOD void pairs_complete(const B& block, long long* indices, long long rows, int k, int skip) {
    const long long row = block.index * block.threads + block.thread;
    if (row >= rows) return;
    long long* where = indices + row * k;
    long long next = 0;
    for (int at = 0; at < k; ++at) {
        while (where[at] < 0) {
            bool free = !(skip > 0 && next == row % skip);
            for (int m = 0; m < k; ++m) free = free && where[m] != next;
            if (free) where[at] = next;
            ++next;
        }
    }
}

// -- times of the hyperboloid --------------------------------------------------------------------------------------

FN double fused_multiply_add(double a, double b, double c) { return ::fma(a, b, c); }

// A sum with what its roundings lost.
struct Exact {
    double sum = 0.0, lost = 0.0;
    METHOD void plus(double a, double extra) {
        double s = sum + a, t = s - sum;  // Knuth
        lost += (sum - (s - t)) + (a - t) + extra;
        sum = s;
    }
};

// sqrt(1/c + |x|^2) with twice the digits of x, as two numbers, and the inverse: (3, batches n). 32 threads a row.
template <class T, class B>
METHOD void pairs_times(const B& block, const T* x, const double* c, T* out, long long rows, int size, int d) {
    const long long row = block.index * (block.threads / 32) + block.thread / 32;
    const int lane = block.thread % 32;
    const bool active = row < rows;
    Exact total;
    for (int k = lane; active && k < d; k += 32) {
        double a = double(x[row * d + k]), p = a * a;
        total.plus(p, Real<T>::single ? 0.0 : fused_multiply_add(a, a, -p));
    }
    for (int bit = 16; bit > 0; bit >>= 1) {
        double other = block.across(total.sum, bit), lost = block.across(total.lost, bit);
        total.plus(other, lost);
    }
    if (!active || lane > 0) return;
    total.plus(1.0 / c[row / size], 0.0);
    double high = ::sqrt(total.sum), p = high * high;
    double low = ((total.sum - p) - fused_multiply_add(high, high, -p) + total.lost) / (2.0 * high);
    T rounded = T(high);
    out[row] = rounded;
    out[rows + row] = T((high - double(rounded)) + low);
    out[2 * rows + row] = T(1) / rounded;
}

#define HOLONOMY_PAIRS_FORWARD(name, kind, T, V, edge)                                                                \
    HOLONOMY_BLOCKS(name, 256, (const T* x, const T* y, const T* left, const T* right, const T* c, double scale,      \
                                T* out, int batches, int n, int m, int d),                                            \
                    holonomy::pairs_forward<holonomy::kind<T>, T, V, edge>(block, shared, {x, left, n},               \
                                                                           {y, right, m}, c, scale, out, batches, d))

#define HOLONOMY_PAIRS_BACKWARD(name, kind, T, V, edge)                                                               \
    HOLONOMY_BLOCKS(name, 256, (const T* x, const T* y, const T* left, const T* right, const T* c, double scale,      \
                                const T* given, long long by_batch, long long by_row, long long by_column,            \
                                double* sums, double* rest, int batches, int n, int m, int d, int chunks),            \
                    holonomy::pairs_backward<holonomy::kind<T>, T, V, edge>(                                          \
                        block, shared, {x, left, n}, {y, right, m}, c, scale, given, by_batch, by_row, by_column,     \
                        sums, rest, batches, d, chunks))

#define HOLONOMY_PAIRS_NEAREST(name, kind, T, V, edge)                                                                \
    HOLONOMY_BLOCKS(name, 256, (const T* x, const T* y, const T* left, const T* right, const T* c, T* keys,           \
                                long long* indices, int batches, int n, int m, int d, int k, int skip, int chunks),   \
                    holonomy::pairs_nearest<holonomy::kind<T>, T, V, edge>(block, shared, {x, left, n},               \
                                                                           {y, right, m}, c, keys, indices, batches,  \
                                                                           d, k, skip, chunks))

#define HOLONOMY_PAIRS_COMPLETE(name)                                                                                 \
    HOLONOMY_BLOCKS(name, 256, (long long* indices, long long rows, int k, int skip),                                 \
                    holonomy::pairs_complete(block, indices, rows, k, skip))

#define HOLONOMY_PAIRS_TIMES(name, T)                                                                                 \
    HOLONOMY_BLOCKS(name, 256, (const T* x, const double* c, T* out, long long rows, int size, int d),                \
                    holonomy::pairs_times<T>(block, x, c, out, rows, size, d))

}  // namespace holonomy
