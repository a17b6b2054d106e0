// Evaluates the row maps with a C++ compiler: the same code as on the device, with one lane for a row, or with
// coroutines that take the parts of a warp's lanes. The test appends the entries.
#include <functional>
#include <vector>

#include <ucontext.h>

#include "steps.cuh"

namespace {

struct One {
    int lane = 0, lanes = 1;
    template <class N> N total(N a) const { return a; }
    bool any(bool a) const { return a; }
    template <class T> void argmin(T&, int&) const {}
};

// Lanes of one warp, as coroutines of one thread: every exchange is two meetings, at which each lane lets the next run.
struct Warp {
    ucontext_t context[32], home;
    std::vector<char> stacks = std::vector<char>(32 << 18);
    double number[32];
    int where[32], running = 0;
    bool vote[32];
    std::function<void(int)> work;

    void meet() {
        int from = running;
        running = (from + 1) % 32;
        swapcontext(&context[from], &context[running]);
    }
    static void start(unsigned high, unsigned low, int t) {
        Warp* warp = reinterpret_cast<Warp*>((static_cast<unsigned long long>(high) << 32) | low);
        warp->work(t);
        warp->running = t + 1;
    }
    void run() {
        unsigned long long self = reinterpret_cast<unsigned long long>(this);
        for (int t = 0; t < 32; ++t) {
            getcontext(&context[t]);
            context[t].uc_stack.ss_sp = stacks.data() + (t << 18);
            context[t].uc_stack.ss_size = 1 << 18;
            context[t].uc_link = t < 31 ? &context[t + 1] : &home;
            makecontext(&context[t], reinterpret_cast<void (*)()>(&Warp::start), 3, unsigned(self >> 32),
                        unsigned(self), t);
        }
        swapcontext(&home, &context[0]);
    }
};

struct Lane {
    int lane, lanes, thread;
    Warp* warp;
    template <class N> N total(N a) const {
        for (int offset = lanes >> 1; offset > 0; offset >>= 1) {
            warp->number[thread] = double(a);
            warp->meet();
            a += N(warp->number[thread ^ offset]);
            warp->meet();
        }
        return a;
    }
    bool any(bool a) const {
        warp->vote[thread] = a;
        warp->meet();
        bool all = false;
        for (bool vote : warp->vote) all = all || vote;
        warp->meet();
        return all;
    }
    template <class T> void argmin(T& least, int& where) const {
        for (int offset = lanes >> 1; offset > 0; offset >>= 1) {
            warp->number[thread] = double(least);
            warp->where[thread] = where;
            warp->meet();
            T other = T(warp->number[thread ^ offset]);
            int there = warp->where[thread ^ offset];
            if (other < least || (other == least && there < where)) least = other, where = there;
            warp->meet();
        }
    }
};

// Runs rows on the lanes of a warp, as many at once as fit.
template <class Work> void each_lane(int lanes, long long n, Work work) {
    Warp warp;
    warp.work = [&](int t) {
        Lane lane = {t & (lanes - 1), lanes, t, &warp};
        for (long long first = 0; first < n; first += 32 / lanes) work(lane, first + t / lanes);
    };
    warp.run();
}

template <class Op, class T, int V, int K>
double rows(const T* const* in, const T* given, unsigned repeated, T* const* out, T* scalar, const T* c, double k,
            long long n, int size, int lanes) {
    holonomy::Addresses<T, Op::vectors, Op::outs> addresses = {{}, {}, given, scalar, repeated};
    for (int m = 0; m < Op::vectors; ++m) addresses.in[m] = in[m];
    for (int m = 0; m < Op::outs; ++m) addresses.out[m] = out[m];
    holonomy::Curvature<T> curvature =
        c ? holonomy::Curvature<T>{double(*c), *c} : holonomy::Curvature<T>{k, T(k)};
    double total = 0.0;
    if (lanes == 1) {
        for (long long r = 0; r < n; ++r)
            total += holonomy::evaluate<Op, T, V, K>(One(), addresses, curvature, r, n, size);
        return total;
    }
    double slopes[32] = {};
    each_lane(lanes, n, [&](const Lane& lane, long long r) {
        double part = holonomy::evaluate<Op, T, V, K>(lane, addresses, curvature, r, n, size);
        if (lane.lane == 0) slopes[lane.thread] += part;
    });
    for (double slope : slopes) total += slope;
    return total;
}

}  // namespace

#define HOLONOMY_ROWS(name, op, T, V, K)                                                                              \
    extern "C" double name(const T* const* in, const T* given, unsigned repeated, T* const* out, T* scalar,           \
                           const T* c, double k, long long n, int size, int lanes) {                                  \
        return rows<holonomy::op<T>, T, V, K>(in, given, repeated, out, scalar, c, k, n, size, lanes);                \
    }

#define HOLONOMY_STEPS(name, space, T, V, K)                                                                          \
    extern "C" void name(T* point, const T* grad, T* moment, T* second, T* largest, const long long* rows, double c,  \
                         const double* o, long long n, int size, int lanes) {                                         \
        holonomy::StepNumbers<T> numbers = {T(o[0]), T(o[1]), T(o[2]), T(o[3]), T(o[4]),                              \
                                            T(o[5]), T(o[6]), T(o[7]), T(o[8]), T(o[9])};                             \
        each_lane(lanes, n, [&](const Lane& lane, long long r) {                                                      \
            holonomy::step<holonomy::space<T>, T, V, K>(lane, point, grad, moment, second, largest, rows, {c, T(c)},  \
                                                        numbers, r, n, size);                                         \
        });                                                                                                           \
    }
