"""Which implementation runs, and how it is chosen."""

import pytest
import torch
from torch.autograd import forward_ad

from holonomy.manifolds import PoincareBall, kernels
from holonomy.manifolds.kernels import dispatch


def test_status_says_what_is_live_and_why() -> None:
    found = kernels.status()
    assert set(found) == {"cpu", "cuda"}
    assert found["cpu"]["live"] == "numba"
    assert found["cpu"]["why"]
    if not torch.cuda.is_available():
        assert found["cuda"]["live"] == "reference"
        assert "CUDA" in found["cuda"]["why"] or "cupy" in found["cuda"]["why"]


def test_use_forces_the_reference_within_its_block_and_nests() -> None:
    x = torch.rand(3, 2)
    assert dispatch.backend(x) == "numba"
    with kernels.use("reference"):
        assert dispatch.backend(x) is None
        assert kernels.status()["cpu"]["live"] == "reference"
        with kernels.use("fused"):
            assert dispatch.backend(x) == "numba"
        assert dispatch.backend(x) is None
    assert dispatch.backend(x) == "numba"


def test_use_ends_with_its_block_also_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), kernels.use("reference"):
        raise ZeroDivisionError
    assert dispatch.backend(torch.rand(3)) == "numba"


def test_use_refuses_other_names() -> None:
    with (
        pytest.raises(ValueError, match="'implementation' must be 'reference', 'fused' or None, got 'fast'"),
        kernels.use("fast"),
    ):
        pass


def test_without_numba_the_reference_runs_and_fused_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_INSTALLED", {"cpu": False, "cuda": False})
    x = 0.1 * torch.rand(5, 3)
    assert dispatch.backend(x) is None
    assert "numba is not installed" in kernels.status()["cpu"]["why"]
    assert torch.isfinite(PoincareBall().logmap0(x)).all()
    with pytest.raises(RuntimeError, match="numba is not installed"), kernels.use("fused"):
        pass


def test_what_kernels_do_not_take_goes_to_the_reference() -> None:
    x = torch.rand(3, 2)
    assert dispatch.backend(x, x.double()) is None
    assert dispatch.backend(x.to(torch.bfloat16)) is None
    assert dispatch.backend(x.to("meta")) is None
    with forward_ad.dual_level():
        assert dispatch.backend(x) is None
    assert dispatch.backend(x, x) == "numba"
