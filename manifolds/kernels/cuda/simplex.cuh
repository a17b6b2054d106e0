// The probability simplex: maps of the Fisher-Rao metric as row maps, and the Euclidean projection.
//
// The formulas are those of holonomy.manifolds.simplex. Entries that are 0 belong to a face: they have no velocity, and
// the one-sided derivatives of the reference. Sums are in float64.
#pragma once

#include "block.cuh"
#include "even.cuh"
#include "rows.cuh"

namespace holonomy {

template <class T> FN T over(T u, T x) { return x <= T(0) ? T(0) : u / x; }

// Square roots of two numbers, and their difference to full relative precision.
template <class T> struct RootGap {
    T s, t, gap;
    METHOD RootGap(T x, T y) {
        x = larger(x, T(0)), y = larger(y, T(0));
        s = root(x), t = root(y);
        T whole = s + t;
        gap = whole <= T(0) ? T(0) : (x - y) / whole;
    }
};

// -- exponential map: y = x growth^2/sum, growth = cosine + sinc w/2, w = u/x, of the squared angle sum u w/4 --------

template <class T> struct SimplexTurn {
    T square, cosine, sinc_value;
    METHOD void from(double sum) {
        square = T(0.25 * sum);
        cosine = cosine_root(square);
        sinc_value = sinc(square);
    }
    METHOD T growth(T w) const { return w * (T(0.5) * sinc_value) + cosine; }
};

template <class T> struct simplex_expmap : Map {
    static constexpr int vectors = 2, rounds = 2;
    METHOD static constexpr int wide(int) { return 1; }
    METHOD static constexpr int plain(int) { return 0; }
    SimplexTurn<T> turn;
    T scale;
    METHOD void add(Round<0>, const T* v, double* w, T*) const { w[0] += double(v[1] * over(v[1], v[0])); }
    template <class R> METHOD void stage(Round<0>, R&, const double* w, const T*) { turn.from(w[0]); }
    METHOD T moved(const T* v) const { return v[0] * square(turn.growth(over(v[1], v[0]))); }
    METHOD void add(Round<1>, const T* v, double* w, T*) const { w[0] += double(moved(v)); }
    template <class R> METHOD void stage(Round<1>, R&, const double* w, const T*) { scale = T(1.0 / w[0]); }
    METHOD void blend(const T* v, T* o, int, int) const { o[0] = moved(v) * scale; }
};

template <class T> struct simplex_expmap_back : Map {
    static constexpr int vectors = 3, outs = 2, rounds = 3;
    METHOD static constexpr int wide(int r) { return r == 0 ? 1 : 2; }
    METHOD static constexpr int plain(int) { return 0; }
    SimplexTurn<T> turn;
    double scale, center;
    T by_square;
    METHOD void add(Round<0>, const T* v, double* w, T*) const { w[0] += double(v[1] * over(v[1], v[0])); }
    template <class R> METHOD void stage(Round<0>, R&, const double* w, const T*) { turn.from(w[0]); }
    METHOD void add(Round<1>, const T* v, double* w, T*) const {
        double y = double(v[0] * square(turn.growth(over(v[1], v[0]))));
        w[0] += y;
        w[1] += y * double(v[2]);
    }
    template <class R> METHOD void stage(Round<1>, R&, const double* w, const T*) {
        scale = 1.0 / w[0];
        center = w[1] * scale;
    }
    // The cotangent of y before the division is k = (h - <h, y>)/sum; those of cosine and sinc are sums of 2 x growth k
    // and of that times w/2.
    METHOD void add(Round<2>, const T* v, double* w, T*) const {
        T u = over(v[1], v[0]), m = v[0] * turn.growth(u) * T(double(v[2]) - center);
        w[0] += double(m);
        w[1] += double(m * u);
    }
    template <class R> METHOD void stage(Round<2>, R&, const double* w, const T*) {
        T slope = sinc_slope(turn.square, turn.sinc_value, turn.cosine);
        by_square = T(scale * (w[1] * double(slope) - w[0] * double(turn.sinc_value)));
    }
    METHOD void blend(const T* v, T* o, int, int) const {
        T w = over(v[1], v[0]), growth = turn.growth(w);
        T m = growth * T((double(v[2]) - center) * scale), along = turn.sinc_value * m;
        o[0] = growth * m - w * (along + w * (T(0.25) * by_square));
        o[1] = v[0] <= T(0) ? T(0) : along + w * (T(0.5) * by_square);
    }
};

// -- softmax retraction: x exp(u/x), normalised --------------------------------------------------------------------

template <class T> struct SimplexTop : Map {
    static constexpr bool peaks = true;
    METHOD static constexpr int plain(int) { return 0; }
    T most;
    METHOD T peak(const T* v) const { return over(v[1], v[0]); }
    METHOD void top(T a) { most = a; }
    METHOD T grown(const T* v) const { return exponential(over(v[1], v[0]) - most); }
};

template <class T> struct simplex_retr : SimplexTop<T> {
    static constexpr int vectors = 2;
    METHOD static constexpr int wide(int) { return 1; }
    T scale;
    METHOD void add(Round<0>, const T* v, double* w, T*) const { w[0] += double(v[0] * this->grown(v)); }
    template <class R> METHOD void stage(Round<0>, R&, const double* w, const T*) { scale = T(1.0 / w[0]); }
    METHOD void blend(const T* v, T* o, int, int) const { o[0] = v[0] * this->grown(v) * scale; }
};

template <class T> struct simplex_retr_back : SimplexTop<T> {
    static constexpr int vectors = 3, outs = 2;
    METHOD static constexpr int wide(int) { return 2; }
    double scale, center;
    METHOD void add(Round<0>, const T* v, double* w, T*) const {
        double y = double(v[0] * this->grown(v));
        w[0] += y;
        w[1] += y * double(v[2]);
    }
    template <class R> METHOD void stage(Round<0>, R&, const double* w, const T*) {
        scale = 1.0 / w[0];
        center = w[1] * scale;
    }
    METHOD void blend(const T* v, T* o, int, int) const {
        // In float64: where one entry has nearly all the mass, its own gradient is what this difference leaves.
        T along = this->grown(v) * T((double(v[2]) - center) * scale);
        o[0] = along - along * over(v[1], v[0]);
        o[1] = v[0] <= T(0) ? T(0) : along;
    }
};

// -- logarithm and distance: of the squared chord of the square roots -----------------------------------------------

// asin(r)/(r sqrt(1 - r^2)) of r^2 = chord2/4, and its derivative by chord2.
template <class T> struct Slant {
    T value, cosine, factor;
    T q;
    METHOD void from(double chord2) {
        q = T(0.25 * chord2);
        value = asinc(q);
        cosine = root(T(1) - q);
        factor = value / cosine;
    }
    METHOD T slope() const {
        return T(0.25) * (asinc_slope(q, value) / cosine + T(0.5) * value / (cosine * cosine * cosine));
    }
};

template <class T> FN double chord_term(const T* v) { return wide_square(RootGap<T>(v[0], v[1]).gap); }

template <class T> struct simplex_logmap : Map {
    static constexpr int vectors = 2;
    METHOD static constexpr int wide(int) { return 1; }
    METHOD static constexpr int plain(int) { return 0; }
    T factor, chord2;
    METHOD void add(Round<0>, const T* v, double* w, T*) const { w[0] += chord_term(v); }
    template <class R> METHOD void stage(Round<0>, R&, const double* w, const T*) {
        Slant<T> slant;
        slant.from(w[0]);
        factor = slant.factor, chord2 = T(w[0]);
    }
    METHOD void blend(const T* v, T* o, int, int) const {
        RootGap<T> r(v[0], v[1]);
        o[0] = (v[0] * chord2 - T(2) * (r.s * r.gap)) * factor;
    }
};

template <class T> struct simplex_logmap_back : Map {
    static constexpr int vectors = 3, outs = 2;
    METHOD static constexpr int wide(int) { return 3; }
    METHOD static constexpr int plain(int) { return 0; }
    T factor, chord2, by_chord2;
    METHOD void add(Round<0>, const T* v, double* w, T*) const {
        RootGap<T> r(v[0], v[1]);
        w[0] += wide_square(r.gap);
        w[1] += double(v[2] * v[0]);
        w[2] += double(v[2] * (r.s * r.gap));
    }
    template <class R> METHOD void stage(Round<0>, R&, const double* w, const T*) {
        Slant<T> slant;
        slant.from(w[0]);
        factor = slant.factor, chord2 = T(w[0]);
        by_chord2 = T(double(factor) * w[1] + double(slant.slope()) * (w[0] * w[1] - 2.0 * w[2]));
    }
    METHOD void blend(const T* v, T* o, int, int) const {
        RootGap<T> r(v[0], v[1]);
        T cotangent = T(2) * (r.gap * by_chord2 - r.s * v[2] * factor);
        T rest = cotangent - T(2) * (r.gap * v[2] * factor);
        o[0] = v[2] * (factor * chord2) + T(0.5) * over(rest, r.s);
        o[1] = T(-0.5) * over(cotangent, r.t);
    }
};

template <class T, bool squared> struct SimplexDist : Map {
    static constexpr int vectors = 2, outs = 0, scalars = 1;
    METHOD static constexpr int wide(int) { return 1; }
    METHOD static constexpr int plain(int) { return 0; }
    METHOD void add(Round<0>, const T* v, double* w, T*) const { w[0] += chord_term(v); }
    template <class R> METHOD void stage(Round<0>, R& row, const double* w, const T*) {
        T a = asinc(T(0.25 * w[0]));
        row.scalar = squared ? T(4.0 * w[0]) * (a * a) : T(2.0 * ::sqrt(w[0])) * a;
    }
};

template <class T> struct simplex_dist : SimplexDist<T, false> {};
template <class T> struct simplex_dist2 : SimplexDist<T, true> {};

template <class T, bool squared> struct SimplexDistBack : Map {
    static constexpr int vectors = 2, outs = 2, givens = 1;
    METHOD static constexpr int wide(int) { return 1; }
    METHOD static constexpr int plain(int) { return 0; }
    T scale;
    METHOD void add(Round<0>, const T* v, double* w, T*) const { w[0] += chord_term(v); }
    template <class R> METHOD void stage(Round<0>, R& row, const double* w, const T*) {
        Slant<T> slant;
        slant.from(w[0]);
        // The derivative in the gap is this times the gap; at coincident points the distance has 0 as a subgradient.
        T chord = T(::sqrt(w[0])), far = chord == T(0) ? T(0) : T(2) / (chord * slant.cosine);
        scale = T(0.5) * row.given * (squared ? T(8) * slant.factor : far);
    }
    METHOD void blend(const T* v, T* o, int, int) const {
        RootGap<T> r(v[0], v[1]);
        T half = r.gap * scale;
        o[0] = over(half, r.s);
        o[1] = -over(half, r.t);
    }
};

template <class T> struct simplex_dist_back : SimplexDistBack<T, false> {};
template <class T> struct simplex_dist2_back : SimplexDistBack<T, true> {};

// -- parallel transport --------------------------------------------------------------------------------------------

template <class T> struct simplex_transp : Map {
    static constexpr int vectors = 3;
    METHOD static constexpr int wide(int) { return 2; }
    METHOD static constexpr int plain(int) { return 0; }
    T scale;
    METHOD void add(Round<0>, const T* v, double* w, T*) const {
        RootGap<T> r(v[0], v[1]);
        w[0] += double(r.t * over(v[2], r.s));
        w[1] += double((r.s + r.t) * (r.s + r.t));
    }
    template <class R> METHOD void stage(Round<0>, R&, const double* w, const T*) { scale = T(2.0 * w[0] / w[1]); }
    METHOD void blend(const T* v, T* o, int, int) const {
        RootGap<T> r(v[0], v[1]);
        o[0] = r.t * over(v[2], r.s) - r.t * (r.s + r.t) * scale;
    }
};

template <class T> struct simplex_transp_back : Map {
    static constexpr int vectors = 4, outs = 3;
    METHOD static constexpr int wide(int) { return 3; }
    METHOD static constexpr int plain(int) { return 0; }
    T scale, by_along, by_whole;
    METHOD void add(Round<0>, const T* v, double* w, T*) const {
        RootGap<T> r(v[0], v[1]);
        w[0] += double(r.t * over(v[2], r.s));
        w[1] += double((r.s + r.t) * (r.s + r.t));
        w[2] -= double(v[3] * (r.t * (r.s + r.t)));
    }
    template <class R> METHOD void stage(Round<0>, R&, const double* w, const T*) {
        double rate = 2.0 * w[0] / w[1];
        scale = T(rate);
        by_along = T(2.0 * w[2] / w[1]);
        by_whole = T(-w[2] * rate / w[1]);
    }
    METHOD void blend(const T* v, T* o, int, int) const {
        RootGap<T> r(v[0], v[1]);
        T w = over(v[2], r.s), moved = v[3] + by_along, rest = v[3] * -scale, both = T(2) * ((r.s + r.t) * by_whole);
        T by_s = rest * r.t + both - moved * (r.t * over(w, r.s));
        T by_t = rest * (r.s + T(2) * r.t) + both + moved * w;
        o[0] = T(0.5) * over(by_s, r.s);
        o[1] = T(0.5) * over(by_t, r.t);
        o[2] = over(moved * r.t, r.s);
    }
};

// -- Euclidean projection ------------------------------------------------------------------------------------------

// Its derivative at the result v[0]: on the face of the positive entries, the mean is taken off.
template <class T> struct simplex_project_back : Map {
    static constexpr int vectors = 2;
    METHOD static constexpr int wide(int) { return 2; }
    METHOD static constexpr int plain(int) { return 0; }
    T mean;
    METHOD void add(Round<0>, const T* v, double* w, T*) const {
        if (v[0] > T(0)) w[0] += double(v[1]), w[1] += 1.0;
    }
    template <class R> METHOD void stage(Round<0>, R&, const double* w, const T*) {
        mean = T(w[0] / (w[1] > 1.0 ? w[1] : 1.0));
    }
    METHOD void blend(const T* v, T* o, int, int) const { o[0] = v[0] > T(0) ? v[1] - mean : T(0); }
};

// Rows onto {p >= 0, sum p = mass}, a block for each: Newton's method on t -> sum max(z - t, 0) - mass from below,
// where z is the row minus its largest entry. The active set only shrinks.
template <class T, class B>
METHOD void simplex_project(const B& block, char* shared, const T* x, T* out, int n, double mass) {
    double* wide = reinterpret_cast<double*>(shared);
    T* plain = reinterpret_cast<T*>(shared);
    x += block.index * n, out += block.index * n;
    const T nothing = T(-1) / T(0.0f);
    T most = nothing;
    double strange = 0.0;
    for (int j = block.thread; j < n; j += block.threads) {
        most = larger(x[j], most);
        if (x[j] != x[j]) strange += 1.0;
    }
    most = threads_largest(block, most, plain);
    strange = threads_total(block, strange, wide);
    if (strange > 0.0 || !(most - most == T(0))) {  // NaN somewhere, or no finite largest entry
        for (int j = block.thread; j < n; j += block.threads) out[j] = T(0) / T(0.0f) * T(0);
        return;
    }
    T threshold = T(-mass);
    double active = -1.0;
    while (true) {
        double above = 0.0, count = 0.0;
        for (int j = block.thread; j < n; j += block.threads) {
            T z = x[j] - most;
            if (z > threshold) above += double(z), count += 1.0;
        }
        above = threads_total(block, above, wide);
        count = threads_total(block, count, wide);
        if (count < 1.0) break;  // the mass is lost beside the threshold's rounding
        threshold = T((above - mass) / count);
        if (count == active) break;
        active = count;
    }
    for (int j = block.thread; j < n; j += block.threads) out[j] = larger((x[j] - most) - threshold, T(0));
}

#define HOLONOMY_SIMPLEX_PROJECT(name, T, count)                                                                      \
    HOLONOMY_BLOCKS(name, count, (const T* x, T* out, int n, double mass),                                            \
                    holonomy::simplex_project<T>(block, shared, x, out, n, mass))

}  // namespace holonomy
