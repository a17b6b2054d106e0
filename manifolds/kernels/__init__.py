"""Fused kernels: Numba on the CPU, CuPy on CUDA, behind operations that are defined in plain torch.

`use` forces an implementation, `status` says which are live and why. Everything else here serves the rooms above.
"""

from holonomy.manifolds.kernels.dispatch import status as status
from holonomy.manifolds.kernels.dispatch import use as use
