// Optimizer steps; the entries are appended by module.py, one for each manifold, dtype and width.
#include "steps.cuh"
