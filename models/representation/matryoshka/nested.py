r"""Representations whose prefixes are representations: nested heads and losses, for classes and for pairs of views.

Kusupati, Bhatt, Rege, Wallingford, Sinha, Ramanujan, Howard-Snyder, Chen, Kakade, Jain, Farhadi, *Matryoshka
Representation Learning*, NeurIPS 2022 (arXiv:2205.13147).

For nesting sizes m of a representation z in R^d the loss is the sum over m of c_m times the loss of its first m
coordinates: sum, not mean, so that what is usual for the full size keeps its rate. Coordinate j takes gradients from
the sizes above j alone.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holonomy.models.representation.contrastive import symmetric_cross_entropy

__all__ = [
    "MatryoshkaContrastive",
    "MatryoshkaEncoder",
    "MatryoshkaLinear",
    "MatryoshkaLoss",
    "check_nesting",
    "default_nesting",
    "nested_rotation",
    "truncate",
]


def default_nesting(d: int, smallest: int = 8) -> list[int]:
    """Sizes d, d/2, d/4, ... down to `smallest`, rising; halves that are not whole are rounded down.

    Raises
    ------
    ValueError
        If `smallest` is not from 1 to `d`.
    """
    if not 1 <= smallest <= d:
        raise ValueError(f"default_nesting: 'smallest' must be from 1 to d = {d}, got {smallest}")
    sizes = [d]
    while sizes[-1] // 2 >= smallest:
        sizes.append(sizes[-1] // 2)
    return sizes[::-1]


def check_nesting(where: str, nesting: Sequence[int], d: int) -> list[int]:
    """Sizes as a list, refused unless they rise strictly from 1 or more to `d` at most."""
    sizes = [int(m) for m in nesting]
    if not sizes or sizes[0] < 1 or sizes[-1] > d or any(a >= b for a, b in pairwise(sizes)):
        raise ValueError(f"{where}: 'nesting' must rise strictly within 1 to {d}, got {list(nesting)}")
    return sizes


def truncate(z: Tensor, dim: int, normalize: bool = True) -> Tensor:
    """First coordinates of representations, brought to length 1 afterwards: a prefix of a unit vector is shorter.

    Parameters
    ----------
    z : Tensor
        (..., d).
    dim : int
        1 to d.
    normalize : bool, default True
        Divide by the length; zero vectors stay.

    Raises
    ------
    ValueError
        If `dim` is out of its range.
    """
    if not 1 <= dim <= z.shape[-1]:
        raise ValueError(f"truncate: 'dim' must be from 1 to d = {z.shape[-1]}, got {dim}")
    return F.normalize(z[..., :dim], dim=-1) if normalize else z[..., :dim]


class MatryoshkaLinear(nn.Module):
    """A linear classifier for every nesting size; `efficient` shares one weight among them (paper, section 3).

    Parameters
    ----------
    in_features : int
        d.
    num_classes : int
        Number L of classes.
    nesting : sequence of int, optional
        Sizes, strictly rising, d at most; `default_nesting` when left out. With `efficient` the last is d.
    efficient : bool, default False
        One weight (L, d), whose first m columns are the weight of size m, and one bias.
    bias : bool, default True
        Whether there are biases.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        nesting: Sequence[int] | None = None,
        efficient: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if in_features < 1 or num_classes < 1:
            raise ValueError(f"MatryoshkaLinear: sizes must be at least 1, got {in_features} and {num_classes}")
        sizes = default_nesting(in_features, min(8, in_features)) if nesting is None else nesting
        self.nesting = check_nesting("MatryoshkaLinear", sizes, in_features)
        if efficient and self.nesting[-1] != in_features:
            raise ValueError(f"MatryoshkaLinear: efficient=True wants {in_features} as last size, got {self.nesting}")
        self.in_features, self.num_classes, self.efficient = in_features, num_classes, efficient
        widths = [in_features] if efficient else self.nesting
        self.heads = nn.ModuleList(nn.Linear(m, num_classes, bias) for m in widths)

    def forward(self, z: Tensor) -> tuple[Tensor, ...]:
        """Logits (B, L) of representations (B, d), one for every size, rising.

        Raises
        ------
        ValueError
            Where the width is not d.
        """
        if z.shape[-1] != self.in_features:
            raise ValueError(f"MatryoshkaLinear: wanted width {self.in_features}, got {tuple(z.shape)}")
        if not self.efficient:
            return tuple(head(z[..., :m]) for head, m in zip(self.heads, self.nesting, strict=True))
        whole: nn.Linear = self.heads[0]  # type: ignore[assignment]
        return tuple(F.linear(z[..., :m], whole.weight[:, :m], whole.bias) for m in self.nesting)

    def extra_repr(self) -> str:
        """Sizes."""
        return f"in_features={self.in_features}, num_classes={self.num_classes}, nesting={self.nesting}"


def _importance(where: str, weights: Sequence[float] | Tensor | None) -> Tensor | None:
    if weights is None:
        return None
    found = torch.as_tensor(weights, dtype=torch.float32).detach().clone()
    if found.ndim != 1 or not bool((found.isfinite() & (found >= 0)).all()):
        raise ValueError(f"{where}: 'relative_importance' must be numbers that are not negative, got {weights}")
    return found


