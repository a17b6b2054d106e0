// Row maps of the unit sphere; the reference is holonomy.manifolds.spherical, whose formulas these are.
//
// In the backward passes d_q is the derivative of <G, result> by q, where G is the upstream gradient. At exactly
// antipodal points log and transport follow the great circle through the basis vector least aligned with x: only rows
// there search for it.
#pragma once

#include "even.cuh"
#include "rows.cuh"

namespace holonomy {

// -- projection ----------------------------------------------------------------------------------------------------

template <class T> struct sphere_project : Map {
    static constexpr int vectors = 1;
    T length;
    METHOD void add(Round<0>, const T* v, double*, T* s) const { s[0] += v[0] * v[0]; }
    template <class R> METHOD void stage(Round<0>, R&, const double*, const T* s) { length = root(s[0]); }
    METHOD void blend(const T* v, T* o, int i, int d) const {
        // The zero vector goes to the last pole, so that the result is always on the sphere.
        o[0] = length == T(0) ? (i == d - 1 ? T(1) : T(0)) : v[0] / length;
    }
};

template <class T> struct sphere_project_back : Map {
    static constexpr int vectors = 2;
    METHOD static constexpr int plain(int) { return 2; }
    T a, b;
    METHOD void add(Round<0>, const T* v, double*, T* s) const {
        s[0] += v[0] * v[0];
        s[1] += v[0] * v[1];
    }
    template <class R> METHOD void stage(Round<0>, R&, const double*, const T* s) {
        bool zero = s[0] == T(0);
        a = zero ? T(0) : T(1) / root(s[0]);
        b = zero ? T(0) : -(a * (s[1] / s[0]));
    }
    METHOD void blend(const T* v, T* o, int, int) const { o[0] = v[1] * a + v[0] * b; }
};

// -- exponential map -----------------------------------------------------------------------------------------------

template <class T> struct sphere_expmap : Map {
    static constexpr int vectors = 2, rounds = 2;
    T a, b, length;
    METHOD void add(Round<0>, const T* v, double*, T* s) const { s[0] += v[1] * v[1]; }
    template <class R> METHOD void stage(Round<0>, R&, const double*, const T* s) {
        a = cosine_root(s[0]);
        b = sinc(s[0]);
    }
    METHOD T moved(const T* v) const { return v[0] * a + v[1] * b; }
    METHOD void add(Round<1>, const T* v, double*, T* s) const { s[0] += square(moved(v)); }
    template <class R> METHOD void stage(Round<1>, R&, const double*, const T* s) { length = root(s[0]); }
    METHOD void blend(const T* v, T* o, int, int) const { o[0] = moved(v) / length; }
};

template <class T> struct sphere_expmap_back : Map {
    static constexpr int vectors = 3, outs = 2, rounds = 2;
    METHOD static constexpr int plain(int r) { return r == 0 ? 3 : 4; }
    T a, b, slope_a, slope_b, gx, gu, scale, along, k;
    METHOD void add(Round<0>, const T* v, double*, T* s) const {
        s[0] += v[1] * v[1];
        s[1] += v[2] * v[0];
        s[2] += v[2] * v[1];
    }
    template <class R> METHOD void stage(Round<0>, R&, const double*, const T* s) {
        a = cosine_root(s[0]);
        b = sinc(s[0]);
        slope_a = T(-0.5) * b;
        slope_b = sinc_slope(s[0], b, a);
        gx = s[1], gu = s[2];
    }
    METHOD T moved(const T* v) const { return v[0] * a + v[1] * b; }
    METHOD void add(Round<1>, const T* v, double*, T* s) const {
        T y = moved(v);
        s[0] += y * y;
        s[1] += v[2] * y;
        s[2] += v[0] * y;
        s[3] += v[1] * y;
    }
    template <class R> METHOD void stage(Round<1>, R&, const double*, const T* s) {
        // Behind the division by the length of y the upstream gradient is `scale` G - `along` y.
        scale = T(1) / root(s[0]);
        along = scale * s[1] / s[0];
        k = T(2) * ((scale * gx - along * s[2]) * slope_a + (scale * gu - along * s[3]) * slope_b);
    }
    METHOD void blend(const T* v, T* o, int, int) const {
        T g = scale * v[2] - along * moved(v);
        o[0] = a * g;
        o[1] = b * g + k * v[1];
    }
};

// -- exponential map with transport --------------------------------------------------------------------------------

// (1 - cos r)/r^2 and its derivative by s = r^2, given sin(r)/r.
template <class T> FN T versine(T s) {
    if (s < T(1)) {
        return polynomial(s, 1.0 / 2.0, -1.0 / 24.0, 1.0 / 720.0, -1.0 / 40320.0, 1.0 / 3628800.0, -1.0 / 479001600.0,
                          1.0 / 87178291200.0, -1.0 / 20922789888000.0, 1.0 / 6402373705728000.0);
    }
    T half = sine(T(0.5) * root(s));
    return T(2) * half * half / s;
}

template <class T> FN T versine_slope(T s, T value, T sinc) {
    if (s < T(1)) {
        return polynomial(s, -1.0 / 24.0, 2.0 / 720.0, -3.0 / 40320.0, 4.0 / 3628800.0, -5.0 / 479001600.0,
                          6.0 / 87178291200.0, -7.0 / 20922789888000.0, 8.0 / 6402373705728000.0);
    }
    return (T(0.5) * sinc - value) / s;
}

// y as in the exponential map, and w = v - <u, v> (b x + e u), which turns only the component of v along u.
template <class T> struct sphere_expmap_transport : Map {
    static constexpr int vectors = 3, outs = 2, rounds = 2;
    METHOD static constexpr int plain(int r) { return r == 0 ? 2 : 1; }
    T a, b, e, along, length;
    METHOD void add(Round<0>, const T* v, double*, T* s) const {
        s[0] += v[1] * v[1];
        s[1] += v[1] * v[2];
    }
    template <class R> METHOD void stage(Round<0>, R&, const double*, const T* s) {
        a = cosine_root(s[0]);
        b = sinc(s[0]);
        e = versine(s[0]);
        along = s[1];
    }
    METHOD T moved(const T* v) const { return v[0] * a + v[1] * b; }
    METHOD void add(Round<1>, const T* v, double*, T* s) const { s[0] += square(moved(v)); }
    template <class R> METHOD void stage(Round<1>, R&, const double*, const T* s) { length = root(s[0]); }
    METHOD void blend(const T* v, T* o, int, int) const {
        o[0] = moved(v) / length;
        o[1] = v[2] - along * (b * v[0] + e * v[1]);
    }
};

template <class T> struct sphere_expmap_transport_back : Map {
    static constexpr int vectors = 5, outs = 3, rounds = 2;
    METHOD static constexpr int plain(int r) { return r == 0 ? 6 : 4; }
    T a, b, e, slope_b, gx, gu, uv, hz, d_turn, scale, along, k;
    METHOD void add(Round<0>, const T* v, double*, T* s) const {
        s[0] += v[1] * v[1];
        s[1] += v[3] * v[0];
        s[2] += v[3] * v[1];
        s[3] += v[1] * v[2];
        s[4] += v[4] * v[0];
        s[5] += v[4] * v[1];
    }
    template <class R> METHOD void stage(Round<0>, R&, const double*, const T* s) {
        a = cosine_root(s[0]);
        b = sinc(s[0]);
        e = versine(s[0]);
        slope_b = sinc_slope(s[0], b, a);
        gx = s[1], gu = s[2], uv = s[3];
        hz = b * s[4] + e * s[5];
        d_turn = -uv * (s[4] * slope_b + s[5] * versine_slope(s[0], e, b));
    }
    METHOD T moved(const T* v) const { return v[0] * a + v[1] * b; }
    METHOD void add(Round<1>, const T* v, double*, T* s) const {
        T y = moved(v);
        s[0] += y * y;
        s[1] += v[3] * y;
        s[2] += v[0] * y;
        s[3] += v[1] * y;
    }
    template <class R> METHOD void stage(Round<1>, R&, const double*, const T* s) {
        scale = T(1) / root(s[0]);
        along = scale * s[1] / s[0];
        T d_a = scale * gx - along * s[2], d_b = scale * gu - along * s[3];
        k = T(2) * (d_a * (T(-0.5) * b) + d_b * slope_b + d_turn);
    }
    METHOD void blend(const T* v, T* o, int, int) const {
        T g = scale * v[3] - along * moved(v);
        o[0] = a * g - (uv * b) * v[4];
        o[1] = b * g + k * v[1] - hz * v[2] - (uv * e) * v[4];
        o[2] = v[4] - hz * v[1];
    }
};

// -- distance ------------------------------------------------------------------------------------------------------

template <class T> struct SpherePair : Map {
    static constexpr int vectors = 2;
    METHOD static constexpr int plain(int) { return 2; }
    METHOD void add(Round<0>, const T* v, double*, T* s) const {
        s[0] += square(v[0] - v[1]);
        s[1] += square(v[0] + v[1]);
    }
};

template <class T> struct sphere_dist : SpherePair<T> {
    static constexpr int outs = 0, scalars = 1;
    template <class R> METHOD void stage(Round<0>, R& row, const double*, const T* s) {
        row.scalar = T(2) * arc_tangent(root(s[0]), root(s[1]));
    }
};

template <class T> struct sphere_dist2 : SpherePair<T> {
    static constexpr int outs = 0, scalars = 1;
    template <class R> METHOD void stage(Round<0>, R& row, const double*, const T* s) {
        row.scalar = s[0] < T(2) ? s[0] * square(asinc(T(0.25) * s[0]))
                                 : T(4) * square(arc_tangent(root(s[0]), root(s[1])));
    }
};

template <class T> struct SpherePairBack : SpherePair<T> {
    static constexpr int outs = 2, givens = 1;
    T k, m;
    METHOD void blend(const T* v, T* o, int, int) const {
        T h = k * (v[0] - v[1]), both = m * (v[0] + v[1]);
        o[0] = both + h;
        o[1] = both - h;
    }
    // Derivative of atan2(|x - y|, |x + y|) times d; each length has derivative 0 at 0.
    METHOD void angle(const T* s, T d) {
        T p = root(s[0]), q = root(s[1]), all = s[0] + s[1];
        k = p > T(0) ? d * (q / p) / all : T(0);
        m = q > T(0) ? -(d * (p / q)) / all : T(0);
    }
};

template <class T> struct sphere_dist_back : SpherePairBack<T> {
    template <class R> METHOD void stage(Round<0>, R& row, const double*, const T* s) {
        this->angle(s, T(2) * row.given);
    }
};

template <class T> struct sphere_dist2_back : SpherePairBack<T> {
    template <class R> METHOD void stage(Round<0>, R& row, const double*, const T* s) {
        if (s[0] < T(2)) {
            T q = T(0.25) * s[0];
            // theta d theta / d(chord^2) = asinc(q)/sqrt(1 - q)
            this->k = T(2) * row.given * asinc(q) / root(T(1) - q);
            this->m = T(0);
        } else {
            this->angle(s, T(8) * row.given * arc_tangent(root(s[0]), root(s[1])));
        }
    }
};

// -- antipodal points ----------------------------------------------------------------------------------------------

// The unit tangent vector at x along the basis vector i that is least aligned with x: (e_i - x_i x)/length.
template <class T> struct Direction {
    int where = -1;
    T at = T(0), length = T(1);
    METHOD void from(int i, T xi, T xx) {
        where = i;
        at = xi;
        length = root(T(1) - T(2) * xi * xi + xi * xi * xx);
    }
    METHOD T entry(int i, T x) const { return ((i == where ? T(1) : T(0)) - at * x) / length; }
    METHOD T dot(T vi, T xv) const { return (vi - at * xv) / length; }
    // From the gradient D by the direction, as its coordinate and its products, to the gradient by x.
    METHOD T back(int i, T x, T d, T direction, T along, T dx) const {
        T g = (d - along * direction) / length;
        return -(at * g) - (i == where ? dx : T(0));
    }
};

// -- logarithm -----------------------------------------------------------------------------------------------------

// angle/sin(angle) from the chords, and its derivatives by their squares p and m.
template <class T> struct SphereFactor {
    T value, by_p, by_m;
    METHOD void from(T p, T m, bool slopes) {
        by_p = by_m = T(0);
        if (p < T(2)) {
            T q = T(0.25) * p, a = asinc(q), r = T(1) / root(T(1) - q);
            value = a * r;
            if (slopes) by_p = T(0.25) * r * (asinc_slope(q, a) + T(0.5) * a * r * r);
            return;
        }
        T far = root(p), near = root(m), all = far * near, angle = arc_tangent(far, near);
        value = T(4) * angle / all;
        if (slopes) {
            T turn = all / (p + m);
            by_p = T(2) / (p * all) * (turn - angle);
            by_m = -(T(2) / (m * all)) * (turn + angle);
        }
    }
};

template <class T> struct sphere_logmap : SpherePair<T> {
    static constexpr int rounds = 2, optional = 1;
    static constexpr bool seeks = true;
    METHOD static constexpr int plain(int r) { return r == 0 ? 2 : 1; }
    static constexpr T pi = T(3.14159265358979323846);
    T f, half;
    bool opposite;
    Direction<T> direction;
    int where;
    T at;
    using SpherePair<T>::add;
    METHOD bool needs() const { return opposite; }
    template <class R> METHOD void stage(Round<0>, R&, const double*, const T* s) {
        opposite = s[1] == T(0);
        SphereFactor<T> factor;
        factor.from(s[0], opposite ? T(1) : s[1], false);
        f = factor.value;
        half = T(0.5) * s[0];
    }
    METHOD void found(int i, const T* v) { where = i, at = v[0]; }
    METHOD void add(Round<1>, const T* v, double*, T* s) const { s[0] += v[0] * v[0]; }
    template <class R> METHOD void stage(Round<1>, R&, const double*, const T* s) { direction.from(where, at, s[0]); }
    METHOD void blend(const T* v, T* o, int i, int) const {
        o[0] = opposite ? pi * direction.entry(i, v[0]) : f * ((v[1] - v[0]) + half * v[0]);
    }
};

template <class T> struct sphere_logmap_back : Map {
    static constexpr int vectors = 3, outs = 2, rounds = 2, optional = 1;
    static constexpr bool seeks = true;
    METHOD static constexpr int plain(int r) { return r == 0 ? 4 : 2; }
    static constexpr T pi = T(3.14159265358979323846);
    T f, half, k_h, k_s;
    bool opposite;
    Direction<T> direction;
    int where;
    T at, g_at, along, dx;
    METHOD bool needs() const { return opposite; }
    METHOD void add(Round<0>, const T* v, double*, T* s) const {
        T h = v[1] - v[0];
        s[0] += h * h;
        s[1] += square(v[0] + v[1]);
        s[2] += v[2] * h;
        s[3] += v[2] * v[0];
    }
    template <class R> METHOD void stage(Round<0>, R&, const double*, const T* s) {
        opposite = s[1] == T(0);
        SphereFactor<T> factor;
        factor.from(s[0], opposite ? T(1) : s[1], true);
        T d_f = s[2] + T(0.5) * s[0] * s[3];
        f = factor.value;
        half = T(0.5) * s[0];
        k_h = T(2) * (T(0.5) * f * s[3] + d_f * factor.by_p);
        k_s = T(2) * d_f * factor.by_m;
    }
    METHOD void found(int i, const T* v) { where = i, at = v[0], g_at = v[2]; }
    METHOD void add(Round<1>, const T* v, double*, T* s) const {
        s[0] += v[0] * v[0];
        s[1] += v[0] * v[2];
    }
    template <class R> METHOD void stage(Round<1>, R&, const double*, const T* s) {
        direction.from(where, at, s[0]);
        along = direction.dot(g_at, s[1]);
        // <(G - along e)/length, x>, with <e, x> = (x_i - x_i |x|^2)/length
        T ex = direction.dot(at, s[0]);
        dx = pi * (s[1] - along * ex) / direction.length;
    }
    METHOD void blend(const T* v, T* o, int i, int) const {
        if (opposite) {
            o[0] = direction.back(i, v[0], pi * v[2], direction.entry(i, v[0]), pi * along, dx);
            o[1] = T(0);
            return;
        }
        T h = v[1] - v[0], both = k_s * (v[0] + v[1]), g = f * v[2];
        o[0] = both - (g + k_h * h) + half * g;
        o[1] = both + (g + k_h * h);
    }
};

// -- parallel transport --------------------------------------------------------------------------------------------

template <class T> struct sphere_transport : Map {
    static constexpr int vectors = 3, rounds = 2, optional = 1;
    static constexpr bool seeks = true;
    METHOD static constexpr int plain(int) { return 2; }
    T k;
    bool opposite;
    Direction<T> direction;
    int where;
    T at, v_at;
    METHOD bool needs() const { return opposite; }
    METHOD void add(Round<0>, const T* v, double*, T* s) const {
        s[0] += square(v[0] + v[1]);
        s[1] += v[1] * v[2];
    }
    template <class R> METHOD void stage(Round<0>, R&, const double*, const T* s) {
        opposite = s[0] == T(0);
        k = T(-2) * s[1] / (opposite ? T(1) : s[0]);
    }
    METHOD void found(int i, const T* v) { where = i, at = v[0], v_at = v[2]; }
    METHOD void add(Round<1>, const T* v, double*, T* s) const {
        s[0] += v[0] * v[0];
        s[1] += v[0] * v[2];
    }
    template <class R> METHOD void stage(Round<1>, R&, const double*, const T* s) {
        direction.from(where, at, s[0]);
        if (opposite) k = T(-2) * direction.dot(v_at, s[1]);
    }
    METHOD void blend(const T* v, T* o, int i, int) const {
        o[0] = v[2] + k * (opposite ? direction.entry(i, v[0]) : v[0] + v[1]);
    }
};

template <class T> struct sphere_transport_back : Map {
    static constexpr int vectors = 4, outs = 3, rounds = 2, optional = 1;
    static constexpr bool seeks = true;
    METHOD static constexpr int plain(int) { return 3; }
    T k, d_k, d_yv, d_m;
    bool opposite;
    Direction<T> direction;
    int where;
    T at, v_at, g_at, ev, eg, along, dx;
    METHOD bool needs() const { return opposite; }
    METHOD void add(Round<0>, const T* v, double*, T* s) const {
        T both = v[0] + v[1];
        s[0] += both * both;
        s[1] += v[1] * v[2];
        s[2] += v[3] * both;
    }
    template <class R> METHOD void stage(Round<0>, R&, const double*, const T* s) {
        opposite = s[0] == T(0);
        T m = opposite ? T(1) : s[0];
        k = T(-2) * s[1] / m;
        d_yv = T(-2) * s[2] / m;
        d_m = T(-2) * k * s[2] / m;
    }
    METHOD void found(int i, const T* v) { where = i, at = v[0], v_at = v[2], g_at = v[3]; }
    METHOD void add(Round<1>, const T* v, double*, T* s) const {
        s[0] += v[0] * v[0];
        s[1] += v[0] * v[2];
        s[2] += v[0] * v[3];
    }
    template <class R> METHOD void stage(Round<1>, R&, const double*, const T* s) {
        direction.from(where, at, s[0]);
        ev = direction.dot(v_at, s[1]);
        eg = direction.dot(g_at, s[2]);
        // The gradient by e is D = -2(<e, v> G + <e, G> v); along = <D, e>.
        along = T(-4) * ev * eg;
        T ex = direction.dot(at, s[0]);
        dx = (T(-2) * (ev * s[2] + eg * s[1]) - along * ex) / direction.length;
    }
    METHOD void blend(const T* v, T* o, int i, int) const {
        if (opposite) {
            T e = direction.entry(i, v[0]);
            o[0] = direction.back(i, v[0], T(-2) * (ev * v[3] + eg * v[2]), e, along, dx);
            o[1] = T(0);
            o[2] = v[3] - T(2) * eg * e;
            return;
        }
        T both = v[0] + v[1];
        o[0] = k * v[3] + d_m * both;
        o[1] = o[0] + d_yv * v[2];
        o[2] = v[3] + d_yv * v[1];
    }
};

}  // namespace holonomy
