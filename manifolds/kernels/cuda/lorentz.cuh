// Row maps of the hyperboloid; the reference is holonomy.manifolds.hyperboloid, whose formulas these are.
//
// A row is the time and then the space part, over which the sums run. With h = x - y, t = x + y, T = x_0 + y_0,
// a = x_0 - y_0 and r = a/T, the vector k = h - r t = 2 (y_0 x - x_0 y)/T carries the derivatives of the chord q too;
// the second form serves where one point is much farther out (|r| > 1/2):
//
//     dq/dx = (c/4) (T/x_0) k,   dq/dy = -(c/4) (T/y_0) k,   dq/dc = |k|^2 T^2/(16 x_0 y_0).
//
// In the backward passes d_q is the derivative of <G, result> by q, where G is the upstream gradient, and g0 the
// upstream gradient of the result's time, over that time or that of the point at which the result is tangent. The
// gradient by a time is 0: the maps do not read it.
#pragma once

#include "even.cuh"
#include "rows.cuh"

namespace holonomy {

struct Spacetime : Map {
    static constexpr int lead = 1;
};

// In a backward pass: no gradient by a time.
template <class T> struct SpacetimeBack : Spacetime {
    METHOD T head(int) const { return T(0); }
};

template <class T> FN T time_of(T square, T c) { return root(T(1) / c + square); }

// -- the cap -------------------------------------------------------------------------------------------------------

// What is done to a space part y that ends a map, from the sum of (eps y)^2: it is scaled back to sqrt(c)|y| = 1/eps
// where it exceeds that. Behind it the upstream gradient is scale (G + along scale y).
template <class T, bool cap> struct Ending {
    T time, scale = T(1), along;
    bool far;
    METHOD void from(T small_square, T c) {
        T excess = c * small_square, per = T(1) / (Real<T>::eps * Real<T>::eps);
        far = cap && excess > T(1);
        if (far) scale = T(1) / root(excess);
        time = far ? root((T(1) + per) / c) : time_of(small_square * per, c);
    }
    // The backward pass, given <G, y> and the upstream gradient of the time; the derivative by c that is not through y.
    METHOD T back(T product, T upstream, T c) {
        T at = scale * product;
        if (far) {
            along = -(at * c * Real<T>::eps) * Real<T>::eps;
            return T(-0.5) * (at + time * upstream) / c;
        }
        along = upstream / time;
        return T(-0.5) * along / (c * c);
    }
};

// -- exponential map: s = c|u|_L^2 = c|k|^2 + slope^2, k = u - slope x, slope = <x, u>/x_0^2 -------------------------

// y = x + a x + b u, of s; a vector that leads past the cap from every point is shortened first.
template <class T> struct Turn {
    T a, b, by_a, by_b;  // the derivatives are by s
    METHOD void from(T s, bool slopes) {
        // (2 log(2/eps) + 2)^2
        const T longest = Real<T>::single ? T(1244.0480027350454) : T(5696.264468942328);
        bool beyond = s > longest;
        T ratio = beyond ? root(longest / s) : T(1), t = beyond ? longest : s;
        T sine = sinhc(t);
        a = T(0.5) * t * square(sinhc(T(0.25) * t));
        b = ratio * sine;
        if (slopes) {
            by_a = beyond ? T(0) : T(0.5) * sine;
            by_b = beyond ? T(-0.5) * b / s : sinhc_slope(t, sine, T(1) + a);
        }
    }
};

template <class T, bool cap> struct LorentzExpmap : Spacetime {
    static constexpr int vectors = 2, rounds = 3;
    METHOD static constexpr int plain(int r) { return r == 0 ? 2 : 1; }
    T slope;
    Turn<T> turn;
    Ending<T, cap> ending;
    METHOD void add(Round<0>, const T* v, double*, T* s) const {
        s[0] += v[0] * v[0];
        s[1] += v[0] * v[1];
    }
    template <class R> METHOD void stage(Round<0>, R& row, const double*, const T* s) {
        T x0 = time_of(s[0], row.curvature.c);
        slope = s[1] / x0 / x0;
    }
    METHOD void add(Round<1>, const T* v, double*, T* s) const { s[0] += square(v[1] - slope * v[0]); }
    template <class R> METHOD void stage(Round<1>, R& row, const double*, const T* s) {
        turn.from(row.curvature.c * s[0] + slope * slope, false);
    }
    METHOD T moved(const T* v) const { return v[0] + (v[0] * turn.a + v[1] * turn.b); }
    METHOD void add(Round<2>, const T* v, double*, T* s) const { s[0] += square(Real<T>::eps * moved(v)); }
    template <class R> METHOD void stage(Round<2>, R& row, const double*, const T* s) {
        ending.from(s[0], row.curvature.c);
    }
    METHOD void blend(const T* v, T* o, int, int) const { o[0] = cap ? moved(v) * ending.scale : moved(v); }
    METHOD T head(int) const { return ending.time; }
};

template <class T> struct lorentz_expmap : LorentzExpmap<T, true> {};
template <class T> struct lorentz_uncapped_expmap : LorentzExpmap<T, false> {};

template <class T, bool cap> struct LorentzExpmapBack : SpacetimeBack<T> {
    static constexpr int vectors = 3, outs = 2, rounds = 3;
    METHOD static constexpr int plain(int r) { return r == 1 ? 1 : 4; }
    T slope, kk, gx, gu, d_s;
    Turn<T> turn;
    Ending<T, cap> ending;
    METHOD void add(Round<0>, const T* v, double*, T* s) const {
        s[0] += v[0] * v[0];
        s[1] += v[0] * v[1];
        s[2] += v[2] * v[0];
        s[3] += v[2] * v[1];
    }
    template <class R> METHOD void stage(Round<0>, R& row, const double*, const T* s) {
        T x0 = time_of(s[0], row.curvature.c);
        slope = s[1] / x0 / x0;
        gx = s[2], gu = s[3];
    }
    METHOD void add(Round<1>, const T* v, double*, T* s) const { s[0] += square(v[1] - slope * v[0]); }
    template <class R> METHOD void stage(Round<1>, R& row, const double*, const T* s) {
        kk = s[0];
        turn.from(row.curvature.c * kk + slope * slope, true);
    }
    METHOD T moved(const T* v) const { return v[0] + (v[0] * turn.a + v[1] * turn.b); }
    METHOD void add(Round<2>, const T* v, double*, T* s) const {
        T y = moved(v);
        s[0] += square(Real<T>::eps * y);
        s[1] += v[2] * y;
        s[2] += v[0] * y;
        s[3] += v[1] * y;
    }
    template <class R> METHOD void stage(Round<2>, R& row, const double*, const T* s) {
        T c = row.curvature.c;
        ending.from(s[0], c);
        T rest = ending.back(s[1], row.head[2], c), k = ending.scale;
        T ex = k * (gx + ending.along * (k * s[2])), eu = k * (gu + ending.along * (k * s[3]));
        T d_square = ex * turn.by_a + eu * turn.by_b;
        row.slope = double(d_square * kk + rest);
        d_s = T(2) * c * d_square;
    }
    METHOD void blend(const T* v, T* o, int, int) const {
        T w = d_s * (v[1] - slope * v[0]);
        T g = ending.scale * (v[2] + ending.along * (ending.scale * moved(v)));
        o[0] = g + (g * turn.a - slope * w);
        o[1] = g * turn.b + w;
    }
};

template <class T> struct lorentz_expmap_back : LorentzExpmapBack<T, true> {};
template <class T> struct lorentz_uncapped_expmap_back : LorentzExpmapBack<T, false> {};

// -- the chord -----------------------------------------------------------------------------------------------------

template <class T> struct LorentzChord {
    T c, x0, y0, total, a, r, left, right, q, rate;  // rate is dq/dc
    METHOD void times(T xx, T yy, T product, T curvature) {
        c = curvature;
        x0 = time_of(xx, c), y0 = time_of(yy, c);
        total = x0 + y0;
        a = product / total;
        r = a / total;
        bool even = r * r < T(0.25);
        left = even ? T(1) : T(2) * y0 / total;
        right = even ? T(1) : T(2) * x0 / total;
        r = even ? r : T(0);
    }
    // T^2/(x_0 y_0) and a/x_0 first: products of three large coordinates overflow.
    METHOD void from(T kk) {
        rate = kk * (T(0.0625) * (total / x0) * (total / y0));
        q = c * rate + T(0.25) * (a / x0) * (a / y0);
    }
    METHOD T between(T x, T y) const { return (left * x - right * y) - r * (x + y); }
    METHOD T at_x(T d_q) const { return d_q * (T(0.25) * c) * (total / x0); }
    METHOD T at_y(T d_q) const { return d_q * (T(0.25) * c) * (total / y0); }
};

// Rounds 0 and 1 of every map of two points.
template <class T, class Base> struct LorentzPair : Base {
    static constexpr int vectors = 2, rounds = 2;
    METHOD static constexpr int plain(int r) { return r == 0 ? 3 : 1; }
    LorentzChord<T> chord;
    METHOD void add(Round<0>, const T* v, double*, T* s) const {
        s[0] += v[0] * v[0];
        s[1] += v[1] * v[1];
        s[2] += (v[0] - v[1]) * (v[0] + v[1]);
    }
    template <class R> METHOD void stage(Round<0>, R& row, const double*, const T* s) {
        chord.times(s[0], s[1], s[2], row.curvature.c);
    }
    METHOD void add(Round<1>, const T* v, double*, T* s) const { s[0] += square(chord.between(v[0], v[1])); }
};

// -- distance ------------------------------------------------------------------------------------------------------

template <class T> struct lorentz_dist : LorentzPair<T, Spacetime> {
    static constexpr int outs = 0, scalars = 1;
    using LorentzPair<T, Spacetime>::stage;
    template <class R> METHOD void stage(Round<1>, R& row, const double*, const T* s) {
        this->chord.from(s[0]);
        row.scalar = T(2) / row.curvature.rooted() * arsinh_root(this->chord.q);
    }
};

template <class T> struct lorentz_dist2 : LorentzPair<T, Spacetime> {
    static constexpr int outs = 0, scalars = 1;
    using LorentzPair<T, Spacetime>::stage;
    template <class R> METHOD void stage(Round<1>, R& row, const double*, const T* s) {
        this->chord.from(s[0]);
        row.scalar = T(4) / row.curvature.c * this->chord.q * square(arsinhc(this->chord.q));
    }
};

template <class T> struct LorentzDistBack : LorentzPair<T, SpacetimeBack<T>> {
    static constexpr int outs = 2, givens = 1;
    T at_x, at_y;
    template <class R> METHOD void chain(R& row, T d_q, T d_c) {
        row.slope = double(d_q * this->chord.rate + d_c);
        at_x = this->chord.at_x(d_q);
        at_y = this->chord.at_y(d_q);
    }
    METHOD void blend(const T* v, T* o, int, int) const {
        T k = this->chord.between(v[0], v[1]);
        o[0] = k * at_x;
        o[1] = -(k * at_y);
    }
};

template <class T> struct lorentz_dist_back : LorentzDistBack<T> {
    using LorentzPair<T, SpacetimeBack<T>>::stage;
    template <class R> METHOD void stage(Round<1>, R& row, const double*, const T* s) {
        this->chord.from(s[0]);
        T q = this->chord.q, c = row.curvature.c, rc = row.curvature.rooted();
        T d_q = q > T(0) ? row.given / (rc * (root(q) * root(T(1) + q))) : T(0);
        this->chain(row, d_q, -(row.given * arsinh_root(q) / (c * rc)));
    }
};

template <class T> struct lorentz_dist2_back : LorentzDistBack<T> {
    using LorentzPair<T, SpacetimeBack<T>>::stage;
    template <class R> METHOD void stage(Round<1>, R& row, const double*, const T* s) {
        this->chord.from(s[0]);
        T q = this->chord.q, c = row.curvature.c, a = arsinhc(q);
        this->chain(row, T(4) / c * row.given * a / root(T(1) + q), -(T(4) / (c * c) * row.given * q * a * a));
    }
};

// -- logarithm: u = f(q) (y - x - 2 q x) ---------------------------------------------------------------------------

template <class T> struct lorentz_logmap : LorentzPair<T, Spacetime> {
    static constexpr int rounds = 3;
    T f, twice, time;
    using LorentzPair<T, Spacetime>::add;
    using LorentzPair<T, Spacetime>::stage;
    template <class R> METHOD void stage(Round<1>, R&, const double*, const T* s) {
        this->chord.from(s[0]);
        T q = this->chord.q;
        f = arsinhc(q) / root(T(1) + q);
        twice = T(2) * q;
    }
    METHOD T vector(const T* v) const { return f * ((v[1] - v[0]) - twice * v[0]); }
    METHOD void add(Round<2>, const T* v, double*, T* s) const { s[0] += v[0] * vector(v); }
    template <class R> METHOD void stage(Round<2>, R&, const double*, const T* s) { time = s[0] / this->chord.x0; }
    METHOD void blend(const T* v, T* o, int, int) const { o[0] = vector(v); }
    METHOD T head(int) const { return time; }
};

template <class T> struct lorentz_logmap_back : SpacetimeBack<T> {
    static constexpr int vectors = 3, outs = 2, rounds = 2;
    METHOD static constexpr int plain(int r) { return r == 0 ? 6 : 1; }
    LorentzChord<T> chord;
    T xx, ge, gx, xe, f, twice, g0, tilt, at_x, at_y;
    METHOD void add(Round<0>, const T* v, double*, T* s) const {
        T e = v[1] - v[0];
        s[0] += v[0] * v[0];
        s[1] += v[1] * v[1];
        s[2] += (v[0] - v[1]) * (v[0] + v[1]);
        s[3] += v[2] * e;
        s[4] += v[2] * v[0];
        s[5] += v[0] * e;
    }
    template <class R> METHOD void stage(Round<0>, R& row, const double*, const T* s) {
        chord.times(s[0], s[1], s[2], row.curvature.c);
        xx = s[0], ge = s[3], gx = s[4], xe = s[5];
    }
    METHOD void add(Round<1>, const T* v, double*, T* s) const { s[0] += square(chord.between(v[0], v[1])); }
    template <class R> METHOD void stage(Round<1>, R& row, const double*, const T* s) {
        chord.from(s[0]);
        T q = chord.q, c = chord.c, x0 = chord.x0;
        g0 = row.head[2] / x0;
        T a = arsinhc(q), r = T(1) / root(T(1) + q);
        f = a * r;
        twice = T(2) * q;
        T slope = (arsinhc_slope(q, a) - T(0.5) * a * r * r) * r;
        T at_e = ge + g0 * xe, along = gx + g0 * xx;
        T d_q = slope * (at_e - twice * along) - T(2) * f * along;
        tilt = f * (xe - twice * xx) / x0 / x0;
        row.slope = double(d_q * chord.rate + T(0.5) * g0 * tilt / (c * c));
        at_x = chord.at_x(d_q);
        at_y = chord.at_y(d_q);
    }
    METHOD void blend(const T* v, T* o, int, int) const {
        T k = chord.between(v[0], v[1]), along = (v[2] + v[0] * g0) * f;
        T u = ((v[1] - v[0]) - v[0] * twice) * f;
        o[0] = k * at_x - (along + along * twice) + (u - v[0] * tilt) * g0;
        o[1] = along - k * at_y;
    }
};

// -- parallel transport: w = v + m (x + y), m = (c/2) <y, v>_L/(1 + q) -----------------------------------------------

template <class T> struct lorentz_transport : Spacetime {
    static constexpr int vectors = 3, rounds = 3;
    METHOD static constexpr int plain(int r) { return r == 0 ? 4 : r == 1 ? 2 : 1; }
    LorentzChord<T> chord;
    T slope, m, time;
    METHOD void add(Round<0>, const T* v, double*, T* s) const {
        s[0] += v[0] * v[0];
        s[1] += v[1] * v[1];
        s[2] += (v[0] - v[1]) * (v[0] + v[1]);
        s[3] += v[0] * v[2];
    }
    template <class R> METHOD void stage(Round<0>, R& row, const double*, const T* s) {
        chord.times(s[0], s[1], s[2], row.curvature.c);
        slope = s[3] / chord.x0 / chord.x0;
    }
    METHOD void add(Round<1>, const T* v, double*, T* s) const {
        T k = chord.between(v[0], v[1]);
        s[0] += k * k;
        s[1] += k * (v[2] - v[0] * slope);
    }
    // <y, v>_L
    METHOD T product(T across) const {
        T rise = chord.a + T(2) * chord.q * chord.x0;
        return -(T(0.5) * chord.total * across + slope * rise / chord.c) / chord.x0;
    }
    template <class R> METHOD void stage(Round<1>, R&, const double*, const T* s) {
        chord.from(s[0]);
        m = T(0.5) * chord.c * product(s[1]) / (T(1) + chord.q);
    }
    METHOD T turned(const T* v) const { return v[2] + m * (v[0] + v[1]); }
    METHOD void add(Round<2>, const T* v, double*, T* s) const { s[0] += v[1] * turned(v); }
    template <class R> METHOD void stage(Round<2>, R&, const double*, const T* s) { time = s[0] / chord.y0; }
    METHOD void blend(const T* v, T* o, int, int) const { o[0] = turned(v); }
    METHOD T head(int) const { return time; }
};

template <class T> struct lorentz_transport_back : SpacetimeBack<T> {
    static constexpr int vectors = 4, outs = 3, rounds = 2;
    METHOD static constexpr int plain(int r) { return r == 0 ? 7 : 2; }
    LorentzChord<T> chord;
    T slope, gt, yt, yv, m, g0, tilt, v_k, x_across, x_k, y_across, y_k;
    METHOD void add(Round<0>, const T* v, double*, T* s) const {
        T t = v[0] + v[1];
        s[0] += v[0] * v[0];
        s[1] += v[1] * v[1];
        s[2] += (v[0] - v[1]) * t;
        s[3] += v[0] * v[2];
        s[4] += v[3] * t;
        s[5] += v[1] * t;
        s[6] += v[1] * v[2];
    }
    template <class R> METHOD void stage(Round<0>, R& row, const double*, const T* s) {
        chord.times(s[0], s[1], s[2], row.curvature.c);
        slope = s[3] / chord.x0 / chord.x0;
        gt = s[4], yt = s[5], yv = s[6];
    }
    METHOD void add(Round<1>, const T* v, double*, T* s) const {
        T k = chord.between(v[0], v[1]);
        s[0] += k * k;
        s[1] += k * (v[2] - v[0] * slope);
    }
    template <class R> METHOD void stage(Round<1>, R& row, const double*, const T* s) {
        chord.from(s[0]);
        T c = chord.c, x0 = chord.x0, y0 = chord.y0, q = chord.q, a = chord.a, p = T(1) / (T(1) + q);
        T rise = a + T(2) * q * x0;
        T product = -(T(0.5) * chord.total * s[1] + slope * rise / c) / x0;
        g0 = row.head[3] / y0;
        m = T(0.5) * c * product * p;
        tilt = (yv + m * yt) / y0 / y0;
        T d_m = gt + g0 * yt;
        T d_product = T(0.5) * c * d_m * p;
        T d_q = -(d_m * m) * p;
        T lean = T(0.5) * slope * (chord.total / y0);
        // d<y, v>/dc at fixed space parts, by way of the two times
        row.slope = double((d_m * m + d_product * lean * (a / x0) / c) / c + d_q * chord.rate +
                           T(0.5) * g0 * tilt / (c * c));
        v_k = -(d_product * T(0.5)) * (chord.total / x0);
        x_across = -d_product * (y0 / x0);
        x_k = chord.at_x(d_q);
        y_across = d_product;
        y_k = d_product * lean - chord.at_y(d_q);
    }
    METHOD void blend(const T* v, T* o, int, int) const {
        T k = chord.between(v[0], v[1]), across = v[2] - v[0] * slope;
        T g = v[3] + v[1] * g0;
        T turned = v[2] + (v[0] + v[1]) * m;
        o[0] = g * m + across * x_across + k * x_k;
        o[1] = g * m + across * y_across + k * y_k + (turned - v[1] * tilt) * g0;
        o[2] = g + k * v_k;
    }
};

// -- maps of one vector: the result's space part is a multiple of the argument's -------------------------------------

template <class T> struct lorentz_project : Spacetime {
    static constexpr int vectors = 1;
    Ending<T, true> ending;
    METHOD void add(Round<0>, const T* v, double*, T* s) const { s[0] += square(Real<T>::eps * v[0]); }
    template <class R> METHOD void stage(Round<0>, R& row, const double*, const T* s) {
        ending.from(s[0], row.curvature.c);
    }
    METHOD void blend(const T* v, T* o, int, int) const { o[0] = v[0] * ending.scale; }
    METHOD T head(int) const { return ending.time; }
};

template <class T> struct lorentz_project_back : SpacetimeBack<T> {
    static constexpr int vectors = 2;
    METHOD static constexpr int plain(int) { return 2; }
    Ending<T, true> ending;
    METHOD void add(Round<0>, const T* v, double*, T* s) const {
        s[0] += square(Real<T>::eps * v[0]);
        s[1] += v[0] * v[1];
    }
    template <class R> METHOD void stage(Round<0>, R& row, const double*, const T* s) {
        ending.from(s[0], row.curvature.c);
        row.slope = double(ending.back(s[1], row.head[1], row.curvature.c));
    }
    METHOD void blend(const T* v, T* o, int, int) const {
        o[0] = ending.scale * (v[1] + ending.along * (ending.scale * v[0]));
    }
};

template <class T> struct lorentz_expmap0 : Spacetime {
    static constexpr int vectors = 1;
    T k;
    Ending<T, true> ending;
    METHOD void add(Round<0>, const T* v, double*, T* s) const { s[0] += v[0] * v[0]; }
    template <class R> METHOD void stage(Round<0>, R& row, const double*, const T* s) {
        Turn<T> turn;
        turn.from(row.curvature.c * s[0], false);
        ending.from(square(Real<T>::eps * turn.b) * s[0], row.curvature.c);
        k = turn.b * ending.scale;
    }
    METHOD void blend(const T* v, T* o, int, int) const { o[0] = v[0] * k; }
    METHOD T head(int) const { return ending.time; }
};

template <class T> struct lorentz_expmap0_back : SpacetimeBack<T> {
    static constexpr int vectors = 2;
    METHOD static constexpr int plain(int) { return 2; }
    T a, b;
    METHOD void add(Round<0>, const T* v, double*, T* s) const {
        s[0] += v[0] * v[0];
        s[1] += v[0] * v[1];
    }
    template <class R> METHOD void stage(Round<0>, R& row, const double*, const T* s) {
        T c = row.curvature.c, uu = s[0], gu = s[1];
        Turn<T> turn;
        Ending<T, true> ending;
        turn.from(c * uu, true);
        ending.from(square(Real<T>::eps * turn.b) * uu, c);
        T rest = ending.back(turn.b * gu, row.head[1], c), k = turn.b * ending.scale;
        a = k;
        if (ending.far) {  // a constant times u/|u|
            b = -(k * gu / uu);
            row.slope = double(rest);
            return;
        }
        T d_square = (gu + ending.along * turn.b * uu) * turn.by_b;
        b = ending.along * turn.b * turn.b + T(2) * c * d_square;
        row.slope = double(d_square * uu + rest);
    }
    METHOD void blend(const T* v, T* o, int, int) const { o[0] = v[1] * a + v[0] * b; }
};

template <class T> struct lorentz_logmap0 : Spacetime {
    static constexpr int vectors = 1;
    T a;
    METHOD void add(Round<0>, const T* v, double*, T* s) const { s[0] += v[0] * v[0]; }
    template <class R> METHOD void stage(Round<0>, R& row, const double*, const T* s) {
        a = arsinhc(row.curvature.c * s[0]);
    }
    METHOD void blend(const T* v, T* o, int, int) const { o[0] = v[0] * a; }
    METHOD T head(int) const { return T(0); }
};

template <class T> struct lorentz_logmap0_back : SpacetimeBack<T> {
    static constexpr int vectors = 2;
    METHOD static constexpr int plain(int) { return 2; }
    T a, b;
    METHOD void add(Round<0>, const T* v, double*, T* s) const {
        s[0] += v[0] * v[0];
        s[1] += v[0] * v[1];
    }
    template <class R> METHOD void stage(Round<0>, R& row, const double*, const T* s) {
        T c = row.curvature.c, q = c * s[0];
        a = arsinhc(q);
        T d_q = s[1] * arsinhc_slope(q, a);
        row.slope = double(d_q * s[0]);
        b = T(2) * c * d_q;
    }
    METHOD void blend(const T* v, T* o, int, int) const { o[0] = v[1] * a + v[0] * b; }
};

}  // namespace holonomy
