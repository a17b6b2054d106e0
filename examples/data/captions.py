"""Images with captions from a folder of the user's: pairs to fine-tune a model of images and texts on."""

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from holonomy.examples.data.images import centre, decode
from holonomy.examples.errors import DataError

__all__ = ["CaptionedImages", "load_captions"]

#: CLIP's mean and standard deviation of red, green and blue.
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class CaptionedImages:
    """Images of a split with one caption each, decoded batch by batch.

    Parameters
    ----------
    files : list of Path
        Images.
    captions : list of str
        As many.

    Raises
    ------
    DataError
        If an image is not there.
    """

    def __init__(self, files: list[Path], captions: list[str]) -> None:
        missing = [path for path in files if not path.is_file()]
        if missing:
            raise DataError(f"--data: {len(missing)} images that captions name are not there, the first {missing[0]}")
        self.files, self.captions = files, captions

    def __len__(self) -> int:
        return len(self.files)

    def images(self, index: Tensor, size: int) -> Tensor:
        """Squares in the middle of images, (B, 3, size, size), float32, with CLIP's mean and deviation taken out."""
        chosen = [self.files[i] for i in index.tolist()]
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            found = list(pool.map(lambda path: decode(path, size, centre), chosen))
        pixels = torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float() / 255
        return (pixels - torch.tensor(_MEAN).view(3, 1, 1)) / torch.tensor(_STD).view(3, 1, 1)


def load_captions(folder: Path | None) -> dict[str, CaptionedImages]:
    """Splits ``train`` and ``test`` of captioned images; of an image with several captions the first.

    Parameters
    ----------
    folder : Path
        Has ``images/`` and either ``dataset.json``, the splits of Flickr30k and COCO by Karpathy and Fei-Fei
        (``images``: ``filename``, ``split``, ``sentences`` with ``raw``; ``filepath`` where it is there), or
        ``captions.csv`` with columns ``image``, ``caption`` and ``split``.

    Raises
    ------
    DataError
        If the folder is not of that form; the message names what is missing.
    """
    wanted = "a folder with images/ and dataset.json or captions.csv"
    if folder is None or not (folder / "images").is_dir():
        raise DataError(f"--data must name {wanted}, got {folder}")
    try:
        if (folder / "dataset.json").is_file():
            rows = _read_json(folder / "dataset.json")
        elif (folder / "captions.csv").is_file():
            rows = _read_csv(folder / "captions.csv")
        else:
            raise DataError(f"--data: {folder} has neither dataset.json nor captions.csv; wanted {wanted}")
    except (KeyError, IndexError, TypeError, ValueError, csv.Error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"--data: the captions of {folder} cannot be read: {error!r}") from error
    found: dict[str, dict[str, str]] = {"train": {}, "test": {}}
    for image, caption, split in rows:
        split = "train" if split == "restval" else split  # COCO's rest of the validation images is trained on
        if split in found:
            found[split].setdefault(image, caption)
    for split, pairs in found.items():
        if len(pairs) < 2:
            raise DataError(f"--data: {folder} has {len(pairs)} captioned images of split {split!r}, wanted 2 at least")
    return {
        split: CaptionedImages([folder / "images" / name for name in pairs], list(pairs.values()))
        for split, pairs in found.items()
    }


def _read_json(path: Path) -> list[tuple[str, str, str]]:
    entries = json.loads(path.read_text(encoding="utf-8"))["images"]
    return [
        (str(Path(one.get("filepath", "")) / one["filename"]), one["sentences"][0]["raw"], one["split"])
        for one in entries
    ]


def _read_csv(path: Path) -> list[tuple[str, str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return [(row["image"], row["caption"], row["split"]) for row in csv.DictReader(lines)]
