"""Grassmann class representation: a classifier whose classes are subspaces instead of vectors.

Zhang, Wang, Chen, Wang, *Get the Best of Both Worlds: Improving Accuracy and Transferability by Grassmann Class
Representation*, ICCV 2023 (arXiv:2308.01547).

Class i is a k-dimensional subspace of feature space with orthonormal basis S_i, and its logit is gamma times the cosine
of the angle between feature and subspace, gamma |S_i^T x| / |x|. Features of one class may then differ within k
dimensions at no cost, where a linear head draws them to one direction.

`GrassmannClassifier` takes the place of the last ``nn.Linear`` (`convert_linear_head` swaps it), `param_groups` sets up
`RiemannianSGD` as in the paper: geodesic steps with a momentum that is kept in ambient coordinates and projected where
it comes to, no weight decay on the subspaces; `HybridOptimizer` pairs it with AdamW and its kind. `intra_class_angle`
and `class_separation` measure what the paper is after, and `CosineClassifier` is a baseline.

Where this differs from the paper: steps do not depend on the basis of a subspace, with momentum too; the published code
re-orthonormalises by QR every fifth step, which turns the basis under a momentum that stays. Here every step along a
geodesic ends in a Newton-Schulz iteration within its k x k coefficients: bases stay orthonormal to rounding, and there
is no interval to set.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holonomy.manifolds import Grassmann, ManifoldParameter
from holonomy.manifolds.kernels.subspace_logits import subspace_logits
from holonomy.manifolds.linalg import cholesky_qr, gram_gap
from holonomy.manifolds.parameter import find_manifolds
from holonomy.optim import HybridOptimizer as HybridOptimizer

__all__ = [
    "CosineClassifier",
    "GrassmannClassifier",
    "HybridOptimizer",
    "class_separation",
    "convert_linear_head",
    "intra_class_angle",
    "param_groups",
]

_MANIFOLD = Grassmann("exp")
#: How far an assigned basis may be from orthonormal, or four units of rounding where that is more.
TOLERANCE = 1e-4
#: Numbers in a block of angles, or of differences of bases.
_BLOCK = 1 << 22


class GrassmannClassifier(nn.Module):
    r"""Logits gamma |S_i^T x| / |x| of features x by subspaces with orthonormal bases S_i (paper, equation 3).

    All logits are between 0 and gamma, whatever the feature's length; they depend on the subspaces alone, not on their
    bases. k times the number of classes may exceed the number of features: subspaces may overlap. The loss is ordinary
    cross-entropy, or binary cross-entropy with logits.

    Parameters
    ----------
    in_features : int
        Number of features D.
    num_classes : int
        Number of classes C, 2 at least.
    subspace_dim : int
        Dimension k of each class's subspace; the paper's choice is 8. With 1, logits are gamma |cos|.
    gamma : float
        Scale of the logits.
    eps : float
        Features are divided by their length or by this, whichever is more.
    device, dtype
        Of the subspaces.

    Attributes
    ----------
    subspaces : ManifoldParameter
        Bases (C, D, k), on ``Grassmann("exp")``.

    Raises
    ------
    ValueError
        Where a number is out of its range.
    """

    subspaces: ManifoldParameter

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        subspace_dim: int = 8,
        gamma: float = 25.0,
        eps: float = 1e-12,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_sizes("GrassmannClassifier", in_features, num_classes, gamma)
        if not 1 <= subspace_dim <= in_features:
            raise ValueError(
                f"GrassmannClassifier: 'subspace_dim' must be from 1 to in_features = {in_features}, got {subspace_dim}"
            )
        if not eps > 0:
            raise ValueError(f"GrassmannClassifier: 'eps' must be positive, got {eps}")
        self.in_features = in_features
        self.num_classes = num_classes
        self.subspace_dim = subspace_dim
        self.gamma = gamma
        self.eps = eps
        bases = torch.empty(num_classes, in_features, subspace_dim, device=device, dtype=dtype)
        self.register_parameter("subspaces", ManifoldParameter(bases, _MANIFOLD))  # not drawn yet: no check
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw every subspace uniformly: the Q factor of a Gaussian matrix.

        Parameters
        ----------
        generator : torch.Generator, optional
            Where the numbers come from; it may be on another device than the subspaces.
        """
        bases = self.subspaces
        if bases.is_meta:
            return
        device = bases.device if generator is None else generator.device
        drawn = _MANIFOLD.random(*bases.shape, dtype=bases.dtype, device=device, generator=generator)
        with torch.no_grad():
            bases.copy_(drawn)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of features.

        Parameters
        ----------
        x : Tensor
            Features (..., D), of any length. Half precision is computed in float32.

        Returns
        -------
        Tensor
            Logits (..., C), in the wider dtype of features and subspaces.

        Raises
        ------
        TypeError
            Where `x` is not of a real floating dtype.
        ValueError
            Where the last dimension of `x` is not `in_features`.
        """
        _check_features("GrassmannClassifier", x, self.in_features)
        dtype, wide = _dtypes(x, self.subspaces)
        with _without_autocast(x):
            unit = F.normalize(x.to(wide), dim=-1, eps=self.eps)
            lengths = subspace_logits(unit.reshape(-1, self.in_features), self.subspaces.to(wide))
        return (self.gamma * lengths).reshape(*x.shape[:-1], self.num_classes).to(dtype)

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """Orthogonal projection S_y S_y^T x of features on the subspaces of their labels.

        Parameters
        ----------
        x : Tensor
            Features (B, D).
        y : Tensor
            Labels (B,), integers from 0 to C - 1.

        Returns
        -------
        Tensor
            Projections (B, D).

        Raises
        ------
        TypeError
            Where `x` is not floating, or `y` not of an integer dtype.
        ValueError
            Where a shape does not fit, or a label is out of range.
        """
        _check_features("project", x, self.in_features)
        _check_labels("project", x, y)
        if y.numel() and not 0 <= int(y.min()) <= int(y.max()) < self.num_classes:
            raise ValueError(
                f"project: labels 'y' must be from 0 to {self.num_classes - 1}, got {int(y.min())} to {int(y.max())}"
            )
        dtype, wide = _dtypes(x, self.subspaces)
        step = max(1, _BLOCK // self.subspaces[0].numel())
        parts = []
        with _without_autocast(x):
            for features, labels in zip(x.to(wide).split(step), y.split(step), strict=True):
                bases = self.subspaces[labels].to(wide)
                parts.append((bases @ (bases.mT @ features.unsqueeze(-1))).squeeze(-1))
        return torch.cat(parts).to(dtype) if parts else x.new_empty(x.shape)

    @torch.no_grad()
    def principal_angles(self) -> Tensor:
        """Principal angles between all pairs of class subspaces, ascending, in radians; time grows with C^2 D k^2.

        Returns
        -------
        Tensor
            Angles (C, C, k), symmetric in the first two dimensions and 0 on their diagonal.
        """
        bases = self.subspaces.detach().to(_dtypes(self.subspaces, self.subspaces)[1])
        angles = bases.new_zeros(self.num_classes, self.num_classes, self.subspace_dim)
        step = max(1, _BLOCK // bases[0].numel())
        for i in range(self.num_classes - 1):
            for j in range(i + 1, self.num_classes, step):
                others = bases[j : j + step]
                found = _MANIFOLD.principal_angles(bases[i].expand_as(others), others)
                angles[i, j : j + step] = angles[j : j + step, i] = found
        return angles

    def extra_repr(self) -> str:
        """Sizes and scale."""
        return (
            f"in_features={self.in_features}, num_classes={self.num_classes}, subspace_dim={self.subspace_dim}, "
            f"gamma={self.gamma:g}"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "subspaces" and isinstance(value, Tensor):
            self._check_bases(value)
        super().__setattr__(name, value)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        value = state_dict.get(f"{prefix}subspaces")
        if value is not None and value.shape == self.subspaces.shape:
            self._check_bases(value)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def _check_bases(self, value: Tensor) -> None:
        wanted = (self.num_classes, self.in_features, self.subspace_dim)
        if value.shape != wanted:
            raise ValueError(f"GrassmannClassifier: 'subspaces' must have shape {wanted}, got {tuple(value.shape)}")
        if value.is_meta or torch._C._len_torch_dispatch_stack():  # no numbers to look at
            return
        bases = value.detach().to(_dtypes(value, value)[1])
        if not bool(bases.isfinite().all()):
            raise ValueError("GrassmannClassifier: 'subspaces' must be finite, got NaN or infinite entries")
        gap, tolerance = gram_gap(bases), max(TOLERANCE, 4 * torch.finfo(value.dtype).eps)
        if not gap <= tolerance:
            raise ValueError(
                f"GrassmannClassifier: 'subspaces' must have orthonormal columns, got S^T S off the identity by "
                f"{gap:.3g} (tolerance {tolerance:.3g}); Grassmann().projx makes them so"
            )


class CosineClassifier(nn.Module):
    """The baseline with one vector a class: logits gamma cos(x, w_i).

    Unlike a `GrassmannClassifier` with subspaces of dimension 1 it tells x from -x.

    Parameters
    ----------
    in_features, num_classes : int
        Sizes.
    gamma : float
        Scale of the logits.
    device, dtype
        Of the weight (C, D), which is drawn from the normal law and need not be normalised.

    Raises
    ------
    ValueError
        Where a number is out of its range.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        gamma: float = 25.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_sizes("CosineClassifier", in_features, num_classes, gamma)
        self.in_features, self.num_classes, self.gamma = in_features, num_classes, gamma
        self.weight = nn.Parameter(torch.empty(num_classes, in_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the vectors from the normal law with variance 1/D."""
        nn.init.normal_(self.weight, std=self.in_features**-0.5, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (..., C) of features (..., D)."""
        _check_features("CosineClassifier", x, self.in_features)
        return self.gamma * F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1))

    def extra_repr(self) -> str:
        """Sizes and scale."""
        return f"in_features={self.in_features}, num_classes={self.num_classes}, gamma={self.gamma:g}"


