// Linear recurrences and selective scans; the entries are appended by module.py, one for each kernel and dtype.
#include "recurrence.cuh"
