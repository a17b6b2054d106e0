// Walsh-Hadamard transforms; the entries are appended by module.py, one for each kernel and dtype.
#include "hadamard.cuh"
