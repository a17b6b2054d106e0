"""How kernels are handed the memory of tensors."""

import numpy as np
import pytest
import torch

from holonomy.manifolds import Grassmann, PoincareBall
from holonomy.manifolds.kernels import hadamard, recurrence, simplex
from holonomy.manifolds.kernels.cpu.memory import flat
from holonomy.manifolds.kernels.subspace_logits import subspace_logits

CALLS = {
    "pairwise": lambda x: PoincareBall().cdist(x, x),
    "rows": lambda x: PoincareBall().expmap(x, x),
    "simplex": simplex.project_simplex,
    "hadamard": hadamard.hadamard_transform,
    "recurrence": lambda x: recurrence.linear_recurrence(x, x),
    "logits": lambda x: subspace_logits(x, Grassmann().random(3, 4, 2)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.int32, torch.bool], ids=str)
def test_arrays_are_the_numbers_of_the_tensor(dtype: torch.dtype) -> None:
    x = torch.arange(6).reshape(2, 3).to(dtype)
    array = flat(x)
    assert array.dtype == x.numpy().dtype
    assert array.tolist() == x.flatten().tolist()
    array[1] = 0
    assert not x[0, 1]
    assert flat(x[:0]).shape == (0,)
    assert flat(x.t()).tolist() == x.t().flatten().tolist()


def test_arrays_keep_their_numbers() -> None:
    array = flat(torch.full((1 << 16,), 3.0) + 1.0)
    other = [torch.full((1 << 16,), float(i)) for i in range(8)]
    assert np.all(array == 4.0)
    assert len(other) == 8


@pytest.mark.parametrize("name", CALLS)
def test_storages_that_a_kernel_read_can_still_be_resized(name: str) -> None:
    """FSDP frees the full parameters by resizing their storages to 0; `Tensor.numpy` would forbid it for good."""
    x = torch.full((4, 4), 0.1)
    CALLS[name](x)
    assert x.untyped_storage().resizable()
    x.untyped_storage().resize_(0)
