// Optimizer steps on rows of points, in place and in one pass over memory, for the ball, the hyperboloid and the sphere.
//
// A row is held in registers by the lanes of a group, as in rows.cuh. A step makes the Riemannian gradient g of the
// Euclidean one, forms the moment and the velocity alike on every manifold,
//
//     m <- keep m + take g,   u = rate m + direct g + decoupled log_x(o),
//
// where Adam finds the rate from |g|^2, and moves x along u; m is transported to where x comes to. Weight decay pulls
// towards the origin o, by log_x(o) = pull x. The same steps as manifolds/kernels/cpu/steps.py.
#pragma once

#include "ball.cuh"
#include "lorentz.cuh"
#include "rows.cuh"
#include "sphere.cuh"

namespace holonomy {

template <class T> struct StepNumbers {
    T sign, coupled, decoupled, keep, take, rate, direct, beta2, correction2, eps;
};

// Sums over a row of which each lane holds N coordinates.
template <class T, int N, class Group> struct Sums {
    const Group& group;
    METHOD T dot(const T* a, const T* b) const {
        T s = T(0);
#pragma unroll
        for (int j = 0; j < N; ++j) s += a[j] * b[j];
        return group.total(s);
    }
    METHOD double exact_square(const T* a) const {
        double s = 0.0;
#pragma unroll
        for (int j = 0; j < N; ++j) s += wide_square(a[j]);
        return group.total(s);
    }
};

// Each manifold: `gradient` turns g into the Riemannian gradient and finds its squared length and the pull; `move` turns
// the velocity u into the new point and transports m. What precedes the vector in a row: of the point and of m.
template <class T> struct BallStep {
    static constexpr int lead = 0;
    T gap, length, pull = T(0), point_head, moment_head;
    template <int N, class S>
    METHOD void gradient(const S& sums, const T* x, T* g, T, Curvature<T> c, const StepNumbers<T>& o, bool decays) {
        double xx = sums.exact_square(x);
        gap = Gap<T>(xx, c.wide).value;
        T a = T(0.25) * o.sign * gap * gap;
        if (decays) {
            T h2 = c.c * T(xx), q = h2 / gap;
            pull = -(arsinhc(q) / root(T(1) + q)) * (gap + h2);
        }
        T b = -o.coupled * pull, k = T(2) / gap;
#pragma unroll
        for (int j = 0; j < N; ++j) g[j] = g[j] * a + x[j] * b;
        length = k * k * sums.dot(g, g);
    }
    template <int N, class S> METHOD void move(const S& sums, const T* x, T* m, T* u, T, Curvature<T> c, bool moves) {
        T p = T(1) / gap, s = c.c * sums.dot(u, u) * p * p, t = tanhc(s) * p;
        T gy = larger(sech2(s), Real<T>::eps * Real<T>::eps), w[N];
#pragma unroll
        for (int j = 0; j < N; ++j) w[j] = x[j] + t * u[j];
        T k = gap / (gap * gy + c.c * sums.dot(w, w)), a = k * (T(1) - gy), b = k * t;
#pragma unroll
        for (int j = 0; j < N; ++j) u[j] = x[j] + (x[j] * a + u[j] * b);
        double yy = sums.exact_square(u);
        Pull<T> inside(yy, c.wide);
        if (sums.group.any(inside.outside)) {
#pragma unroll
            for (int j = 0; j < N; ++j) u[j] *= inside.scale;
            yy = sums.exact_square(u);
        }
        if (!moves) return;
        T gap_y = Gap<T>(yy, c.wide).value, h[N];
#pragma unroll
        for (int j = 0; j < N; ++j) h[j] = u[j] - x[j];
        T h2 = c.c * sums.dot(h, h), along = sums.dot(x, m), across = sums.dot(h, m);
        T factor = T(2) * c.c / (gap * gap_y + h2), ratio = gap_y / gap;
        T at_x = (gap * across - h2 * along) * factor;
        T at_h = ((gap_y + h2) * along + (T(1) - gap) * across) * factor;
#pragma unroll
        for (int j = 0; j < N; ++j) m[j] = (m[j] + (at_x * x[j] - at_h * h[j])) * ratio;
    }
};

template <class T> struct SphereStep {
    static constexpr int lead = 0;
    T length, pull = T(0), point_head, moment_head;
    template <int N, class S>
    METHOD void gradient(const S& sums, const T* x, T* g, T, Curvature<T>, const StepNumbers<T>& o, bool) {
        T b = -o.sign * sums.dot(x, g);
#pragma unroll
        for (int j = 0; j < N; ++j) g[j] = g[j] * o.sign + x[j] * b;
        length = sums.dot(g, g);
    }
    template <int N, class S> METHOD void move(const S& sums, const T* x, T* m, T* u, T, Curvature<T>, bool moves) {
        T s = sums.dot(u, u), a = cosine_root(s), b = sinc(s);
        if (moves) {
            T along = sums.dot(u, m), e = versine(s);
#pragma unroll
            for (int j = 0; j < N; ++j) m[j] -= along * (b * x[j] + e * u[j]);
        }
#pragma unroll
        for (int j = 0; j < N; ++j) u[j] = x[j] * a + u[j] * b;
        T size = root(sums.dot(u, u));
#pragma unroll
        for (int j = 0; j < N; ++j) u[j] /= size;
    }
};

template <class T> struct LorentzStep {
    static constexpr int lead = 1;
    T time, length, pull = T(0), point_head, moment_head;
    // |u|^2 of the tangent vector u at x.
    template <int N, class S> METHOD T square_length(const S& sums, const T* x, const T* u, T c) const {
        T slope = sums.dot(x, u) / time / time, k[N];
#pragma unroll
        for (int j = 0; j < N; ++j) k[j] = u[j] - slope * x[j];
        return sums.dot(k, k) + slope * slope / c;
    }
    template <int N, class S>
    METHOD void gradient(const S& sums, const T* x, T* g, T head, Curvature<T> c, const StepNumbers<T>& o, bool decays) {
        T xx = sums.dot(x, x);
        time = time_of(xx, c.c);
        if (decays) {
            LorentzChord<T> origin;
            origin.times(xx, T(0), xx, c.c);
            origin.from(xx * square(origin.between(T(1), T(0))));  // k lies along x
            pull = -(arsinhc(origin.q) / root(T(1) + origin.q)) * (T(1) + T(2) * origin.q);
        }
        T b = o.sign * c.c * (sums.dot(x, g) + time * head) - o.coupled * pull;
#pragma unroll
        for (int j = 0; j < N; ++j) g[j] = g[j] * o.sign + x[j] * b;
        length = square_length<N>(sums, x, g, c.c);
    }
    template <int N, class S> METHOD void move(const S& sums, const T* x, T* m, T* u, T, Curvature<T> c, bool moves) {
        Turn<T> turn;
        turn.from(c.c * square_length<N>(sums, x, u, c.c), false);
        T small[N];
#pragma unroll
        for (int j = 0; j < N; ++j) {
            u[j] = x[j] + (x[j] * turn.a + u[j] * turn.b);
            small[j] = Real<T>::eps * u[j];
        }
        Ending<T, true> ending;
        ending.from(sums.dot(small, small), c.c);
#pragma unroll
        for (int j = 0; j < N; ++j) u[j] *= ending.scale;
        point_head = ending.time;
        if (!moves) return;
        LorentzChord<T> chord;
        T h[N], t[N], rise = T(0);
#pragma unroll
        for (int j = 0; j < N; ++j) h[j] = x[j] - u[j], t[j] = x[j] + u[j];
        rise = sums.dot(h, t);
        chord.times(sums.dot(x, x), sums.dot(u, u), rise, c.c);
        T slope = sums.dot(x, m) / time / time, across[N];
#pragma unroll
        for (int j = 0; j < N; ++j) h[j] = chord.between(x[j], u[j]), across[j] = m[j] - slope * x[j];
        chord.from(sums.dot(h, h));
        T product = -(T(0.5) * chord.total * sums.dot(h, across) +
                      slope * (chord.a + T(2) * chord.q * chord.x0) / c.c) / chord.x0;
        T factor = T(0.5) * c.c * product / (T(1) + chord.q);
#pragma unroll
        for (int j = 0; j < N; ++j) m[j] += factor * t[j];
        moment_head = sums.dot(m, u) / point_head;
    }
};

// Step row r of `grad`, which belongs to row rows[r] of the table, or to row r where there is no index. `moment`,
// `second` and `largest` are null where there are none.
template <class Space, class T, int V, int K, class Group>
METHOD void step(const Group& group, T* point, const T* grad, T* moment, T* second, T* largest, const long long* rows,
                 Curvature<T> c, const StepNumbers<T>& o, long long r, long long n, int size) {
    constexpr int N = K * V;
    const bool active = r < n, moves = moment != nullptr, decays = o.coupled != T(0) || o.decoupled != T(0);
    const long long given = active ? r * size : 0, row = active ? (rows ? rows[r] : r) : 0, start = row * size;
    const int lane = group.lane * V, stride = group.lanes * V;
    T x[N], g[N], m[N], u[N];
    auto read = [&](const T* source, long long start, T* target) {
#pragma unroll
        for (int k = 0; k < K; ++k) {
            int at = lane + k * stride;
            Pack<T, V> p = {};
            if (source && active && at < size) p = *reinterpret_cast<const Pack<T, V>*>(source + start + at);
#pragma unroll
            for (int e = 0; e < V; ++e) target[k * V + e] = at + e < Space::lead ? T(0) : p.e[e];
        }
    };
    read(point, start, x);
    read(grad, given, g);
    read(moment, start, m);
    Sums<T, N, Group> sums{group};
    Space space;
    space.template gradient<N>(sums, x, g, grad[given], c, o, decays);
    T rate = o.rate, v = T(1), most = T(1);
    if (second) {
        if (active) v = most = second[row] * o.beta2 + space.length * (T(1) - o.beta2);
        if (active && largest) most = larger(v, largest[row]);
        rate = o.rate / (root(most / o.correction2) + o.eps);
    }
#pragma unroll
    for (int j = 0; j < N; ++j) {
        u[j] = g[j] * o.direct + x[j] * (o.decoupled * space.pull);
        if (moves) {
            m[j] = m[j] * o.keep + g[j] * o.take;
            u[j] += m[j] * rate;
        }
    }
    space.template move<N>(sums, x, m, u, T(0), c, moves);
    auto write = [&](const T* source, T* target, T head) {
#pragma unroll
        for (int k = 0; k < K; ++k) {
            int at = lane + k * stride;
            Pack<T, V> p;
#pragma unroll
            for (int e = 0; e < V; ++e) p.e[e] = at + e < Space::lead ? head : source[k * V + e];
            if (active && at < size) *reinterpret_cast<Pack<T, V>*>(target + start + at) = p;
        }
    };
    write(u, point, space.point_head);
    if (moves) write(m, moment, space.moment_head);
    // Sums were exchanged since: every lane has read these.
    if (active && group.lane == 0) {
        if (second) second[row] = v;
        if (largest) largest[row] = most;
    }
}

#ifdef __CUDACC__

template <class Space, class T, int V, int K>
FN void steps(T* point, const T* grad, T* moment, T* second, T* largest, const long long* rows, double c, double sign,
              double coupled, double decoupled, double keep, double take, double rate, double direct, double beta2,
              double correction2, double eps, long long n, int size, int lanes) {
    const StepNumbers<T> numbers = {T(sign), T(coupled), T(decoupled), T(keep),        T(take),
                                    T(rate), T(direct),  T(beta2),     T(correction2), T(eps)};
    const Lanes group = {int(threadIdx.x) & (lanes - 1), lanes};
    const long long thread = (long long)blockIdx.x * kThreads + threadIdx.x, threads = (long long)gridDim.x * kThreads;
    for (long long first = thread & ~31LL; first / lanes < n; first += threads) {
        long long r = (first + (threadIdx.x & 31)) / lanes;
        step<Space, T, V, K>(group, point, grad, moment, second, largest, rows, Curvature<T>{c, T(c)}, numbers, r, n,
                             size);
    }
}

#define HOLONOMY_STEPS(name, space, T, V, K)                                                                          \
    extern "C" __global__ void __launch_bounds__(holonomy::kThreads)                                                  \
        name(T* point, const T* grad, T* moment, T* second, T* largest, const long long* rows, double c, double sign, \
             double coupled, double decoupled, double keep, double take, double rate, double direct, double beta2,    \
             double correction2, double eps, long long n, int size, int lanes) {                                      \
        holonomy::steps<holonomy::space<T>, T, V, K>(point, grad, moment, second, largest, rows, c, sign, coupled,    \
                                                     decoupled, keep, take, rate, direct, beta2, correction2, eps, n, \
                                                     size, lanes);                                                    \
    }

#endif

}  // namespace holonomy
