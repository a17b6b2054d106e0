// Fast Walsh-Hadamard transform: a block transforms some numbers in shared memory, two butterfly stages at a time.
//
// A vector that is longer than a block's memory is a matrix, whose rows are transformed and then its columns: a pass
// with stride 1 and passes with larger strides, in place.
#pragma once

#include "block.cuh"

namespace holonomy {

// Transforms of `length` numbers that lie `stride` apart. With stride 1 a block takes `numbers` numbers in a row, which
// are whole vectors; otherwise `numbers / length` neighbouring columns.
template <class T, class B>
METHOD void hadamard(const B& block, char* shared, const T* in, T* out, long long total, int length, long long stride,
                     int numbers, double scale) {
    T* s = reinterpret_cast<T*>(shared);
    const int width = stride == 1 ? 1 : numbers / length;
    const long long across = stride / width;  // blocks side by side
    const long long start = stride == 1 ? block.index * numbers
                                        : block.index / across * (length * stride) + block.index % across * width;
    const auto place = [&](int e) { return stride == 1 ? start + e : start + e / width * stride + e % width; };
    for (int e = block.thread; e < numbers; e += block.threads) s[e] = place(e) < total ? in[place(e)] : T(0);
    block.sync();
    const int end = length * width;
    for (int h = width; h < end;) {
        if (2 * h < end) {
            for (int q = block.thread; q < numbers / 4; q += block.threads) {
                int at = q / h * 4 * h + q % h;
                T a = s[at], b = s[at + h], c = s[at + 2 * h], d = s[at + 3 * h];
                T p = a + b, m = a - b, r = c + d, t = c - d;
                s[at] = p + r, s[at + h] = m + t, s[at + 2 * h] = p - r, s[at + 3 * h] = m - t;
            }
            h *= 4;
        } else {
            for (int q = block.thread; q < numbers / 2; q += block.threads) {
                int at = q / h * 2 * h + q % h;
                T a = s[at], b = s[at + h];
                s[at] = a + b, s[at + h] = a - b;
            }
            h *= 2;
        }
        block.sync();
    }
    for (int e = block.thread; e < numbers; e += block.threads) {
        if (place(e) < total) out[place(e)] = s[e] * T(scale);
    }
}

#define HOLONOMY_HADAMARD(name, T)                                                                                    \
    HOLONOMY_BLOCKS(name, 256, (const T* in, T* out, long long total, int length, long long stride, int numbers,      \
                                double scale),                                                                        \
                    holonomy::hadamard<T>(block, shared, in, out, total, length, stride, numbers, scale))

}  // namespace holonomy
