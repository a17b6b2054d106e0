"""Perceptual distance of images by VGG16's features (LPIPS: Zhang et al., CVPR 2018), from weights in a local file."""

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from holonomy.examples.errors import DataError, require

__all__ = ["Perceptual"]

#: VGG16's convolutions, by channels, and the places where the size is halved.
_PLAN = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)
#: Layers after whose ReLU features are compared, in the numbering of the published weights.
_TAPS = (2, 7, 14, 21, 28)
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class Perceptual(nn.Module):
    """LPIPS, and pooled features for Fréchet distances.

    Parameters
    ----------
    path : Path
        A safetensors file with VGG16's ``features.N.weight`` and ``features.N.bias`` and LPIPS's ``lin0`` to
        ``lin4``, (1, channels, 1, 1) each.

    Raises
    ------
    DataError
        If the file is not there, or a weight of it is missing or has another shape.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        if not path.is_file():
            raise DataError(f"--data: {path} is not there; wanted VGG16's and LPIPS's weights as safetensors")
        weights = require("safetensors.torch", "safetensors").load_file(path)
        number, channels = 0, 3
        for step in _PLAN:
            if isinstance(step, str):
                number += 1
                continue
            for kind, shape in (("weight", (step, channels, 3, 3)), ("bias", (step,))):
                self._take(weights, f"features.{number}.{kind}", shape, path)
            channels, number = step, number + 2
        for i, width in enumerate((64, 128, 256, 512, 512)):
            self._take(weights, f"lin{i}", (1, width, 1, 1), path)

    def _take(self, weights: dict[str, Tensor], name: str, shape: tuple[int, ...], path: Path) -> None:
        if name not in weights or weights[name].shape != shape:
            found = tuple(weights[name].shape) if name in weights else "nothing"
            raise DataError(f"--data: {path} must have {name!r} of shape {shape}, got {found}")
        self.register_buffer(name.replace(".", "_"), weights[name].float())

    def layers(self, images: Tensor) -> list[Tensor]:
        """Features of images from -1 to 1 at five depths."""
        shift, scale = (images.new_tensor(v).view(1, 3, 1, 1) for v in (_SHIFT, _SCALE))
        x, found, number = (images - shift) / scale, [], 0
        for step in _PLAN:
            if isinstance(step, str):
                x, number = F.max_pool2d(x, 2), number + 1
                continue
            weight, bias = (self.get_buffer(f"features_{number}_{kind}").to(x.dtype) for kind in ("weight", "bias"))
            x = F.relu(F.conv2d(x, weight, bias, padding=1))
            if number in _TAPS:
                found.append(x)
            number += 2
        return found

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances (B,)."""
        total = a.new_zeros(len(a))
        for i, (x, y) in enumerate(zip(self.layers(a), self.layers(b), strict=True)):
            gap = (F.normalize(x, dim=1, eps=1e-10) - F.normalize(y, dim=1, eps=1e-10)).square()
            total = total + F.conv2d(gap, self.get_buffer(f"lin{i}").to(x.dtype)).mean((1, 2, 3))
        return total

    def features(self, images: Tensor) -> Tensor:
        """The deepest features, averaged over the image: (B, 512)."""
        return self.layers(images)[-1].mean((2, 3))
