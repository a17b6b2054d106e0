"""CIFAR-10 and CIFAR-100 in their binary version, from a folder of the user's; SVHN and Textures beside them."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from holonomy.examples.data.split import Labelled
from holonomy.examples.errors import DataError, require

_SIZE = 3 * 32 * 32
#: Folder, files to train and to test, label bytes before each image (CIFAR-100 has coarse, fine), classes.
_LAYOUTS = {
    "cifar10": ("cifar-10-batches-bin", tuple(f"data_batch_{i}.bin" for i in range(1, 6)), ("test_batch.bin",), 1, 10),
    "cifar100": ("cifar-100-binary", ("train.bin",), ("test.bin",), 2, 100),
}


def load_cifar(path: Path | None, name: str = "cifar10", *, coarse: bool = False) -> Labelled:
    """Load CIFAR-10 or CIFAR-100 from the files of the binary version; nothing is unpickled.

    Parameters
    ----------
    path : Path
        The folder ``cifar-10-batches-bin`` or ``cifar-100-binary``, or the one that it is in.
    name : {"cifar10", "cifar100"}
        Which of the two.
    coarse : bool
        Give CIFAR-100's 20 coarse labels.

    Returns
    -------
    Labelled
        Images (N, 3, 32, 32), float32 in [0, 1]; labels int64 (of CIFAR-100 the fine ones, unless `coarse`).

    Raises
    ------
    DataError
        If no path is given, a file is not there, or its length is no multiple of a record's.
    """
    folder_name, train, test, label_bytes, classes = _LAYOUTS[name]
    if coarse and name != "cifar100":
        raise ValueError(f"load_cifar: 'coarse' needs name='cifar100', got {name!r}")
    place, classes = (0, 20) if coarse else (label_bytes - 1, classes)
    if path is None:
        raise DataError(f"--data must name the folder {folder_name} (the binary version of the data set)")
    folder = path / folder_name if (path / folder_name).is_dir() else path
    pairs = []
    for files in (train, test):
        parts = [_read(folder / file, label_bytes, place, classes) for file in files]
        pairs.append((torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])))
    return Labelled(pairs[0], pairs[1], classes)


def _read(file: Path, label_bytes: int, place: int, classes: int) -> tuple[Tensor, Tensor]:
    if not file.is_file():
        raise DataError(f"--data: {file} is not there; wanted the binary version of CIFAR")
    raw = np.fromfile(file, dtype=np.uint8)
    record = label_bytes + _SIZE
    if len(raw) == 0 or len(raw) % record:
        raise DataError(f"--data: {file} has {len(raw)} bytes, wanted records of {record}")
    rows = torch.from_numpy(raw.reshape(-1, record))
    labels = rows[:, place].long()
    if int(labels.max()) >= classes:
        raise DataError(f"--data: {file} has the label {int(labels.max())}, wanted labels below {classes}")
    return rows[:, label_bytes:].reshape(-1, 3, 32, 32).float() / 255, labels


def load_outside(path: Path) -> dict[str, Tensor]:
    """Load what is there of SVHN and Textures, as images of unknown classes.

    Read are ``svhn/test_32x32.mat`` (SVHN's cropped digits) and ``dtd/images/<texture>/*.jpg`` (Describable Textures),
    beside or above the CIFAR folder. Textures are cropped to a centred square and scaled to 32 x 32.

    Returns
    -------
    dict of Tensor
        Name -> images (N, 3, 32, 32), float32 in [0, 1]; empty where neither is there.
    """
    found = {}
    for folder in (path, path.parent):
        svhn, textures = folder / "svhn" / "test_32x32.mat", folder / "dtd" / "images"
        if "svhn" not in found and svhn.is_file():
            images = require("scipy.io", "scipy").loadmat(svhn)["X"]
            found["svhn"] = torch.from_numpy(images).permute(3, 2, 0, 1).float() / 255
        files = sorted(textures.glob("*/*.jpg"))
        if "textures" not in found and files:
            found["textures"] = torch.stack([_texture(file) for file in files])
    return found


def _texture(file: Path) -> Tensor:
    with require("PIL.Image", "pillow").open(file) as image:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        small = image.convert("RGB").resize((32, 32), box=(left, top, left + side, top + side))
        return torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1).float() / 255
