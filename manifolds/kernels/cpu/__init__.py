"""Kernels compiled by Numba. Modules here import it, and are imported when a kernel first runs."""
