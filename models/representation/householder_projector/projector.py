r"""Linear layers whose singular values are r ones and zeros, and their exchange for a generator's style projections.

A layer l of a style generator sees the latent code w through A w + b. Here A = g U V^T with orthonormal columns U
(out, r) and V (in, r): r directions of w are equally strong, |A v_k| = g, and all others do nothing.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holonomy.manifolds import ManifoldParameter, Stiefel
from holonomy.manifolds.linalg import haar
from holonomy.models.representation.householder_projector.householder import HouseholderOrthogonal

__all__ = ["HouseholderProjector", "Projector", "StiefelProjector", "affine_map", "replace_style_projections"]

_STIEFEL = Stiefel()
#: Names of the style projections of the usual StyleGAN code bases.
_STYLE = ("affine", "modulation")


class Projector(nn.Module, ABC):
    """What the two parametrisations of g U V^T share; `HouseholderProjector` and `StiefelProjector` hold U and V.

    Parameters
    ----------
    in_features, out_features : int
        Numbers d and c of the latent code's and of the style's coordinates.
    rank : int
        Number r of directions; 10 in the paper, for d = 512.
    bias : bool
        Whether there is a bias, at first 0.
    gain : float
        The r singular values, positive; 1 in the paper.
    learn_gain : bool
        Whether the gain is a parameter; a buffer otherwise.
    device, dtype
        Of the parameters.
    generator : torch.Generator, optional
        Draws U and V, uniformly.

    Raises
    ------
    ValueError
        Where a number is out of its range.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        bias: bool = True,
        gain: float = 1.0,
        learn_gain: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check_rank(type(self).__name__, rank, in_features, out_features)
        if not (gain > 0 and math.isfinite(gain)):
            raise ValueError(f"{type(self).__name__}: 'gain' must be positive and finite, got {gain}")
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        value = torch.tensor(gain, device=device, dtype=dtype or torch.get_default_dtype())
        if learn_gain:
            self.gain: Tensor = nn.Parameter(value)
        else:
            self.register_buffer("gain", value)
        place = generator.device if generator is not None else device
        u, v = (haar((n, rank), torch.float64, place, generator) for n in (out_features, in_features))
        self._hold(u, v, device, dtype)
        empty = torch.zeros(out_features, device=device, dtype=dtype) if bias else None
        self.register_parameter("bias", None if empty is None else nn.Parameter(empty))

    @abstractmethod
    def _hold(self, u: Tensor, v: Tensor, device: Any, dtype: torch.dtype | None) -> None:
        """Make parameters for U and V."""

    @abstractmethod
    def factors(self) -> tuple[Tensor, Tensor]:
        """Orthonormal columns U (out, r) and V (in, r)."""

    @property
    def weight(self) -> Tensor:
        """The matrix g U V^T (out, in)."""
        u, v = self.factors()
        return self.gain * u @ v.mT

    def forward(self, w: Tensor) -> Tensor:
        """Styles (..., out) of latent codes (..., in)."""
        u, v = self.factors()
        u, v = (self.gain * u).to(w.dtype), v.to(w.dtype)
        return F.linear(w @ v, u, None if self.bias is None else self.bias.to(w.dtype))

    def directions(self, gauge: Literal["parameters", "jacobian"] = "parameters", gram: Tensor | None = None) -> Tensor:
        r"""The directions v_1 ... v_r of the latent code, as rows (r, in).

        They are the columns of the parametrised V. The weight alone determines only their span, as all its singular
        values are equal: an SVD of it returns any basis.

        Parameters
        ----------
        gauge : {"parameters", "jacobian"}
            With ``"jacobian"`` the columns are turned within their span until V^T M V is diagonal, largest first, for
            M = `gram`; with the generator's E[J^T J], by which they change its output at decreasing rates, and
            uncorrelatedly. An extension of the paper.
        gram : Tensor, optional
            Symmetric matrix (in, in), see `latent_gram`; wanted by ``"jacobian"``.

        Returns
        -------
        Tensor
            Orthonormal rows (r, in).

        Raises
        ------
        ValueError
            Where `gauge` is unknown, or `gram` is missing, superfluous or of another shape.
        """
        if gauge not in ("parameters", "jacobian"):
            raise ValueError(f"directions: 'gauge' must be 'parameters' or 'jacobian', got {gauge!r}")
        if (gauge == "jacobian") != (gram is not None):
            raise ValueError(f"directions: 'gram' goes with gauge='jacobian' and with nothing else, got {gauge!r}")
        v = self.factors()[1]
        if gram is None:
            return v.mT
        if gram.shape != (self.in_features, self.in_features):
            wanted = (self.in_features, self.in_features)
            raise ValueError(f"directions: 'gram' must have shape {wanted}, got {tuple(gram.shape)}")
        inside = v.mT @ gram.to(v) @ v
        return (v @ torch.linalg.eigh(0.5 * (inside + inside.mT))[1].flip(-1)).mT

    @torch.no_grad()
    def turn(self, rotation: Tensor) -> None:
        """Turn both factors, U R and V R, in place: other directions, the same weight.

        Parameters
        ----------
        rotation : Tensor
            Orthogonal matrix R (r, r).

        Raises
        ------
        ValueError
            Where it is not orthogonal, or of another shape.
        """
        r = rotation.double()
        eye = torch.eye(self.rank, dtype=r.dtype, device=r.device)
        if r.shape != eye.shape or not bool(((r.mT @ r - eye).abs() < 1e-4).all()):
            raise ValueError(f"turn: 'rotation' must be orthogonal and {tuple(eye.shape)}, got {tuple(r.shape)}")
        u, v = self.factors()
        self._assign(u.double() @ r, v.double() @ r)

    @abstractmethod
    def _assign(self, u: Tensor, v: Tensor) -> None:
        """Put the parameters where they give U and V."""

    @classmethod
    @torch.no_grad()
    def from_linear(
        cls, linear: nn.Module, rank: int, gain: float | Literal["mean"] = 1.0, learn_gain: bool = False
    ) -> Self:
        r"""The projector that is nearest to a pretrained layer, with its bias.

        With A = U_0 S V_0^T it is U_0r V_0r^T of the r largest singular values: no partial isometry of rank r is nearer
        in Frobenius norm.

        Parameters
        ----------
        linear : Module
            An ``nn.Linear``, or any affine layer with a 2-D weight (out, in). The map it computes is measured, so that
            constant factors of equalised learning rates and multipliers are in the weight and bias here, once.
        rank : int
            Number of directions.
        gain : float or "mean"
            The r singular values; ``"mean"``: the mean of the layer's r largest, which keeps the styles' size.
        learn_gain : bool
            Whether the gain is a parameter.

        Returns
        -------
        Projector
            On the layer's device, in its dtype.

        Raises
        ------
        TypeError
            Where the layer has no 2-D weight.
        ValueError
            Where it is not affine, its weight is not finite, or a number is out of its range.
        """
        weight, bias = affine_map(linear)
        _check_rank("from_linear", rank, weight.shape[1], weight.shape[0])
        if not bool(weight.isfinite().all()):
            raise ValueError("from_linear: the weight of 'linear' must be finite, got NaN or infinite entries")
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        own: Any = linear.weight
        if isinstance(gain, str) and gain != "mean":
            raise ValueError(f"from_linear: 'gain' must be a number or 'mean', got {gain!r}")
        scale = float(s[:rank].mean()) if isinstance(gain, str) else gain
        place: dict[str, Any] = {"device": own.device, "dtype": own.dtype}
        result = cls(weight.shape[1], weight.shape[0], rank, bias is not None, scale, learn_gain, **place)
        result._assign(u[:, :rank], vh[:rank].mT)
        if bias is not None and result.bias is not None:
            result.bias.copy_(bias)
        return result

    @torch.no_grad()
    def to_linear(self) -> nn.Linear:
        """An ``nn.Linear`` with the weight and bias as they are."""
        weight = self.weight
        place: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
        result = nn.Linear(self.in_features, self.out_features, self.bias is not None, **place)
        result.weight.copy_(weight)
        if self.bias is not None:
            result.bias.copy_(self.bias)
        return result

    def extra_repr(self) -> str:
        """Sizes and gain."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}, "
            f"bias={self.bias is not None}, gain={float(self.gain):g}"
        )


class HouseholderProjector(Projector):
    """A linear layer g U V^T + b with U and V products of r reflections each, stepped by any optimizer (paper, 3.2).

    Parameters and errors are those of `Projector`; what is trained is ``left.vectors``, ``right.vectors`` and ``bias``.
    """

    def _hold(self, u: Tensor, v: Tensor, device: Any, dtype: torch.dtype | None) -> None:
        self.left = HouseholderOrthogonal(self.out_features, self.rank, u, device, dtype)
        self.right = HouseholderOrthogonal(self.in_features, self.rank, v, device, dtype)

    def _assign(self, u: Tensor, v: Tensor) -> None:
        self.left.assign(u)
        self.right.assign(v)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Orthonormal columns U (out, r) and V (in, r)."""
        return self.left(), self.right()


