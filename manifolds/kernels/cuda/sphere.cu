// Row maps; the entries are appended by module.py, one for each operation, dtype and width.
#include "sphere.cuh"
#include "rows.cuh"
