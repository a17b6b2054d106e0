// Maps of the simplex; the entries are appended by module.py, one for each map, dtype and width.
#include "simplex.cuh"
