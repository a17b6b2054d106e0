// Sinkhorn's iteration; the entries are appended by module.py, one for each dtype.
#include "sinkhorn.cuh"