def param_groups(model: nn.Module, lr: float, weight_decay: float, lr_factor: float = 1.0) -> list[dict[str, Any]]:
    """Parameter groups of a model for `RiemannianSGD`: Euclidean parameters, and those on manifolds.

    The second group has no weight decay (a subspace has no scale), the learning rate ``lr * lr_factor``, and a momentum
    in ambient coordinates.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    lr, weight_decay : float
        Of the Euclidean parameters.
    lr_factor : float
        The manifold parameters' rate over the Euclidean one.

    Returns
    -------
    list of dict
        One or two groups: one that would be empty is left out.

    Raises
    ------
    ValueError
        Where a number is negative, or the factor not positive.
    """
    for name, value in (("lr", lr), ("weight_decay", weight_decay)):
        if not value >= 0:
            raise ValueError(f"param_groups: {name!r} must be at least 0, got {value}")
    if not lr_factor > 0:
        raise ValueError(f"param_groups: 'lr_factor' must be positive, got {lr_factor}")
    parameters = list(model.parameters())
    manifolds = find_manifolds(parameters)
    flat = [p for p, manifold in zip(parameters, manifolds, strict=True) if manifold is None]
    curved = [p for p, manifold in zip(parameters, manifolds, strict=True) if manifold is not None]
    groups = [
        {"params": flat, "lr": lr, "weight_decay": weight_decay},
        {"params": curved, "lr": lr * lr_factor, "weight_decay": 0.0, "ambient_momentum": True},
    ]
    return [group for group in groups if group["params"]]


