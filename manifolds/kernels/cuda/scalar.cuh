// What the device's compilers and a C++ compiler share: function qualifiers, elementary functions, rounding units.
// OUTLINE is for methods that are long and called from many places: copies of them would take long to compile.
#pragma once

#ifdef __CUDACC__
#define FN __device__ __forceinline__
#define METHOD __device__ __forceinline__
#define OUTLINE __device__ __noinline__
#else
#include <cmath>
#define FN inline
#define METHOD inline
#define OUTLINE inline
#endif

namespace holonomy {

template <class T> struct Real;

template <> struct Real<float> {
    static constexpr float eps = 1.1920928955078125e-07f;
    // Squares of float32 numbers are exact in float64: a norm that was summed there is rounded once.
    static constexpr bool single = true;
};

template <> struct Real<double> {
    static constexpr double eps = 2.220446049250313e-16;
    static constexpr bool single = false;
};

// The overloads of float32 by their own names: a float64 function called by accident costs 32 times the time.
FN float root(float a) { return sqrtf(a); }
FN double root(double a) { return ::sqrt(a); }
FN float exponential(float a) { return expf(a); }
FN double exponential(double a) { return ::exp(a); }
FN float log_one_plus(float a) { return log1pf(a); }
FN double log_one_plus(double a) { return ::log1p(a); }
FN float sine(float a) { return sinf(a); }
FN double sine(double a) { return ::sin(a); }
FN float cosine(float a) { return cosf(a); }
FN double cosine(double a) { return ::cos(a); }
FN float hyperbolic_sine(float a) { return sinhf(a); }
FN double hyperbolic_sine(double a) { return ::sinh(a); }
FN float hyperbolic_cosine(float a) { return coshf(a); }
FN double hyperbolic_cosine(double a) { return ::cosh(a); }
FN float arc_sine(float a) { return asinf(a); }
FN double arc_sine(double a) { return ::asin(a); }
FN float arc_tangent(float a, float b) { return atan2f(a, b); }
FN double arc_tangent(double a, double b) { return ::atan2(a, b); }
FN float magnitude(float a) { return fabsf(a); }
FN double magnitude(double a) { return ::fabs(a); }

template <class T> FN T larger(T a, T b) { return a > b ? a : b; }

template <class T> FN T square(T a) { return a * a; }

// Square of a number in float64, where it is exact for float32.
template <class T> FN double wide_square(T a) { return double(a) * double(a); }

// The curvature's magnitude: with all its digits, and in the dtype of the rows.
template <class T> struct Curvature {
    double wide;
    T c;
    METHOD T rooted() const { return T(::sqrt(wide)); }
};

}  // namespace holonomy
