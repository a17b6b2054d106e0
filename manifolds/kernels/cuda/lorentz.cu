// Row maps; the entries are appended by module.py, one for each operation, dtype and width.
#include "lorentz.cuh"
#include "rows.cuh"
