"""Gram matrices by blocks: on disk, and as operators."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import cg
from torch import Tensor

from holonomy.theory.gram import gram_blocks, gram_operator, write_gram
from holonomy.theory.ntk import fc_kernels, kernel_regression

X = torch.randn(23, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def kernel(x: Tensor, y: Tensor) -> Tensor:
    return fc_kernels(x, y, 2)[1]


def test_blocks_cover_the_upper_part_once() -> None:
    seen = np.zeros((23, 23), dtype=int)
    for rows, columns, values in gram_blocks(kernel, X, 5):
        assert values.shape == (rows.stop - rows.start, columns.stop - columns.start)
        assert max(values.shape) <= 5
        seen[rows, columns] += 1
    assert (np.triu(seen) == np.triu(np.ones((23, 23)))).all()


@pytest.mark.parametrize(("dtype", "error"), [("float64", 1e-14), ("float32", 1e-6)])
def test_the_file_has_the_matrix(tmp_path: Path, dtype: str, error: float) -> None:
    steps: list[float] = []
    found = write_gram(kernel, X, tmp_path / "gram.npy", block=5, dtype=dtype, progress=steps.append)
    assert found.dtype == dtype
    assert not found.flags.writeable
    # Blocks are other matrix products than the whole: their sums round differently; float32 rounds once.
    np.testing.assert_allclose(found, kernel(X, X).numpy(), rtol=error)
    assert steps == sorted(steps)
    assert steps[-1] == pytest.approx(1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["gram.npy"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    write_gram(kernel, X, tmp_path / "gram.npy")
    before = (tmp_path / "gram.npy").read_bytes()

    def broken(x: Tensor, y: Tensor) -> Tensor:
        if len(y) < 5:
            raise RuntimeError("broken")
        return kernel(x, y)

    with pytest.raises(RuntimeError, match="broken"):
        write_gram(broken, X, tmp_path / "gram.npy", block=5)
    assert (tmp_path / "gram.npy").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["gram.npy"]


def test_the_operator_is_the_matrix() -> None:
    operator = gram_operator(kernel, X, ridge=0.5, block=5)
    whole = kernel(X, X).numpy() + 0.5 * np.eye(23)
    for vectors in (np.eye(23)[0], np.random.default_rng(0).standard_normal((23, 3))):
        np.testing.assert_allclose(operator @ vectors, whole @ vectors, rtol=1e-12)
    y = np.random.default_rng(1).standard_normal(23)
    found, status = cg(operator, y, rtol=1e-12, maxiter=500)
    assert status == 0
    wanted = kernel_regression(kernel(X, X), torch.from_numpy(y), 0.5).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-8)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda folder: write_gram(kernel, X, folder / "g.npy", dtype="float16"), "'dtype' must be .* got 'float16'"),
        (lambda folder: write_gram(kernel, X, folder / "g.npy", block=0), "'block' must be at least 1, got 0"),
        (lambda folder: gram_operator(kernel, X, ridge=-1.0), "'ridge' must be at least 0, got -1.0"),
        (lambda folder: gram_operator(kernel, X, block=0), "'block' must be at least 1, got 0"),
    ],
)
def test_bad_arguments(call: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        call(tmp_path)  # type: ignore[operator]
    assert list(tmp_path.iterdir()) == []