def convert_linear_head(
    model: nn.Module,
    name: str,
    subspace_dim: int = 8,
    gamma: float = 25.0,
    *,
    keep_directions: bool = False,
    generator: torch.Generator | None = None,
) -> GrassmannClassifier:
    """Replace a linear layer of a model, in place, by a `GrassmannClassifier` of its sizes, device and dtype.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    name : str
        Qualified name of the ``nn.Linear``, as in ``named_modules``. A bias is dropped.
    subspace_dim, gamma
        As in `GrassmannClassifier`.
    keep_directions : bool
        Let each subspace hold the weight vector of its class, with random directions beside it; for models that are
        trained already.
    generator : torch.Generator, optional
        Draws the subspaces.

    Returns
    -------
    GrassmannClassifier
        The new head.

    Raises
    ------
    ValueError
        Where the model has no module of that name below itself, or a number is out of its range.
    TypeError
        Where the module is no ``nn.Linear``.
    """
    modules = dict(model.named_modules())
    if not name or name not in modules:
        raise ValueError(f"convert_linear_head: 'name' must be that of a module of the model, got {name!r}")
    linear = modules[name]
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"convert_linear_head: {name!r} must be an nn.Linear, got {type(linear).__name__}")
    weight = linear.weight.detach()
    head = GrassmannClassifier(
        linear.in_features, linear.out_features, subspace_dim, gamma, device=weight.device, dtype=weight.dtype
    )
    head.reset_parameters(generator)
    if keep_directions:
        wide = _dtypes(weight, weight)[1]
        direction = F.normalize(weight.to(wide), dim=-1).unsqueeze(-1)
        beside = head.subspaces.detach().to(wide)[..., 1:]
        with torch.no_grad():
            head.subspaces.copy_(cholesky_qr(torch.cat([direction, beside], -1)))
    parent, _, child = name.rpartition(".")
    setattr(modules[parent], child, head.train(linear.training))
    return head


