// Tall matrices with orthonormal columns; the entries are appended by module.py, one for each operation and dtype.
#include "orthonormal.cuh"