class StiefelProjector(Projector):
    """The same layer with U and V points of Stiefel manifolds, for `holonomy.optim`'s Riemannian optimizers.

    Parameters and errors are those of `Projector`; what is trained is ``left``, ``right`` and ``bias``.
    """

    def _hold(self, u: Tensor, v: Tensor, device: Any, dtype: torch.dtype | None) -> None:
        dtype = dtype or torch.get_default_dtype()
        self.left = ManifoldParameter(u.to(device, dtype), _STIEFEL)
        self.right = ManifoldParameter(v.to(device, dtype), _STIEFEL)

    def _assign(self, u: Tensor, v: Tensor) -> None:
        self.left.copy_(u)
        self.right.copy_(v)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Orthonormal columns U (out, r) and V (in, r)."""
        return self.left, self.right


@torch.no_grad()
def affine_map(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of an affine layer as it computes, in float64: constant factors that it applies are in them.

    Parameters
    ----------
    layer : Module
        Any module with a 2-D ``weight`` (out, in) that maps (..., in) to (..., out).

    Returns
    -------
    weight : Tensor
        (out, in).
    bias : Tensor or None
        (out,); None for a layer whose ``bias`` is None.

    Raises
    ------
    TypeError
        Where the layer has no 2-D weight.
    ValueError
        Where it is not affine, as with an activation.
    """
    own = getattr(layer, "weight", None)
    if not isinstance(own, Tensor) or own.ndim != 2:
        shape = tuple(own.shape) if isinstance(own, Tensor) else own
        raise TypeError(f"the layer must have a 2-D weight (out, in), got {type(layer).__name__} with weight {shape}")
    has_bias = getattr(layer, "bias", None) is not None
    if type(layer) is nn.Linear:
        return own.double(), layer.bias.double() if has_bias else None
    wide = copy.deepcopy(layer).double().eval()
    eye = torch.eye(own.shape[1], dtype=torch.float64, device=own.device)
    # Integers that no period of 2 or 3 hides in.
    probe = torch.arange(own.shape[1], dtype=torch.float64, device=own.device).remainder(7.0)[None] - 2.5
    bias = wide(torch.zeros_like(eye[:1]))[0]
    weight = (wide(eye) - bias).mT
    expected = F.linear(probe, weight, bias)
    if not torch.allclose(wide(probe), expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max())):
        raise ValueError(f"the layer must be affine, got {type(layer).__name__}, which is not (has it an activation?)")
    return weight, bias if has_bias else None


