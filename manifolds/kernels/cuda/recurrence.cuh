// Linear recurrences along time, h[t] = a[t] h[t-1] + b[t], and the selective scan of state-space networks.
#pragma once

#include "block.cuh"

namespace holonomy {

// -- h[t] = a[t] h[t-1] + b[t] -------------------------------------------------------------------------------------

// A thread of `width` walks along the time of one row and channel. With parts > 1 time is divided among as many
// threads: each forms the product of its decays and its own state from 0, takes over from those before it, and walks
// once more.
template <class T, int width, int parts, class B> struct Walk {
    const B& block;
    T *products, *states;  // (parts, width)
    long long first;       // the first number of this row and channel
    long long channels, item;
    int part, lane, time, low, high;
    bool active, reverse;

    METHOD Walk(const B& b, char* shared, long long rows, int steps, long long many, bool backwards)
        : block(b), products(reinterpret_cast<T*>(shared)), states(products + parts * width), channels(many),
          part(b.thread / width), lane(b.thread % width), time(steps), reverse(backwards) {
        item = block.index * width + lane;
        active = item < rows * channels;
        first = item / channels * time * channels + item % channels;
        int each = (time + parts - 1) / parts;
        low = part * each, high = low + each < time ? low + each : time;
    }
    // Where step s is, in the direction of the walk.
    METHOD long long at(int s) const { return first + (reverse ? time - 1 - s : s) * channels; }
    // What the walk has come to before this part of it, from `start` on.
    METHOD T carried(T start, T product, T state, bool from_the_end) const {
        if (parts == 1) return start;
        products[part * width + lane] = product, states[part * width + lane] = state;
        block.sync();
        for (int k = 0; k < parts; ++k) {
            int q = from_the_end ? parts - 1 - k : k;
            if (q == part) break;
            // A product of decays may have overflowed: of a state that is 0 it says nothing.
            start = (start == T(0) ? T(0) : products[q * width + lane] * start) + states[q * width + lane];
        }
        return start;
    }
};

template <class T, int width, int parts, class B>
METHOD void recurrence(const B& block, char* shared, const T* a, const T* b, const T* h0, T* h, long long rows,
                       int time, long long channels, int reverse) {
    const Walk<T, width, parts, B> walk(block, shared, rows, time, channels, reverse != 0);
    T product = T(1), state = T(0);
    for (int s = walk.low; parts > 1 && walk.active && s < walk.high; ++s) {
        T decay = a[walk.at(s)];
        product *= decay;
        state = decay * state + b[walk.at(s)];
    }
    state = walk.carried(walk.active ? h0[walk.item] : T(0), product, state, false);
    for (int s = walk.low; walk.active && s < walk.high; ++s) {
        state = a[walk.at(s)] * state + b[walk.at(s)];
        h[walk.at(s)] = state;
    }
}

// gb[s] = g[s] + a[s+1] gb[s+1], ga[s] = gb[s] h[s-1], gh0 = a[0] gb[0].
template <class T, int width, int parts, class B>
METHOD void recurrence_back(const B& block, char* shared, const T* g, const T* a, const T* h, const T* h0, T* ga, T* gb,
                            T* gh0, long long rows, int time, long long channels, int reverse) {
    const Walk<T, width, parts, B> walk(block, shared, rows, time, channels, reverse != 0);
    const auto decay = [&](int s) { return s + 1 < time ? a[walk.at(s + 1)] : T(0); };
    T product = T(1), state = T(0);
    for (int s = walk.high - 1; parts > 1 && walk.active && s >= walk.low; --s) {
        T d = decay(s);
        product *= d;
        state = d * state + g[walk.at(s)];
    }
    state = walk.carried(T(0), product, state, true);
    for (int s = walk.high - 1; walk.active && s >= walk.low; --s) {
        state = decay(s) * state + g[walk.at(s)];
        gb[walk.at(s)] = state;
        ga[walk.at(s)] = state * (s > 0 ? h[walk.at(s - 1)] : h0[walk.item]);
        if (s == 0) gh0[walk.item] = a[walk.at(0)] * state;
    }
}

// -- selective scan ------------------------------------------------------------------------------------------------
//
// u, delta, y (batch, channels, time); A (channels, states); B, C (batch, groups, time, states); h0 (batch, channels,
// states). A state for each of `lanes` neighbouring threads, up to 32. Every kCheckpoint steps the states are kept,
// from which the backward pass computes those between again.

constexpr int kScanThreads = 64, kCheckpoint = 64;

struct ScanSizes {
    int batch, channels, time, states, groups, lanes;
    METHOD int blocks() const { return (time + kCheckpoint - 1) / kCheckpoint; }
    METHOD int padded() const { return (states + 7) / 8 * 8; }
};

template <class T, class B>
METHOD void scan(const B& block, const T* u, const T* delta, const T* A, const T* Bs, const T* Cs, const T* D,
                 const T* h0, T* y, T* last, T* kept, ScanSizes z) {
    const int lane = block.thread % z.lanes;
    const long long one = block.index * (kScanThreads / z.lanes) + block.thread / z.lanes;
    const bool active = one < (long long)z.batch * z.channels, holds = active && lane < z.states;
    const int d = active ? int(one % z.channels) : 0, group = int((long long)d * z.groups / z.channels);
    const long long shared = (one / z.channels * z.groups + group) * z.time * z.states + lane, row = one * z.time;
    const T rate = holds ? A[(long long)d * z.states + lane] : T(0), direct = active ? D[d] : T(0);
    T h = holds ? h0[one * z.states + lane] : T(0);
    for (int t = 0; t < z.time; ++t) {
        if (holds && t % kCheckpoint == 0) kept[(one * z.blocks() + t / kCheckpoint) * z.padded() + lane] = h;
        T step = active ? delta[row + t] : T(0), in = active ? u[row + t] : T(0), out = T(0);
        if (holds) {
            h = exponential(rate * step) * h + step * in * Bs[shared + (long long)t * z.states];
            out = h * Cs[shared + (long long)t * z.states];
        }
        out = lanes_total(block, out, z.lanes);
        if (active && lane == 0) y[row + t] = out + direct * in;
    }
    if (holds) last[one * z.states + lane] = h;
}

// The channels of a group are divided among `pieces`, each with sums gB, gC (batch, groups, pieces, time, states) of
// its own; gA (batch, channels, states) and gD (batch, channels) are summed over the batch afterwards.
template <class T, class B>
METHOD void scan_back(const B& block, char* memory, const T* gy, const T* glast, const T* u, const T* delta, const T* A,
                      const T* Bs, const T* Cs, const T* D, const T* kept, T* gu, T* gdelta, T* gA, T* gB, T* gC, T* gD,
                      T* gh0, ScanSizes z, int pieces) {
    T* h = reinterpret_cast<T*>(memory) + block.thread;  // of this thread: (kCheckpoint + 1) states
    const int lane = block.thread % z.lanes, members = z.channels / z.groups;
    const long long unit = block.index * (kScanThreads / z.lanes) + block.thread / z.lanes;
    const bool works = unit < (long long)z.batch * z.groups * pieces;
    const long long pair = unit / pieces, piece = unit % pieces;
    const long long shared = pair * z.time * z.states + lane, mine = unit * z.time * z.states + lane;
    const int low = int(members * piece / pieces), high = int(members * (piece + 1) / pieces);
    // All units make as many rounds: their threads exchange sums.
    for (int round = 0; round < (members + pieces - 1) / pieces; ++round) {
        const bool active = works && low + round < high, holds = active && lane < z.states;
        const int d = active ? int(pair % z.groups) * members + low + round : 0;
        const long long one = pair / z.groups * z.channels + d, row = one * z.time;
        const T rate = holds ? A[(long long)d * z.states + lane] : T(0), direct = active ? D[d] : T(0);
        T back = holds ? glast[one * z.states + lane] : T(0);
        double by_rate = 0.0, by_direct = 0.0;
        for (int k = z.blocks() - 1; k >= 0; --k) {
            const int first = k * kCheckpoint, count = z.time - first < kCheckpoint ? z.time - first : kCheckpoint;
            if (holds) {
                T state = h[0] = kept[(one * z.blocks() + k) * z.padded() + lane];
                for (int i = 0; i < count; ++i) {
                    int t = first + i;
                    T step = delta[row + t];
                    state = exponential(rate * step) * state + step * u[row + t] * Bs[shared + (long long)t * z.states];
                    h[(i + 1) * kScanThreads] = state;
                }
            }
            T part = T(0), part_d = T(0);
            for (int i = count - 1; i >= 0; --i) {
                const int t = first + i;
                const long long at = (long long)t * z.states;
                T step = T(0), in = T(0), grad = T(0), along_b = T(0), along_a = T(0);
                if (active) step = delta[row + t], in = u[row + t], grad = gy[row + t];
                if (holds) {
                    T value = back + grad * Cs[shared + at], decay = exponential(rate * step);
                    T by_b = value * (step * in), by_c = grad * h[(i + 1) * kScanThreads];
                    gB[mine + at] = round == 0 ? by_b : gB[mine + at] + by_b;
                    gC[mine + at] = round == 0 ? by_c : gC[mine + at] + by_c;
                    T turn = value * h[i * kScanThreads] * decay;
                    along_b = value * Bs[shared + at];
                    along_a = turn * rate;
                    part += turn * step;
                    back = value * decay;
                }
                along_b = lanes_total(block, along_b, z.lanes);
                along_a = lanes_total(block, along_a, z.lanes);
                part_d += grad * in;
                if (active && lane == 0) {
                    gu[row + t] = along_b * step + direct * grad;
                    gdelta[row + t] = along_b * in + along_a;
                }
            }
            by_rate += double(part), by_direct += double(part_d);
        }
        if (holds) gA[one * z.states + lane] = T(by_rate), gh0[one * z.states + lane] = back;
        if (active && lane == 0) gD[one] = T(by_direct);
    }
}

#define HOLONOMY_RECURRENCE(name, T, width, parts, threads)                                                           \
    HOLONOMY_BLOCKS(name, threads, (const T* a, const T* b, const T* h0, T* h, long long rows, int time,              \
                                    long long channels, int reverse),                                                 \
                    holonomy::recurrence<T, width, parts>(block, shared, a, b, h0, h, rows, time, channels, reverse))

#define HOLONOMY_RECURRENCE_BACK(name, T, width, parts, threads)                                                      \
    HOLONOMY_BLOCKS(name, threads, (const T* g, const T* a, const T* h, const T* h0, T* ga, T* gb, T* gh0,            \
                                    long long rows, int time, long long channels, int reverse),                       \
                    holonomy::recurrence_back<T, width, parts>(block, shared, g, a, h, h0, ga, gb, gh0, rows, time,   \
                                                               channels, reverse))

#define HOLONOMY_SCAN(name, T)                                                                                        \
    HOLONOMY_BLOCKS(name, 64, (const T* u, const T* delta, const T* A, const T* Bs, const T* Cs, const T* D,          \
                               const T* h0, T* y, T* last, T* kept, int batch, int channels, int time, int states,    \
                               int groups, int lanes),                                                                \
                    holonomy::scan<T>(block, u, delta, A, Bs, Cs, D, h0, y, last, kept,                               \
                                      {batch, channels, time, states, groups, lanes}))

#define HOLONOMY_SCAN_BACK(name, T)                                                                                   \
    HOLONOMY_BLOCKS(name, 64, (const T* gy, const T* glast, const T* u, const T* delta, const T* A, const T* Bs,      \
                               const T* Cs, const T* D, const T* kept, T* gu, T* gdelta, T* gA, T* gB, T* gC, T* gD,  \
                               T* gh0, int batch, int channels, int time, int states, int groups, int lanes,          \
                               int pieces),                                                                           \
                    holonomy::scan_back<T>(block, shared, gy, glast, u, delta, A, Bs, Cs, D, kept, gu, gdelta, gA,    \
                                           gB, gC, gD, gh0, {batch, channels, time, states, groups, lanes}, pieces))

}  // namespace holonomy