@torch.no_grad()
def intra_class_angle(features: Tensor, labels: Tensor, *, signed: bool = True) -> float:
    """Mean angle in degrees between two features of one class, averaged over the classes that have two.

    Computed in float64, by blocks: angles are right to 1e-6 degrees.

    Parameters
    ----------
    features : Tensor
        (N, D), none of them 0.
    labels : Tensor
        (N,), integers.
    signed : bool
        Whether x and -x are 180 degrees apart, or 0: angles between lines, which are what a subspace tells apart. For
        features that are not negative, as averages of ReLUs are, the two are the same.

    Returns
    -------
    float
        Degrees, up to 180, or 90 between lines.

    Raises
    ------
    TypeError
        Where `features` are not floating, or `labels` not integers.
    ValueError
        Where a shape does not fit, a feature is 0 or not finite, or no class has two features.
    """
    unit = _directions("intra_class_angle", features, labels)
    means = []
    for label in labels.unique():
        own = unit[labels == label]
        count = len(own)
        if count < 2:
            continue
        step = max(1, _BLOCK // count)
        total = 0.0
        for start in range(0, count, step):
            cosines = own[start : start + step] @ own.mT
            angles = (cosines if signed else cosines.abs_()).clamp_(-1.0, 1.0).acos_()
            # A feature and itself: rounding would leave some 1e-8.
            angles.diagonal(start).zero_()
            total += float(angles.sum())
        means.append(total / (count * (count - 1)))
    if not means:
        raise ValueError("intra_class_angle: 'labels' must have a class with at least 2 features, got none")
    return float(torch.tensor(means, dtype=torch.float64).mean().rad2deg())


@torch.no_grad()
def class_separation(features: Tensor, labels: Tensor) -> float:
    """R^2 = 1 - mean cosine distance within classes / mean cosine distance over all, each class with one weight.

    1 where every class is one direction, 0 where classes are alike (Kornblith et al., Why do better loss functions
    lead to less transferable features?, NeurIPS 2021).

    Parameters
    ----------
    features : Tensor
        (N, D), none of them 0.
    labels : Tensor
        (N,), integers.

    Returns
    -------
    float
        R^2.

    Raises
    ------
    TypeError
        Where `features` are not floating, or `labels` not integers.
    ValueError
        Where a shape does not fit, a feature is 0 or not finite, or all features have one direction.
    """
    unit = _directions("class_separation", features, labels)
    # The mean cosine over all pairs of two sets of unit vectors is the product of their means.
    means = torch.stack([unit[labels == label].mean(0) for label in labels.unique()])
    within = float(1.0 - means.square().sum(-1).mean())
    overall = float(1.0 - means.mean(0).square().sum())
    if overall <= len(unit) * torch.finfo(unit.dtype).eps:
        raise ValueError("class_separation: 'features' must not all have one direction")
    return 1.0 - within / overall


# -- checks --------------------------------------------------------------------------------------------------------


def _check_sizes(what: str, in_features: int, num_classes: int, gamma: float) -> None:
    if in_features < 1:
        raise ValueError(f"{what}: 'in_features' must be at least 1, got {in_features}")
    if num_classes < 2:
        raise ValueError(f"{what}: 'num_classes' must be at least 2, got {num_classes}")
    if not 0 < gamma < float("inf"):
        raise ValueError(f"{what}: 'gamma' must be positive and finite, got {gamma}")


def _check_features(what: str, x: Tensor, size: int) -> None:
    if not x.is_floating_point():
        raise TypeError(f"{what}: features must have a real floating dtype, got {x.dtype}")
    if x.ndim < 1 or x.shape[-1] != size:
        raise ValueError(f"{what}: features must have shape (..., {size}), got {tuple(x.shape)}")


def _check_labels(what: str, x: Tensor, y: Tensor) -> None:
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise TypeError(f"{what}: labels must have an integer dtype, got {y.dtype}")
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ValueError(
            f"{what}: features and labels must have shapes (N, D) and (N,), got {tuple(x.shape)} and {tuple(y.shape)}"
        )


def _directions(what: str, features: Tensor, labels: Tensor) -> Tensor:
    """Unit vectors in float64."""
    if not features.is_floating_point():
        raise TypeError(f"{what}: features must have a real floating dtype, got {features.dtype}")
    _check_labels(what, features, labels)
    if not len(features):
        raise ValueError(f"{what}: 'features' must not be empty, got shape {tuple(features.shape)}")
    x = features.detach().double()
    lengths = x.norm(dim=-1, keepdim=True)
    if not bool((lengths.isfinite() & (lengths > 0)).all()):
        raise ValueError(f"{what}: 'features' must be finite and none of them 0")
    return x / lengths


def _dtypes(x: Tensor, other: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """The wider dtype of two tensors, and what it is computed in."""
    dtype = torch.promote_types(x.dtype, other.dtype)
    return dtype, torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


@contextmanager
def _without_autocast(x: Tensor) -> Iterator[None]:
    """Compute in the dtypes that tensors have."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        with torch.autocast(kind, enabled=False):
            yield
    else:
        yield
