"""Two towers into one sphere: CLIP as open_clip has it, with weights from a file."""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holonomy.examples.errors import DataError, MissingPackageError, require

__all__ = ["ClipTowers", "load_clip"]


class ClipTowers(nn.Module):
    """A model with ``encode_image`` and ``encode_text`` as one map from batches to unit embeddings."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, d) of length 1 of images (B, 3, h, w) and of tokens (B, length)."""
        return F.normalize(self.clip.encode_image(image), dim=1), F.normalize(self.clip.encode_text(text), dim=1)


def load_clip(architecture: str, weights: Path) -> tuple[ClipTowers, Any]:
    """A CLIP model with weights from a safetensors file, in float32, and its tokenizer; nothing is downloaded.

    Parameters
    ----------
    architecture : str
        open_clip's name, ``ViT-B-32-quickgelu`` for OpenAI's weights.
    weights : Path
        State dict of that model.

    Returns
    -------
    towers : ClipTowers
    tokenizer : callable
        Tokens (B, length), int64, of a list of strings.

    Raises
    ------
    MissingPackageError
        If open_clip is not installed.
    DataError
        If the file is not there or does not fit.
    """
    try:
        open_clip = import_module("open_clip")
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "open_clip is not installed, which CLIP's towers come from: pip install open_clip_torch"
        ) from error
    if not weights.is_file():
        raise DataError(f"--data: {weights} is not there; wanted CLIP's weights as safetensors, named as in open_clip")
    model = open_clip.create_model(architecture, pretrained=None, precision="fp32")
    try:
        model.load_state_dict(require("safetensors.torch", "safetensors").load_file(weights))
    except RuntimeError as error:
        raise DataError(f"--data: {weights} does not fit open_clip's {architecture}: {error}") from error
    tokenizer = open_clip.get_tokenizer(architecture)
    return ClipTowers(model), lambda texts: torch.as_tensor(tokenizer(texts)).long()
