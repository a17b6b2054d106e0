// B-splines and Chebyshev polynomials; the entries are appended by module.py, one for each kernel and dtype.
#include "bases.cuh"
