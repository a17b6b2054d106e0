// Distances of all pairs; the entries are appended by module.py, one for each kind, dtype and width.
#include "pairs.cuh"
