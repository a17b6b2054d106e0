// Hashes, and sums by index; the entries are appended by module.py, one for each kernel and dtype.
#include "sketch.cuh"
