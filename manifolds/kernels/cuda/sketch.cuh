// Hashes of ids, and sums of numbers by index: every sum in the order of its terms, which come sorted by their index.
#pragma once

#include "block.cuh"

namespace holonomy {

using Word = unsigned long long;

// The finaliser of splitmix64.
FN Word mixed(Word z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

// Bucket of ids[i, columns[j]] under keys[j].
template <class B>
METHOD void hash_ids(const B& block, const long long* ids, const long long* columns, const long long* keys,
                     long long* out, long long total, int features, int lookups, long long buckets) {
    const long long e = block.index * block.threads + block.thread;
    if (e >= total) return;
    const long long i = e / lookups, j = e % lookups;
    const Word hashed = mixed(Word(ids[i * features + columns[j]]) + Word(keys[j]));
    out[e] = (long long)((hashed >> 1) % Word(buckets));
}

// Row s of the table is the sum of the rows order[first[s]], ..., order[first[s + 1] - 1] of `values`, whose terms are
// in that order. A thread for each number of the table.
template <class T, class B>
METHOD void sum_rows(const B& block, const T* values, const long long* order, const long long* first, T* out,
                     long long size, int d) {
    const long long e = block.index * block.threads + block.thread;
    if (e >= size * d) return;
    const long long s = e / d, k = e % d;
    T sum = T(0);
    for (long long at = first[s]; at < first[s + 1]; ++at) sum += values[order[at] * d + k];
    out[e] = sum;
}

// Bucket s of row r is the sum of sign[j] x[r, j] over the j of that bucket, in their order. A thread for each bucket.
template <class T, class B>
METHOD void count_sketch(const B& block, const T* x, const T* sign, const long long* order, const long long* first,
                         T* out, long long rows, long long n, long long size) {
    const long long e = block.index * block.threads + block.thread;
    if (e >= rows * size) return;
    const long long r = e / size, s = e % size;
    T sum = T(0);
    for (long long at = first[s]; at < first[s + 1]; ++at) sum += x[r * n + order[at]] * sign[order[at]];
    out[e] = sum;
}

#define HOLONOMY_HASH(name)                                                                                           \
    HOLONOMY_BLOCKS(name, 256, (const long long* ids, const long long* columns, const long long* keys,                \
                                long long* out, long long total, int features, int lookups, long long buckets),       \
                    holonomy::hash_ids(block, ids, columns, keys, out, total, features, lookups, buckets))

#define HOLONOMY_SUM_ROWS(name, T)                                                                                    \
    HOLONOMY_BLOCKS(name, 256, (const T* values, const long long* order, const long long* first, T* out,              \
                                long long size, int d),                                                               \
                    holonomy::sum_rows<T>(block, values, order, first, out, size, d))

#define HOLONOMY_COUNT_SKETCH(name, T)                                                                                \
    HOLONOMY_BLOCKS(name, 256, (const T* x, const T* sign, const long long* order, const long long* first, T* out,    \
                                long long rows, long long n, long long size),                                         \
                    holonomy::count_sketch<T>(block, x, sign, order, first, out, rows, n, size))

}  // namespace holonomy
