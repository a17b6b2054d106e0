// Row maps; the entries are appended by module.py, one for each operation, dtype and width.
#include "ball.cuh"
#include "rows.cuh"
