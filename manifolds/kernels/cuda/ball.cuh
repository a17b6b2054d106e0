// Row maps of the Poincaré ball; the reference is holonomy.manifolds.gyrovector, whose formulas these are.
//
// With g(x) = 1 - c|x|^2, summed in float64, every map is a combination of its vectors. In the backward passes d_q is
// the derivative of <G, result> by q, where G is the upstream gradient. A map `..._inside` pulls its result inside
// where it reaches the edge of the dtype: only rows near the edge sum its square.
#pragma once

#include "even.cuh"
#include "rows.cuh"

namespace holonomy {

// 1 - c|x|^2 from the square summed in float64, at its floor where x is at the edge: there it has no derivative.
template <class T> struct Gap {
    T value, free;
    METHOD Gap() : value(1), free(1) {}
    METHOD Gap(double square, double c) {
        double g = 1.0 - c * square, floor = 0.5 * double(Real<T>::eps);
        value = T(larger(g, floor));
        free = g >= floor ? T(1) : T(0);
    }
};

// What the pull inside does to y, |y|^2 = square: y times `scale`.
template <class T> struct Pull {
    T scale;
    bool outside;
    METHOD Pull() : scale(1), outside(false) {}
    METHOD Pull(double square, double c) {
        // Half a unit where the norm is exact, more where it is a rounded sum itself.
        double step = double(Real<T>::eps) * (Real<T>::single ? 0.5 : 8.0), reach = c * square;
        outside = reach > (1.0 - step) * (1.0 - step);
        scale = outside ? T((1.0 - 3.0 * step) / ::sqrt(reach)) : T(1);
    }
};

// Whether a point of this g may be at the edge, by a bound that its rounding does not cross.
template <class T> FN bool near_edge(T g) { return !(g > T(64) * Real<T>::eps); }

// -- exponential map -----------------------------------------------------------------------------------------------

template <class T, bool inside> struct BallExpmap : Map {
    static constexpr int vectors = 2, rounds = inside ? 3 : 2, optional = 2;
    METHOD static constexpr int wide(int r) { return r == 1 ? 0 : 1; }
    METHOD static constexpr int plain(int r) { return r == 2 ? 0 : 1; }
    T t, g, gy, a, b;
    bool edge;

    METHOD bool needs() const { return edge; }
    template <class R> METHOD void add(Round<0>, const T* v, double* w, R* s) const {
        w[0] += wide_square(v[0]);
        s[0] += v[1] * v[1];
    }
    template <class R> METHOD void stage(Round<0>, R& row, const double* w, const T* s) {
        T c = row.curvature.c;
        g = Gap<T>(w[0], row.curvature.wide).value;
        T p = T(1) / g, square = c * s[0] * p * p;
        t = tanhc(square) * p;
        gy = larger(sech2(square), Real<T>::eps * Real<T>::eps);
    }
    METHOD void add(Round<1>, const T* v, double*, T* s) const {
        T y = v[0] + v[1] * t;
        s[0] += y * y;
    }
    template <class R> METHOD void stage(Round<1>, R& row, const double*, const T* s) {
        T k = g / (g * gy + row.curvature.c * s[0]);
        a = k * (T(1) - gy);
        b = k * t;
        edge = near_edge(k * gy);  // 1 - c|result|^2
    }
    METHOD T moved(const T* v) const { return v[0] + (v[0] * a + v[1] * b); }
    METHOD void add(Round<2>, const T* v, double* w, T*) const { w[0] += wide_square(moved(v)); }
    template <class R> METHOD void stage(Round<2>, R& row, const double* w, const T*) {
        pull = Pull<T>(w[0], row.curvature.wide).scale;
    }
    T pull = T(1);
    METHOD void blend(const T* v, T* y, int, int) const { y[0] = inside ? moved(v) * pull : moved(v); }
};

template <class T> struct ball_expmap : BallExpmap<T, false> {};
template <class T> struct ball_expmap_inside : BallExpmap<T, true> {};

// Upstream gradient behind a pull inside, as `scale` G - `along` y; the result depends on the direction of y only.
template <class T> struct PullBack {
    T scale = T(1), along = T(0), slope = T(0);
    METHOD void from(double square, T product, double c) {
        Pull<T> pull(square, c);
        if (!pull.outside) return;
        scale = pull.scale;
        along = scale * product / T(square);
        slope = T(-0.5) * scale * product / T(c);
    }
};

template <class T, bool inside> struct BallExpmapBack : Map {
    static constexpr int vectors = 3, outs = 2, rounds = inside ? 3 : 2, optional = 2;
    METHOD static constexpr int wide(int r) { return r == 1 ? 0 : 1; }
    METHOD static constexpr int plain(int r) { return r == 1 ? 2 : 3; }
    Gap<T> g;
    T t, tc, square, sech, xx, uu, gx, gu, ww, wu;
    T a, b, k0, k1, k2, k3, k4;
    bool edge = false;

    METHOD bool needs() const { return edge; }
    METHOD void add(Round<0>, const T* v, double* w, T* s) const {
        w[0] += wide_square(v[0]);
        s[0] += v[1] * v[1];
        s[1] += v[2] * v[0];
        s[2] += v[2] * v[1];
    }
    template <class R> METHOD void stage(Round<0>, R& row, const double* w, const T* s) {
        g = Gap<T>(w[0], row.curvature.wide);
        xx = T(w[0]), uu = s[0], gx = s[1], gu = s[2];
        T p = T(1) / g.value;
        square = row.curvature.c * uu * p * p;
        tc = tanhc(square);
        t = tc * p;
        sech = sech2(square);
    }
    METHOD void add(Round<1>, const T* v, double*, T* s) const {
        T y = v[0] + v[1] * t;
        s[0] += y * y;
        s[1] += y * v[1];
    }
    template <class R> METHOD void stage(Round<1>, R& row, const double*, const T* s) {
        ww = s[0], wu = s[1];
        chain(row, gx, gu, T(1), T(0), T(0));
    }
    METHOD T moved(const T* v) const { return v[0] + (v[0] * a + v[1] * b); }
    METHOD void add(Round<2>, const T* v, double* w, T* s) const {
        T y = moved(v);
        w[0] += wide_square(y);
        s[0] += v[2] * y;
        s[1] += v[0] * y;
        s[2] += v[1] * y;
    }
    template <class R> METHOD void stage(Round<2>, R& row, const double* w, const T* s) {
        PullBack<T> pull;
        pull.from(w[0], s[0], row.curvature.wide);
        T at_x = pull.scale * gx - pull.along * s[1], at_u = pull.scale * gu - pull.along * s[2];
        chain(row, at_x, at_u, pull.scale, pull.along, pull.slope);
    }
    // From <G', x> and <G', u> to the coefficients, where G' = scale G - along y.
    template <class R> METHOD void chain(R& row, T gx, T gu, T scale, T along, T slope) {
        T c = row.curvature.c, floor = Real<T>::eps * Real<T>::eps;
        T p = T(1) / g.value, gy = larger(sech, floor);
        T den = g.value * gy + c * ww, k = g.value / den;
        T d_k = gx * (T(1) - gy) + gu * t;
        T d_den = -(d_k * k) / den;
        T d_ww = c * d_den;
        T d_g = d_k / den + d_den * gy;
        T d_gy = sech >= floor ? d_den * g.value - gx * k : T(0);
        T d_t = gu * k + T(2) * d_ww * wu;
        T d_square = (d_t * p) * tanhc_slope(square, tc, sech) - d_gy * tc * gy;
        T d_p = d_t * tc + T(2) * d_square * c * uu * p;
        T d_uu = d_square * c * p * p;
        d_g = (d_g - d_p * p * p) * g.free;
        row.slope = double(slope + d_den * ww + d_square * uu * p * p - xx * d_g);
        a = k * (T(1) - gy);
        b = k * t;
        edge = near_edge(k * gy);
        T back_x = along * (T(1) + a), back_u = along * b;
        k0 = scale * (T(1) + a) - T(1);
        k1 = scale * b;
        k2 = T(2) * d_ww - T(2) * c * d_g - back_x * (T(1) + a);
        k3 = T(2) * d_ww * t - back_u * (T(1) + a);
        k4 = T(2) * d_uu + T(2) * d_ww * t * t - back_u * b;
        // <G', y> by the other argument: back_x b is back_u (1 + a).
    }
    METHOD void blend(const T* v, T* o, int, int) const {
        o[0] = v[2] + (v[2] * k0 + v[0] * k2 + v[1] * k3);
        o[1] = v[2] * k1 + v[0] * k3 + v[1] * k4;
    }
};

template <class T> struct ball_expmap_back : BallExpmapBack<T, false> {};
template <class T> struct ball_expmap_inside_back : BallExpmapBack<T, true> {};

// -- pairs of points: logarithm and distance -----------------------------------------------------------------------

// q = c|y - x|^2/(g(x) g(y)) and its factors.
template <class T> struct BallChord {
    Gap<T> x, y;
    T c, xx, yy, hh, q;
    METHOD void from(Curvature<T> curvature, const double* w, T square) {
        x = Gap<T>(w[0], curvature.wide);
        y = Gap<T>(w[1], curvature.wide);
        c = curvature.c, xx = T(w[0]), yy = T(w[1]), hh = square;
        q = c * hh / (x.value * y.value);
    }
};

template <class T> struct BallPair : Map {
    static constexpr int vectors = 2;
    METHOD static constexpr int wide(int) { return 2; }
    METHOD void add(Round<0>, const T* v, double* w, T* s) const {
        T h = v[1] - v[0];
        w[0] += wide_square(v[0]);
        w[1] += wide_square(v[1]);
        s[0] += h * h;
    }
};

template <class T> struct ball_logmap : BallPair<T> {
    T a, b;
    template <class R> METHOD void stage(Round<0>, R& row, const double* w, const T* s) {
        BallChord<T> p;
        p.from(row.curvature, w, s[0]);
        T f = arsinhc(p.q) / (root(T(1) + p.q) * p.y.value);
        a = f * p.x.value;
        b = -(f * p.c * p.hh);
    }
    METHOD void blend(const T* v, T* o, int, int) const { o[0] = (v[1] - v[0]) * a + v[0] * b; }
};

template <class T> struct ball_logmap_back : Map {
    static constexpr int vectors = 3, outs = 2;
    METHOD static constexpr int wide(int) { return 2; }
    METHOD static constexpr int plain(int) { return 3; }
    T k0, k1, k2, k3, k4;
    METHOD void add(Round<0>, const T* v, double* w, T* s) const {
        T h = v[1] - v[0];
        w[0] += wide_square(v[0]);
        w[1] += wide_square(v[1]);
        s[0] += h * h;
        s[1] += v[2] * h;
        s[2] += v[2] * v[0];
    }
    template <class R> METHOD void stage(Round<0>, R& row, const double* w, const T* s) {
        BallChord<T> p;
        p.from(row.curvature, w, s[0]);
        T gh = s[1], gb = s[2], c = p.c, q = p.q, gx = p.x.value, gy = p.y.value, h2 = c * p.hh;
        T r = T(1) / root(T(1) + q), a = arsinhc(q), f = a * r / gy;
        T slope = (arsinhc_slope(q, a) - T(0.5) * a * r * r) * r;
        T d_f = gh * gx - gb * h2;
        T d_q = d_f * slope / gy;
        T d_h2 = d_q / (gx * gy) - gb * f;
        T d_gx = (gh * f - d_q * q / gx) * p.x.free;
        T d_gy = -(d_f * f + d_q * q) / gy * p.y.free;
        row.slope = double(d_h2 * p.hh - p.xx * d_gx - p.yy * d_gy);
        k0 = f * gx;
        k1 = -(f * h2);
        k2 = T(2) * c * d_h2;
        k3 = -(T(2) * c * d_gx);
        k4 = -(T(2) * c * d_gy);
    }
    METHOD void blend(const T* v, T* o, int, int) const {
        T along = v[2] * k0 + (v[1] - v[0]) * k2;
        o[0] = (v[2] * k1 + v[0] * k3) - along;
        o[1] = along + v[1] * k4;
    }
};

template <class T> struct ball_dist : BallPair<T> {
    static constexpr int outs = 0, scalars = 1;
    template <class R> METHOD void stage(Round<0>, R& row, const double* w, const T* s) {
        BallChord<T> p;
        p.from(row.curvature, w, s[0]);
        row.scalar = T(2) / row.curvature.rooted() * arsinh_root(p.q);
    }
};

template <class T> struct ball_dist2 : BallPair<T> {
    static constexpr int outs = 0, scalars = 1;
    template <class R> METHOD void stage(Round<0>, R& row, const double* w, const T* s) {
        BallChord<T> p;
        p.from(row.curvature, w, s[0]);
        row.scalar = T(4) / p.c * p.q * square(arsinhc(p.q));
    }
};

template <class T> struct BallChordBack : BallPair<T> {
    static constexpr int outs = 2, givens = 1;
    T k0, k1, k2;
    // From the derivative by q on; d_c is the derivative by c where q is held.
    template <class R> METHOD void chain(R& row, const BallChord<T>& p, T d_q, T d_c) {
        T gx = p.x.value, gy = p.y.value;
        T d_gx = -(d_q * p.q) / gx * p.x.free, d_gy = -(d_q * p.q) / gy * p.y.free;
        row.slope = double(d_c + d_q * p.q / p.c - p.xx * d_gx - p.yy * d_gy);
        k0 = T(2) * p.c * d_q / (gx * gy);
        k1 = -(T(2) * p.c * d_gx);
        k2 = -(T(2) * p.c * d_gy);
    }
    METHOD void blend(const T* v, T* o, int, int) const {
        T along = (v[1] - v[0]) * k0;
        o[0] = v[0] * k1 - along;
        o[1] = along + v[1] * k2;
    }
};

template <class T> struct ball_dist_back : BallChordBack<T> {
    template <class R> METHOD void stage(Round<0>, R& row, const double* w, const T* s) {
        BallChord<T> p;
        p.from(row.curvature, w, s[0]);
        T rc = row.curvature.rooted();
        // The roots one by one: q itself may be so small that a square of it vanishes.
        T d_q = p.q > T(0) ? row.given / (rc * (root(p.q) * root(T(1) + p.q))) : T(0);
        this->chain(row, p, d_q, -(row.given * arsinh_root(p.q) / (p.c * rc)));
    }
};

template <class T> struct ball_dist2_back : BallChordBack<T> {
    template <class R> METHOD void stage(Round<0>, R& row, const double* w, const T* s) {
        BallChord<T> p;
        p.from(row.curvature, w, s[0]);
        T a = arsinhc(p.q);
        T d_q = T(4) / p.c * row.given * a / root(T(1) + p.q);
        this->chain(row, p, d_q, -(T(4) / (p.c * p.c) * row.given * p.q * a * a));
    }
};

// -- Möbius addition -----------------------------------------------------------------------------------------------

template <class T, bool inside> struct BallAdd : Map {
    static constexpr int vectors = 2, rounds = inside ? 2 : 1, optional = 1;
    METHOD static constexpr int wide(int r) { return r == 0 ? 2 : 1; }
    METHOD static constexpr int plain(int r) { return r == 0 ? 1 : 0; }
    T a, b, pull = T(1);
    bool edge;
    METHOD bool needs() const { return edge; }
    METHOD void add(Round<0>, const T* v, double* w, T* s) const {
        T both = v[0] + v[1];
        w[0] += wide_square(v[0]);
        w[1] += wide_square(v[1]);
        s[0] += both * both;
    }
    template <class R> METHOD void stage(Round<0>, R& row, const double* w, const T* s) {
        T gx = Gap<T>(w[0], row.curvature.wide).value, gy = Gap<T>(w[1], row.curvature.wide).value;
        T s2 = row.curvature.c * s[0], den = gx * gy + s2;
        a = gx / den;
        b = s2 / den;
        edge = near_edge(gy * a);
    }
    METHOD T sum(const T* v) const { return (v[0] + v[1]) * a + v[0] * b; }
    METHOD void add(Round<1>, const T* v, double* w, T*) const { w[0] += wide_square(sum(v)); }
    template <class R> METHOD void stage(Round<1>, R& row, const double* w, const T*) {
        pull = Pull<T>(w[0], row.curvature.wide).scale;
    }
    METHOD void blend(const T* v, T* o, int, int) const { o[0] = inside ? sum(v) * pull : sum(v); }
};

template <class T> struct ball_mobius_add : BallAdd<T, false> {};
template <class T> struct ball_mobius_add_inside : BallAdd<T, true> {};

template <class T, bool inside> struct BallAddBack : Map {
    static constexpr int vectors = 3, outs = 2, rounds = inside ? 2 : 1, optional = 1;
    METHOD static constexpr int wide(int r) { return r == 0 ? 2 : 1; }
    METHOD static constexpr int plain(int) { return 3; }
    Gap<T> x, y;
    T xx, yy, ww, gw, gb, a, b, scale = T(1), along = T(0), k2, k3, k4;
    bool edge;
    METHOD bool needs() const { return edge; }
    METHOD void add(Round<0>, const T* v, double* w, T* s) const {
        T both = v[0] + v[1];
        w[0] += wide_square(v[0]);
        w[1] += wide_square(v[1]);
        s[0] += both * both;
        s[1] += v[2] * both;
        s[2] += v[2] * v[0];
    }
    template <class R> METHOD void stage(Round<0>, R& row, const double* w, const T* s) {
        x = Gap<T>(w[0], row.curvature.wide);
        y = Gap<T>(w[1], row.curvature.wide);
        xx = T(w[0]), yy = T(w[1]), ww = s[0], gw = s[1], gb = s[2];
        chain(row, gw, gb, T(0));
    }
    METHOD T sum(const T* v) const { return (v[0] + v[1]) * a + v[0] * b; }
    METHOD void add(Round<1>, const T* v, double* w, T* s) const {
        T z = sum(v);
        w[0] += wide_square(z);
        s[0] += v[2] * z;
        s[1] += (v[0] + v[1]) * z;
        s[2] += v[0] * z;
    }
    template <class R> METHOD void stage(Round<1>, R& row, const double* w, const T* s) {
        PullBack<T> pull;
        pull.from(w[0], s[0], row.curvature.wide);
        scale = pull.scale, along = pull.along;
        chain(row, scale * gw - along * s[1], scale * gb - along * s[2], pull.slope);
    }
    template <class R> METHOD void chain(R& row, T gw, T gb, T slope) {
        T c = row.curvature.c, gx = x.value, gy = y.value, s2 = c * ww, den = gx * gy + s2;
        a = gx / den;
        b = s2 / den;
        edge = near_edge(gy * a);
        T d_den = -(gw * a + gb * b) / den;
        T d_gx = (gw / den + d_den * gy) * x.free;
        T d_gy = d_den * gx * y.free;
        T d_s2 = gb / den + d_den;
        row.slope = double(slope + d_s2 * ww - xx * d_gx - yy * d_gy);
        k2 = T(2) * c * d_s2;
        k3 = -(T(2) * c * d_gx);
        k4 = -(T(2) * c * d_gy);
    }
    METHOD void blend(const T* v, T* o, int, int) const {
        T g = inside ? scale * v[2] - along * sum(v) : v[2];
        T both = g * a + (v[0] + v[1]) * k2;
        o[0] = both + (g * b + v[0] * k3);
        o[1] = both + v[1] * k4;
    }
};

template <class T> struct ball_mobius_add_back : BallAddBack<T, false> {};
template <class T> struct ball_mobius_add_inside_back : BallAddBack<T, true> {};

// -- parallel transport --------------------------------------------------------------------------------------------

template <class T> struct ball_transport : Map {
    static constexpr int vectors = 3;
    METHOD static constexpr int wide(int) { return 2; }
    METHOD static constexpr int plain(int) { return 3; }
    T ratio, k1, k2;
    METHOD void add(Round<0>, const T* v, double* w, T* s) const {
        T h = v[1] - v[0];
        w[0] += wide_square(v[0]);
        w[1] += wide_square(v[1]);
        s[0] += h * h;
        s[1] += v[0] * v[2];
        s[2] += h * v[2];
    }
    template <class R> METHOD void stage(Round<0>, R& row, const double* w, const T* s) {
        T c = row.curvature.c, h2 = c * s[0], along = s[1], across = s[2];
        T gx = Gap<T>(w[0], row.curvature.wide).value, gy = Gap<T>(w[1], row.curvature.wide).value;
        T k = T(2) * c / (gx * gy + h2);
        ratio = gy / gx;
        k1 = ratio * k * (gx * across - h2 * along);
        k2 = -(ratio * k * ((gy + h2) * along + (T(1) - gx) * across));
    }
    METHOD void blend(const T* v, T* o, int, int) const { o[0] = v[2] * ratio + (v[0] * k1 + (v[1] - v[0]) * k2); }
};

template <class T> struct ball_transport_back : Map {
    static constexpr int vectors = 4, outs = 3;
    METHOD static constexpr int wide(int) { return 2; }
    METHOD static constexpr int plain(int) { return 6; }
    T ratio, k1, k2, k3, k4, k5, k6, k7;
    METHOD void add(Round<0>, const T* v, double* w, T* s) const {
        T h = v[1] - v[0];
        w[0] += wide_square(v[0]);
        w[1] += wide_square(v[1]);
        s[0] += h * h;
        s[1] += v[0] * v[2];
        s[2] += h * v[2];
        s[3] += v[3] * v[2];
        s[4] += v[3] * v[0];
        s[5] += v[3] * h;
    }
    template <class R> METHOD void stage(Round<0>, R& row, const double* w, const T* s) {
        BallChord<T> p;
        p.from(row.curvature, w, s[0]);
        T c = p.c, gx = p.x.value, gy = p.y.value, h2 = c * p.hh;
        T along = s[1], across = s[2], gv = s[3], gp = s[4], gh = s[5];
        T m = gx * gy + h2, k = T(2) * c / m;
        ratio = gy / gx;
        T forward = gx * across - h2 * along;
        T sideways = (gy + h2) * along + (T(1) - gx) * across;
        T turned = forward * gp - sideways * gh;
        T d_ratio = gv + k * turned;
        T d_m = -(ratio * turned * k) / m;
        T d_forward = ratio * k * gp, d_sideways = -(ratio * k * gh);
        k3 = d_sideways * (gy + h2) - d_forward * h2;
        k4 = d_forward * gx + d_sideways * (T(1) - gx);
        T d_h2 = (d_sideways - d_forward) * along + d_m;
        T d_gx = ((d_forward - d_sideways) * across + d_m * gy - d_ratio * ratio / gx) * p.x.free;
        T d_gy = (d_sideways * along + d_m * gx + d_ratio / gx) * p.y.free;
        row.slope = double(ratio * turned * T(2) / m + d_h2 * p.hh - p.xx * d_gx - p.yy * d_gy);
        k1 = ratio * k * forward;
        k2 = -(ratio * k * sideways);
        k5 = T(2) * c * d_h2;
        k6 = -(T(2) * c * d_gx);
        k7 = -(T(2) * c * d_gy);
    }
    METHOD void blend(const T* v, T* o, int, int) const {
        T h = v[1] - v[0], along = v[3] * k2 + h * k5 + v[2] * k4;
        o[0] = (v[3] * k1 + v[0] * k6 + v[2] * k3) - along;
        o[1] = along + v[1] * k7;
        o[2] = v[3] * ratio + v[0] * k3 + h * k4;
    }
};

// -- exponential map with transport --------------------------------------------------------------------------------

// The two maps one after the other: `e` has the rounds 0 to 2, and round 3 are the sums of the transport to y.
template <class T> struct ball_expmap_transport : Map {
    static constexpr int vectors = 3, outs = 2, rounds = 4, optional = 2;
    using Moved = BallExpmap<T, true>;
    METHOD static constexpr int wide(int r) { return r < 3 ? Moved::wide(r) : 2; }
    METHOD static constexpr int plain(int r) { return r < 3 ? Moved::plain(r) : 3; }
    Moved e;
    ball_transport<T> t;
    METHOD bool needs() const { return e.needs(); }
    METHOD T end(const T* v) const { return e.moved(v) * e.pull; }
    template <int r> METHOD void add(Round<r>, const T* v, double* w, T* s) const { e.add(Round<r>(), v, w, s); }
    template <int r, class R> METHOD void stage(Round<r>, R& row, const double* w, const T* s) {
        e.stage(Round<r>(), row, w, s);
    }
    METHOD void add(Round<3>, const T* v, double* w, T* s) const {
        T p[3] = {v[0], end(v), v[2]};
        t.add(Round<0>(), p, w, s);
    }
    template <class R> METHOD void stage(Round<3>, R& row, const double* w, const T* s) {
        t.stage(Round<0>(), row, w, s);
    }
    METHOD void blend(const T* v, T* o, int i, int d) const {
        T p[3] = {v[0], end(v), v[2]};
        o[0] = p[1];
        t.blend(p, o + 1, i, d);
    }
};

// The gradient by y, of which the transport has a part, goes back through the pull inside and the exponential map.
template <class T> struct ball_expmap_transport_back : Map {
    static constexpr int vectors = 5, outs = 3, rounds = 5, optional = 2;
    using Moved = BallExpmap<T, true>;
    METHOD static constexpr int wide(int r) { return r < 2 ? Moved::wide(r) : r == 3 ? 2 : 1; }
    METHOD static constexpr int plain(int r) { return r == 0 ? 1 : r == 1 ? 2 : r == 2 ? 0 : r == 3 ? 6 : 5; }
    BallExpmapBack<T, false> e;
    ball_transport_back<T> t;
    T pull = T(1);
    METHOD bool needs() const { return e.edge; }

    METHOD void add(Round<0>, const T* v, double* w, T* s) const {
        w[0] += wide_square(v[0]);
        s[0] += v[1] * v[1];
    }
    template <class R> METHOD void stage(Round<0>, R& row, const double* w, const T* s) {
        T sums[3] = {s[0], T(0), T(0)};
        e.stage(Round<0>(), row, w, sums);
    }
    METHOD void add(Round<1>, const T* v, double* w, T* s) const { e.add(Round<1>(), v, w, s); }
    template <class R> METHOD void stage(Round<1>, R& row, const double* w, const T* s) {
        e.stage(Round<1>(), row, w, s);
    }
    METHOD void add(Round<2>, const T* v, double* w, T*) const { w[0] += wide_square(e.moved(v)); }
    template <class R> METHOD void stage(Round<2>, R& row, const double* w, const T*) {
        pull = Pull<T>(w[0], row.curvature.wide).scale;
    }
    METHOD void add(Round<3>, const T* v, double* w, T* s) const {
        T p[4] = {v[0], e.moved(v) * pull, v[2], v[4]};
        t.add(Round<0>(), p, w, s);
    }
    template <class R> METHOD void stage(Round<3>, R& row, const double* w, const T* s) {
        t.stage(Round<0>(), row, w, s);
        held = row.slope;
    }
    double held;
    METHOD void split(const T* v, T* o) const {
        T p[4] = {v[0], e.moved(v) * pull, v[2], v[4]};
        t.blend(p, o, 0, 0);
        o[1] += v[3];
    }
    METHOD void add(Round<4>, const T* v, double* w, T* s) const {
        T o[3], y = e.moved(v);
        split(v, o);
        w[0] += wide_square(y);
        s[0] += o[1] * v[0];
        s[1] += o[1] * v[1];
        s[2] += o[1] * y;
        s[3] += v[0] * y;
        s[4] += v[1] * y;
    }
    template <class R> METHOD void stage(Round<4>, R& row, const double* w, const T* s) {
        PullBack<T> back;
        back.from(w[0], s[2], row.curvature.wide);
        T at_x = back.scale * s[0] - back.along * s[3], at_u = back.scale * s[1] - back.along * s[4];
        e.chain(row, at_x, at_u, back.scale, back.along, back.slope);
        row.slope += held;
    }
    METHOD void blend(const T* v, T* o, int i, int d) const {
        split(v, o);
        T p[3] = {v[0], v[1], o[1]}, q[2];
        e.blend(p, q, i, d);
        o[0] += q[0];
        o[1] = q[1];
    }
};

// -- distance to a hyperplane --------------------------------------------------------------------------------------

template <class T> struct BallPlane : Map {
    static constexpr int vectors = 3;
    METHOD static constexpr int wide(int) { return 2; }
    METHOD static constexpr int plain(int) { return 4; }
    Gap<T> x, p;
    T c, rc, xx, pp, hh, ha, pa, aa, length, across, sine;
    METHOD void add(Round<0>, const T* v, double* w, T* s) const {
        T h = v[0] - v[1];
        w[0] += wide_square(v[0]);
        w[1] += wide_square(v[1]);
        s[0] += h * h;
        s[1] += h * v[2];
        s[2] += v[1] * v[2];
        s[3] += v[2] * v[2];
    }
    METHOD void from(Curvature<T> curvature, const double* w, const T* s) {
        x = Gap<T>(w[0], curvature.wide);
        p = Gap<T>(w[1], curvature.wide);
        c = curvature.c, rc = curvature.rooted(), xx = T(w[0]), pp = T(w[1]);
        hh = s[0], ha = s[1], pa = s[2], aa = s[3];
        length = aa == T(0) ? T(1) : root(aa);
        across = p.value * ha - c * hh * pa;
        sine = T(2) * rc * across / (p.value * x.value * length);
    }
    METHOD T angle() const {
        T t = magnitude(sine), a = log_one_plus(t + t * t / (T(1) + root(T(1) + t * t)));
        return sine < T(0) ? -a : a;
    }
};

template <class T> struct ball_dist2plane : BallPlane<T> {
    static constexpr int outs = 0, scalars = 1;
    template <class R> METHOD void stage(Round<0>, R& row, const double* w, const T* s) {
        this->from(row.curvature, w, s);
        row.scalar = this->angle() / this->rc;
    }
};

template <class T> struct ball_dist2plane_back : BallPlane<T> {
    static constexpr int outs = 3, givens = 1;
    T k0, k1, k2, k3, k4, k5;
    template <class R> METHOD void stage(Round<0>, R& row, const double* w, const T* s) {
        this->from(row.curvature, w, s);
        T c = this->c, rc = this->rc, gx = this->x.value, gp = this->p.value, hh = this->hh, pa = this->pa;
        T d_sine = row.given / (rc * root(T(1) + this->sine * this->sine)), turn = d_sine * this->sine;
        T d_across = d_sine * (T(2) * rc) / (gp * gx * this->length);
        T d_gx = -turn / gx * this->x.free, d_gp = (d_across * this->ha - turn / gp) * this->p.free;
        T held = turn * T(0.5) / c - d_across * hh * pa - row.given * this->angle() * T(0.5) / (c * rc);
        row.slope = double(held - this->xx * d_gx - this->pp * d_gp);
        k0 = d_across * gp;
        k1 = -(T(2) * d_across * c * pa);
        k2 = -(T(2) * c * d_gx);
        k3 = -(d_across * c * hh);
        k4 = -(T(2) * c * d_gp);
        k5 = this->aa == T(0) ? T(0) : -turn / this->aa;
    }
    METHOD void blend(const T* v, T* o, int, int) const {
        T h = v[0] - v[1], along = v[2] * k0 + h * k1;
        o[0] = along + v[0] * k2;
        o[1] = (v[2] * k3 + v[1] * k4) - along;
        o[2] = (h * k0 + v[1] * k3) + v[2] * k5;
    }
};

// -- maps about the origin -----------------------------------------------------------------------------------------

template <class T, bool inside> struct BallExpmap0 : Map {
    static constexpr int vectors = 1, rounds = inside ? 2 : 1, optional = 1;
    METHOD static constexpr int wide(int r) { return r; }
    METHOD static constexpr int plain(int r) { return 1 - r; }
    T t, pull = T(1);
    bool edge;
    METHOD bool needs() const { return edge; }
    METHOD void add(Round<0>, const T* v, double*, T* s) const { s[0] += v[0] * v[0]; }
    template <class R> METHOD void stage(Round<0>, R& row, const double*, const T* s) {
        T square = row.curvature.c * s[0];
        t = tanhc(square);
        edge = near_edge(sech2(square));
    }
    METHOD void add(Round<1>, const T* v, double* w, T*) const { w[0] += wide_square(v[0] * t); }
    template <class R> METHOD void stage(Round<1>, R& row, const double* w, const T*) {
        pull = Pull<T>(w[0], row.curvature.wide).scale;
    }
    METHOD void blend(const T* v, T* o, int, int) const { o[0] = inside ? v[0] * t * pull : v[0] * t; }
};

template <class T> struct ball_expmap0 : BallExpmap0<T, false> {};
template <class T> struct ball_expmap0_inside : BallExpmap0<T, true> {};

// o = a G + b v
template <class T> struct BallRadialBack : Map {
    static constexpr int vectors = 2;
    T a, b;
    METHOD void blend(const T* v, T* o, int, int) const { o[0] = v[1] * a + v[0] * b; }
};

template <class T, bool inside> struct BallExpmap0Back : BallRadialBack<T> {
    static constexpr int rounds = inside ? 2 : 1, optional = 1;
    METHOD static constexpr int wide(int r) { return r; }
    METHOD static constexpr int plain(int r) { return 2 - r; }
    T t, sech, square, uu, gu;
    METHOD bool needs() const { return near_edge(sech); }
    METHOD void add(Round<0>, const T* v, double*, T* s) const {
        s[0] += v[0] * v[0];
        s[1] += v[0] * v[1];
    }
    template <class R> METHOD void stage(Round<0>, R& row, const double*, const T* s) {
        uu = s[0], gu = s[1];
        square = row.curvature.c * uu;
        t = tanhc(square);
        sech = sech2(square);
        T slope = gu * tanhc_slope(square, t, sech);
        row.slope = double(slope * uu);
        this->a = t;
        this->b = T(2) * row.curvature.c * slope;
    }
    METHOD void add(Round<1>, const T* v, double* w, T* s) const {
        w[0] += wide_square(v[0] * t);
        s[0] += v[0] * v[0] * t * t;
    }
    template <class R> METHOD void stage(Round<1>, R& row, const double* w, const T*) {
        Pull<T> pull(w[0], row.curvature.wide);
        if (!pull.outside) return;
        // The result is a constant times u/|u|, by the constant's 1/sqrt(c).
        T k = pull.scale * t;
        this->a = k;
        this->b = -(k * gu / uu);
        row.slope = double(T(-0.5) * k * gu / row.curvature.c);
    }
};

template <class T> struct ball_expmap0_back : BallExpmap0Back<T, false> {};
template <class T> struct ball_expmap0_inside_back : BallExpmap0Back<T, true> {};

template <class T> struct ball_logmap0 : Map {
    static constexpr int vectors = 1;
    METHOD static constexpr int wide(int) { return 1; }
    METHOD static constexpr int plain(int) { return 0; }
    T a;
    METHOD void add(Round<0>, const T* v, double* w, T*) const { w[0] += wide_square(v[0]); }
    template <class R> METHOD void stage(Round<0>, R& row, const double* w, const T*) {
        T g = Gap<T>(w[0], row.curvature.wide).value;
        a = arsinhc(row.curvature.c * T(w[0]) / g) / root(g);
    }
    METHOD void blend(const T* v, T* o, int, int) const { o[0] = v[0] * a; }
};

template <class T> struct ball_logmap0_back : BallRadialBack<T> {
    METHOD static constexpr int wide(int) { return 1; }
    METHOD void add(Round<0>, const T* v, double* w, T* s) const {
        w[0] += wide_square(v[0]);
        s[0] += v[0] * v[1];
    }
    template <class R> METHOD void stage(Round<0>, R& row, const double* w, const T* s) {
        Gap<T> gap(w[0], row.curvature.wide);
        T g = gap.value, c = row.curvature.c, yy = T(w[0]), square = c * yy, q = square / g;
        T value = arsinhc(q), r = T(1) / root(g), d_q = s[0] * r * arsinhc_slope(q, value);
        // d q / d square = 1/g + q/g and d g / d square = -1, which is 0 at the floor
        T d_g = -(d_q * q / g + T(0.5) * s[0] * value * r / g) * gap.free;
        T slope = d_q / g - d_g;
        row.slope = double(slope * yy);
        this->a = value * r;
        this->b = T(2) * c * slope;
    }
};

template <class T> struct ball_project : Map {
    static constexpr int vectors = 1;
    METHOD static constexpr int wide(int) { return 1; }
    METHOD static constexpr int plain(int) { return 0; }
    T a;
    METHOD void add(Round<0>, const T* v, double* w, T*) const { w[0] += wide_square(v[0]); }
    template <class R> METHOD void stage(Round<0>, R& row, const double* w, const T*) {
        a = Pull<T>(w[0], row.curvature.wide).scale;
    }
    METHOD void blend(const T* v, T* o, int, int) const { o[0] = v[0] * a; }
};

template <class T> struct ball_project_back : BallRadialBack<T> {
    METHOD static constexpr int wide(int) { return 1; }
    METHOD void add(Round<0>, const T* v, double* w, T* s) const {
        w[0] += wide_square(v[0]);
        s[0] += v[0] * v[1];
    }
    template <class R> METHOD void stage(Round<0>, R& row, const double* w, const T* s) {
        PullBack<T> pull;
        pull.from(w[0], s[0], row.curvature.wide);
        row.slope = double(pull.slope);
        this->a = pull.scale;
        this->b = -pull.along;
    }
};

}  // namespace holonomy
