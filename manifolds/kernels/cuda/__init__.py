"""CUDA kernels, compiled by CuPy at first use; CuPy is imported here only, and only then."""