def replace_style_projections(
    generator: nn.Module,
    rank: int,
    include: tuple[str, ...] | list[str] | None = None,
    exclude: tuple[str, ...] | list[str] = ("to_rgb", "torgb"),
    gain: float | Literal["mean"] = 1.0,
    learn_gain: bool = False,
    kind: type[Projector] = HouseholderProjector,
) -> nn.Module:
    """Exchange a generator's style projections, in place, for the projectors nearest to them.

    Parameters
    ----------
    generator : Module
        Any tree of modules.
    rank : int
        Number of directions of each.
    include : sequence of str, optional
        Patterns of names, as in ``named_modules``: part of the name, or with the wildcards of a shell. Left out:
        ``affine`` and ``modulation``, as the usual StyleGAN code bases call them.
    exclude : sequence of str
        Patterns of names to leave; the projections to colours, as in the paper.
    gain, learn_gain
        As in `Projector.from_linear`.
    kind : type
        `HouseholderProjector` or `StiefelProjector`.

    Returns
    -------
    Module
        `generator` itself.

    Raises
    ------
    ValueError
        Where no layer matches, or the rank is out of the range of one; then nothing has changed.
    TypeError
        Where a layer that matches has no 2-D weight.
    """
    layers = dict(_matching(generator, _STYLE if include is None else include, exclude))
    if not layers:
        patterns = ", ".join(map(repr, _STYLE if include is None else include))
        raise ValueError(f"replace_style_projections: no layer's name matches {patterns} and not {exclude}")
    made: dict[int, Projector] = {}  # a layer that is used twice stays one
    for name, layer in layers.items():
        if id(layer) not in made:
            try:
                made[id(layer)] = kind.from_linear(layer, rank, gain, learn_gain)
            except (TypeError, ValueError) as error:
                raise type(error)(f"replace_style_projections: {name!r}: {error}") from error
    for name, layer in layers.items():
        parent, _, last = name.rpartition(".")
        setattr(generator.get_submodule(parent), last, made[id(layer)])
    return generator


def _matching(
    generator: nn.Module, include: tuple[str, ...] | list[str], exclude: tuple[str, ...] | list[str]
) -> Iterator[tuple[str, nn.Module]]:
    done: tuple[str, ...] = ()
    for name, module in generator.named_modules(remove_duplicate=False):
        if name.startswith(done):
            continue
        if isinstance(module, Projector):
            done = (*done, f"{name}.")
        elif name and not list(module.children()):
            chosen, left = (any(fnmatchcase(name, f"*{p}*") for p in patterns) for patterns in (include, exclude))
            if chosen and not left:
                yield name, module


def _check_rank(name: str, rank: int, in_features: int, out_features: int) -> None:
    if in_features < 1 or out_features < 1:
        raise ValueError(f"{name}: sizes must be at least 1, got in = {in_features}, out = {out_features}")
    if not 1 <= rank <= min(in_features, out_features):
        raise ValueError(
            f"{name}: 'rank' must be from 1 to min(in, out) = {min(in_features, out_features)}, got {rank}"
        )