class MatryoshkaLoss(nn.Module):
    """Sum over nesting sizes of a loss of logits, each times its relative importance.

    Parameters
    ----------
    base_loss : nn.Module, optional
        Of logits and targets; cross-entropy when left out.
    relative_importance : sequence of float or Tensor, optional
        c_m, not negative, one a size; 1 when left out.

    Raises
    ------
    ValueError
        If a weight is negative or not finite.
    """

    def __init__(
        self, base_loss: nn.Module | None = None, relative_importance: Sequence[float] | Tensor | None = None
    ) -> None:
        super().__init__()
        self.base_loss = nn.CrossEntropyLoss() if base_loss is None else base_loss
        self.register_buffer("relative_importance", _importance("MatryoshkaLoss", relative_importance))

    def forward(self, logits: Sequence[Tensor], target: Tensor) -> Tensor:
        """Loss, a scalar in the dtype of the logits.

        Raises
        ------
        TypeError
            Where cross-entropy gets floating targets (B,), which are no classes.
        ValueError
            Where there are not as many logits as weights, or none.
        """
        weights = self._buffers["relative_importance"]
        if not logits or (weights is not None and len(weights) != len(logits)):
            count = "some" if weights is None else len(weights)
            raise ValueError(f"MatryoshkaLoss: wanted {count} logits, one a size, got {len(logits)}")
        if isinstance(self.base_loss, nn.CrossEntropyLoss) and target.is_floating_point() and target.ndim == 1:
            raise TypeError(f"MatryoshkaLoss: targets (B,) must be classes, integers, got {target.dtype}")
        losses = [self.base_loss(part, target) for part in logits]
        if weights is None:
            return torch.stack(losses).sum()
        return sum((w.to(loss.dtype) * loss for w, loss in zip(weights, losses, strict=True)), losses[0].new_zeros(()))


class MatryoshkaContrastive(nn.Module):
    """Sum over nesting sizes of symmetric InfoNCE on prefixes, each brought to length 1 by itself.

    Parameters
    ----------
    nesting : sequence of int
        Sizes, strictly rising.
    temperature : float, default 0.07
        Positive.
    relative_importance : sequence of float or Tensor, optional
        c_m, one a size; 1 when left out.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """

    def __init__(
        self,
        nesting: Sequence[int],
        temperature: float = 0.07,
        relative_importance: Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 < temperature < math.inf:
            raise ValueError(f"MatryoshkaContrastive: 'temperature' must be positive and finite, got {temperature}")
        self.nesting = check_nesting("MatryoshkaContrastive", nesting, max(nesting, default=1))
        self.temperature = temperature
        weights = _importance("MatryoshkaContrastive", relative_importance)
        if weights is not None and len(weights) != len(self.nesting):
            raise ValueError(
                f"MatryoshkaContrastive: wanted {len(self.nesting)} 'relative_importance', got {len(weights)}"
            )
        self.register_buffer("relative_importance", weights)

    def forward(self, za: Tensor, zb: Tensor) -> Tensor:
        """Loss of views (B, d), row i of one belonging to row i of the other.

        Raises
        ------
        ValueError
            Where shapes differ, or a size is above d.
        """
        if za.shape != zb.shape or za.ndim != 2 or self.nesting[-1] > za.shape[1]:
            raise ValueError(
                f"MatryoshkaContrastive: wanted two of shape (B, d) with d >= {self.nesting[-1]}, got "
                f"{tuple(za.shape)} and {tuple(zb.shape)}"
            )
        weights = self._buffers["relative_importance"]
        total = za.new_zeros(())
        for i, m in enumerate(self.nesting):
            loss = symmetric_cross_entropy(truncate(za, m) @ truncate(zb, m).mT / self.temperature)
            total = total + (loss if weights is None else weights[i].to(loss.dtype) * loss)
        return total


class MatryoshkaEncoder(nn.Module):
    """A backbone whose outputs are asked for at any size.

    A last LayerNorm over the whole vector would put all coordinates into every prefix, which is warned of.

    Parameters
    ----------
    backbone : nn.Module
        Representations (B, d) of inputs.
    nesting : sequence of int
        Sizes that it is trained for, strictly rising; the last is d.
    """

    def __init__(self, backbone: nn.Module, nesting: Sequence[int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.nesting = check_nesting("MatryoshkaEncoder", nesting, max(nesting, default=1))
        last = [part for part in backbone.modules() if not list(part.children())][-1:]
        if last and isinstance(last[0], nn.LayerNorm):
            import warnings

            warnings.warn(
                "MatryoshkaEncoder: the backbone ends in a LayerNorm, which mixes all coordinates into every prefix",
                stacklevel=2,
            )

    def forward(self, x: Tensor) -> Tensor:
        """Representations (B, d) as the backbone gives them: what `MatryoshkaLinear` takes in training."""
        return self.backbone(x)

    def encode(self, x: Tensor, dim: int | None = None, normalize: bool = True) -> Tensor:
        """Representations of the first `dim` coordinates, all when left out; see `truncate`.

        Raises
        ------
        ValueError
            If `dim` is out of its range.
        """
        z = self.backbone(x)
        return truncate(z, z.shape[-1] if dim is None else dim, normalize)


def nested_rotation(z: Tensor) -> Tensor:
    """The rotation after which first coordinates hold most: for representations that were not trained to be nested.

    Columns are the right singular vectors of `z`, not centred, largest first, so that ``z @ q`` has the inner products
    of `z` and the prefixes of principal components through 0.

    Parameters
    ----------
    z : Tensor
        Representations (n, d) of training samples.

    Returns
    -------
    Tensor
        Orthogonal matrix (d, d).

    Raises
    ------
    ValueError
        Where `z` is not (n, d) and finite.
    """
    if z.ndim != 2 or not bool(z.isfinite().all()):
        raise ValueError(f"nested_rotation: 'z' must be finite and (n, d), got {tuple(z.shape)}")
    # The whole of the left vectors, n x n, is not asked for where there are more samples than dimensions.
    return torch.linalg.svd(z, full_matrices=len(z) < z.shape[1])[2].mT
