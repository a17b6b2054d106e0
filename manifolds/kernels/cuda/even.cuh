// Even functions of a length r, as functions of s = r^2, and their derivatives by s: analytic at 0. Below a cut they
// are Taylor polynomials, above it closed forms. The same functions as holonomy.manifolds.functions.
#pragma once

#include "scalar.cuh"

namespace holonomy {

template <class T> FN T polynomial(T, double a) { return T(a); }

template <class T, class... Rest> FN T polynomial(T s, double a, Rest... rest) {
    return T(a) + s * polynomial(s, rest...);
}

// -- tanh(r)/r -----------------------------------------------------------------------------------------------------

// In float32 higher: the closed form of the slope subtracts, and the terms are enough there.
template <class T> FN T tanh_cut() { return Real<T>::single ? T(0.25) : T(0.05); }

template <class T> FN T tanh_series(T s) {
    return polynomial(s, 1.0, -1.0 / 3.0, 2.0 / 15.0, -17.0 / 315.0, 62.0 / 2835.0, -1382.0 / 155925.0,
                      21844.0 / 6081075.0, -929569.0 / 638512875.0, 6404582.0 / 10854718875.0,
                      -443861162.0 / 1856156927625.0, 18888466084.0 / 194896477400625.0,
                      -113927491862.0 / 2900518163668125.0);
}

template <class T> FN T tanhc(T s) {
    if (s < tanh_cut<T>()) return tanh_series(s);
    T r = root(s), e = exponential(T(-2) * r);
    return (T(1) - e) / ((T(1) + e) * r);
}

// sech(r)^2, with all its digits for large r.
template <class T> FN T sech2(T s) {
    if (s < tanh_cut<T>()) return T(1) - s * square(tanh_series(s));
    T e = exponential(T(-2) * root(s)), f = T(1) + e;
    return T(4) * e / (f * f);
}

// Derivative of tanhc, given its value and sech2.
template <class T> FN T tanhc_slope(T s, T value, T sech) {
    if (s < tanh_cut<T>()) {
        return polynomial(s, -1.0 / 3.0, 2.0 * 2.0 / 15.0, -3.0 * 17.0 / 315.0, 4.0 * 62.0 / 2835.0,
                          -5.0 * 1382.0 / 155925.0, 6.0 * 21844.0 / 6081075.0, -7.0 * 929569.0 / 638512875.0,
                          8.0 * 6404582.0 / 10854718875.0, -9.0 * 443861162.0 / 1856156927625.0,
                          10.0 * 18888466084.0 / 194896477400625.0, -11.0 * 113927491862.0 / 2900518163668125.0);
    }
    return (sech - value) / (T(2) * s);
}

// -- arsinh(r)/r ---------------------------------------------------------------------------------------------------

template <class T> FN T arsinh_cut() { return Real<T>::single ? T(0.06) : T(0.03); }

// arsinh(sqrt(q)); sqrt(q) + q/(1 + sqrt(1 + q)) is exp(arsinh) - 1 without cancellation.
template <class T> FN T arsinh_root(T q) { return log_one_plus(root(q) + q / (T(1) + root(T(1) + q))); }

template <class T> FN T arsinhc(T q) {
    if (q < arsinh_cut<T>()) {
        return polynomial(q, 1.0, -1.0 / 6.0, 3.0 / 40.0, -5.0 / 112.0, 35.0 / 1152.0, -63.0 / 2816.0, 231.0 / 13312.0,
                          -143.0 / 10240.0, 6435.0 / 557056.0, -12155.0 / 1245184.0, 46189.0 / 5505024.0,
                          -88179.0 / 12058624.0);
    }
    return arsinh_root(q) / root(q);
}

// Derivative of arsinhc, given its value.
template <class T> FN T arsinhc_slope(T q, T value) {
    if (q < arsinh_cut<T>()) {
        return polynomial(q, -1.0 / 6.0, 2.0 * 3.0 / 40.0, -3.0 * 5.0 / 112.0, 4.0 * 35.0 / 1152.0,
                          -5.0 * 63.0 / 2816.0, 6.0 * 231.0 / 13312.0, -7.0 * 143.0 / 10240.0,
                          8.0 * 6435.0 / 557056.0, -9.0 * 12155.0 / 1245184.0, 10.0 * 46189.0 / 5505024.0,
                          -11.0 * 88179.0 / 12058624.0);
    }
    return (T(1) / root(T(1) + q) - value) / (T(2) * q);
}

// -- asin(r)/r -----------------------------------------------------------------------------------------------------

template <class T> FN T asin_cut() { return Real<T>::single ? T(0.06) : T(0.03); }

template <class T> FN T asinc(T q) {
    if (q < asin_cut<T>()) {
        return polynomial(q, 1.0, 1.0 / 6.0, 3.0 / 40.0, 5.0 / 112.0, 35.0 / 1152.0, 63.0 / 2816.0, 231.0 / 13312.0,
                          143.0 / 10240.0, 6435.0 / 557056.0, 12155.0 / 1245184.0, 46189.0 / 5505024.0,
                          88179.0 / 12058624.0);
    }
    T r = root(q);
    return arc_sine(r) / r;
}

// Derivative of asinc, given its value.
template <class T> FN T asinc_slope(T q, T value) {
    if (q < asin_cut<T>()) {
        return polynomial(q, 1.0 / 6.0, 2.0 * 3.0 / 40.0, 3.0 * 5.0 / 112.0, 4.0 * 35.0 / 1152.0, 5.0 * 63.0 / 2816.0,
                          6.0 * 231.0 / 13312.0, 7.0 * 143.0 / 10240.0, 8.0 * 6435.0 / 557056.0,
                          9.0 * 12155.0 / 1245184.0, 10.0 * 46189.0 / 5505024.0, 11.0 * 88179.0 / 12058624.0);
    }
    return (T(1) / root(T(1) - q) - value) / (T(2) * q);
}

// -- sin(r)/r and sinh(r)/r ----------------------------------------------------------------------------------------

template <class T> FN T sinc(T s) {
    if (s < T(1)) {
        return polynomial(s, 1.0, -1.0 / 6.0, 1.0 / 120.0, -1.0 / 5040.0, 1.0 / 362880.0, -1.0 / 39916800.0,
                          1.0 / 6227020800.0, -1.0 / 1307674368000.0, 1.0 / 355687428096000.0);
    }
    T r = root(s);
    return sine(r) / r;
}

// cos(r), as 1 - 2 sin^2(r/2).
template <class T> FN T cosine_root(T s) {
    T half = sine(T(0.5) * root(s));
    return T(1) - T(2) * half * half;
}

// Derivative of sinc, given its value and cos(r).
template <class T> FN T sinc_slope(T s, T value, T cosine) {
    if (s < T(1)) {
        return polynomial(s, -1.0 / 6.0, 2.0 / 120.0, -3.0 / 5040.0, 4.0 / 362880.0, -5.0 / 39916800.0,
                          6.0 / 6227020800.0, -7.0 / 1307674368000.0, 8.0 / 355687428096000.0);
    }
    return (cosine - value) / (T(2) * s);
}

template <class T> FN T sinhc(T s) {
    if (s < T(1)) {
        return polynomial(s, 1.0, 1.0 / 6.0, 1.0 / 120.0, 1.0 / 5040.0, 1.0 / 362880.0, 1.0 / 39916800.0,
                          1.0 / 6227020800.0, 1.0 / 1307674368000.0, 1.0 / 355687428096000.0);
    }
    T r = root(s);
    return hyperbolic_sine(r) / r;
}

// Derivative of sinhc, given its value and cosh(r).
template <class T> FN T sinhc_slope(T s, T value, T cosine) {
    if (s < T(1)) {
        return polynomial(s, 1.0 / 6.0, 2.0 / 120.0, 3.0 / 5040.0, 4.0 / 362880.0, 5.0 / 39916800.0,
                          6.0 / 6227020800.0, 7.0 / 1307674368000.0, 8.0 / 355687428096000.0);
    }
    return (cosine - value) / (T(2) * s);
}

}  // namespace holonomy
