r"""A denoiser with the form of a mixture's posterior mean and bases to learn, and the losses that it learns by.

For K subspaces of one dimension d, means 0 and eigenvalues 1 the posterior mean is

    s/(s^2 + g^2) sum_k w_k U_k U_k^T x_t,    w_k ~ pi_k exp(phi |U_k^T x_t|^2),    phi = s^2 / (2 g^2 (s^2 + g^2)).

With the weights that the theorems use, 1 for the subspace that holds most of x_0, training it is subspace clustering.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from holonomy.manifolds import ManifoldParameter, Stiefel
from holonomy.manifolds.linalg import gram_gap, haar
from holonomy.models.clustering.molrg_diffusion.mixture import Level, check_coefficients, check_points
from holonomy.models.clustering.molrg_diffusion.schedules import Schedule

__all__ = ["Denoiser", "MoLRGDenoiser", "closed_form_loss", "denoising_loss", "memorising_denoiser", "wiener_denoiser"]

#: Gives x_0 from x_t, s and g.
Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]
#: Least time that losses draw: at 0 there is no noise.
EARLIEST = 1e-5


class MoLRGDenoiser(nn.Module):
    """The posterior mean of a mixture of K low-rank Gaussians, with bases to learn on Stiefel manifolds.

    `holonomy.optim`'s Riemannian optimizers keep the bases orthonormal. Without the constraint their scale would take
    up the factor before the sum, and what is learned would be no subspace.

    Parameters
    ----------
    ambient_dim, intrinsic_dim, n_components : int
        D, d and K.
    weighting : {"soft", "hard"}, default "soft"
        Responsibilities given x_t, or 1 for the subspace that holds most of the clean x_0, in training alone.
    weights : Tensor, optional
        pi (K,), not negative, of sum 1; equal when left out.
    bases : Tensor, optional
        Bases (K, D, d) to begin with; uniformly random ones when left out.
    generator : torch.Generator, optional
        Of the random bases.
    dtype, device
        Of the parameters.

    Attributes
    ----------
    bases : ManifoldParameter
        (K, D, d).

    Raises
    ------
    ValueError
        If a number is out of its range, or `bases` have another shape or are not orthonormal.
    """

    def __init__(
        self,
        ambient_dim: int,
        intrinsic_dim: int,
        n_components: int,
        weighting: Literal["soft", "hard"] = "soft",
        weights: Tensor | None = None,
        bases: Tensor | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if weighting not in ("soft", "hard"):
            raise ValueError(f"MoLRGDenoiser: 'weighting' must be 'soft' or 'hard', got {weighting!r}")
        if not 1 <= intrinsic_dim <= ambient_dim or n_components < 1:
            raise ValueError(
                "MoLRGDenoiser: wanted 1 <= intrinsic_dim <= ambient_dim and n_components >= 1, got "
                f"{intrinsic_dim}, {ambient_dim} and {n_components}"
            )
        self.weighting = weighting
        dtype = dtype or torch.get_default_dtype()
        shape = (n_components, ambient_dim, intrinsic_dim)
        if bases is None:
            bases = haar(shape, torch.float64, generator.device if generator is not None else device, generator)
        elif bases.shape != shape or not gram_gap(bases) <= 1e-4:
            raise ValueError(f"MoLRGDenoiser: 'bases' must be orthonormal and {shape}, got {tuple(bases.shape)}")
        self.bases = ManifoldParameter(bases.detach().to(device, dtype), Stiefel())
        pi = torch.full((n_components,), 1.0 / n_components) if weights is None else weights
        if pi.shape != (n_components,) or not bool((pi >= 0).all()) or not abs(float(pi.sum()) - 1.0) <= 1e-4:
            raise ValueError(f"MoLRGDenoiser: 'weights' must be {n_components} shares of sum 1, got {weights}")
        self.register_buffer("weights", pi.to(device, dtype))

    def forward(self, x_t: Tensor, s: Level, g: Level, x_0: Tensor | None = None) -> Tensor:
        """Estimate x_0.

        Parameters
        ----------
        x_t : Tensor
            Points (n, D) or (D,).
        s, g : Tensor or float
            Coefficients of their time, positive, numbers or one a point.
        x_0 : Tensor, optional
            Clean points, wanted by hard weighting.

        Returns
        -------
        Tensor
            Shaped as `x_t`.

        Raises
        ------
        TypeError, ValueError
            Where points or coefficients are out of their range, or hard weighting has no `x_0`.
        """
        x = check_points("MoLRGDenoiser", x_t, self.bases.shape[1]).to(self.bases.dtype)
        points = x if x.ndim == 2 else x[None]
        s, g = check_coefficients("MoLRGDenoiser", s, g, points)
        z = torch.einsum("kij,ni->nkj", self.bases, points)
        if self.weighting == "hard":
            if x_0 is None or x_0.shape != x_t.shape:
                got = None if x_0 is None else tuple(x_0.shape)
                raise ValueError(f"MoLRGDenoiser: hard weighting needs 'x_0' of shape {tuple(x_t.shape)}, got {got}")
            clean = x_0.to(x.dtype).reshape(points.shape)
            sizes = torch.einsum("kij,ni->nkj", self.bases.detach(), clean).square().sum(-1)
            w = nn.functional.one_hot(sizes.argmax(-1), len(self.bases)).to(x.dtype)
        else:
            phi = s**2 / (2.0 * g**2 * (s**2 + g**2))
            w = torch.softmax(self.get_buffer("weights").log() + phi * z.square().sum(-1), -1)
        result = s / (s**2 + g**2) * torch.einsum("kij,nkj->ni", self.bases, w.unsqueeze(-1) * z)
        return result if x_t.ndim == 2 else result[0]


def denoising_loss(
    model: nn.Module | Denoiser,
    x: Tensor,
    schedule: Schedule,
    t: Tensor | float | None = None,
    generator: torch.Generator | None = None,
    weight: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Mean over points of weight |x_theta(s x + g eps) - x|^2, eps normal.

    Parameters
    ----------
    model : callable
        ``model(x_t, s, g)``; a `MoLRGDenoiser` of hard weighting is given `x` besides.
    x : Tensor
        Clean points (n, D).
    schedule : Schedule
        Gives s and g of times.
    t : Tensor or float, optional
        One time, or one a point; uniform in (0, 1) when left out.
    generator : torch.Generator, optional
        Of times and noise.
    weight : callable, optional
        lambda of s and g, (n, 1) each; 1 when left out.

    Returns
    -------
    Tensor
        A scalar.

    Raises
    ------
    TypeError, ValueError
        Where `x` is not floating, finite and (n, D), or a time is not in (0, 1].
    """
    x = check_points("denoising_loss", x, x.shape[-1] if isinstance(x, Tensor) and x.ndim else 0)
    if x.ndim != 2:
        raise ValueError(f"denoising_loss: 'x' must have shape (n, D), got {tuple(x.shape)}")
    place: dict[str, Any] = {"device": generator.device if generator is not None else x.device, "dtype": x.dtype}
    if t is None:
        t = torch.rand(len(x), generator=generator, **place).clamp(min=EARLIEST).to(x.device)
    s, g = check_coefficients("denoising_loss", *schedule.coefficients(t), x)
    noise = torch.randn(x.shape, generator=generator, **place).to(x.device)
    noisy = s * x + g * noise
    hard = isinstance(model, MoLRGDenoiser) and model.weighting == "hard"
    found = model(noisy, s, g, x) if hard else model(noisy, s, g)  # type: ignore[call-arg]
    squares = (found - x).square().sum(-1, keepdim=True)
    return (squares if weight is None else weight(s, g) * squares).mean()


def closed_form_loss(bases: Tensor, x: Tensor, s: Level, g: Level) -> Tensor:
    r"""What `denoising_loss` tends to for hard weights at one time, over infinitely many draws of the noise.

    The mean over x of |x|^2 - s^2 (s^2 + 2 g^2)/(s^2 + g^2)^2 max_k |U_k^T x|^2 + s^2 g^2 d/(s^2 + g^2)^2: for one
    subspace principal component analysis, for several subspace clustering, at any time.

    Parameters
    ----------
    bases : Tensor
        Orthonormal bases (K, D, d), or (D, d).
    x : Tensor
        Clean points (n, D).
    s, g : float
        Coefficients of the time, positive.

    Returns
    -------
    Tensor
        A scalar, differentiable by `bases` and `x`.

    Raises
    ------
    TypeError, ValueError
        Where points or coefficients are out of their range, or bases have another shape.
    """
    u = bases if bases.ndim == 3 else bases[None]
    if u.ndim != 3:
        raise ValueError(f"closed_form_loss: 'bases' must be (K, D, d) or (D, d), got {tuple(bases.shape)}")
    x = check_points("closed_form_loss", x, u.shape[1])
    x = x if x.ndim == 2 else x[None]
    s, g = check_coefficients("closed_form_loss", s, g, x)
    total = s**2 + g**2
    held = torch.einsum("kij,ni->nkj", u, x).square().sum(-1).amax(-1, keepdim=True)
    shrunk = s**2 * (total + g**2) / total**2
    return (x.square().sum(-1, keepdim=True) - shrunk * held + s**2 * g**2 * u.shape[2] / total**2).mean()


def memorising_denoiser(train: Tensor, block: int = 4096) -> Denoiser:
    """The posterior mean under the empirical measure of training points (n, D): what a denoiser that memorises gives.

    Weights are softmax over -|x_t - s x_i|^2 / (2 g^2); points are taken in blocks.
    """
    train = check_points("memorising_denoiser", train, train.shape[-1])
    lengths = train.square().sum(-1)

    def denoise(x: Tensor, s: Level, g: Level) -> Tensor:
        points = check_points("memorising_denoiser", x, train.shape[-1]).to(train.dtype)
        points = points if points.ndim == 2 else points[None]
        s, g = check_coefficients("memorising_denoiser", s, g, points)
        s, g = s.expand(len(points), 1), g.expand(len(points), 1)
        parts = []
        for p, a, b in zip(points.split(block), s.split(block), g.split(block), strict=True):
            logits = (a * (p @ train.mT) - 0.5 * a**2 * lengths) / b**2  # |x_t|^2 is the same for all
            parts.append(torch.softmax(logits, -1) @ train)
        return torch.cat(parts).reshape(x.shape)

    return denoise


def wiener_denoiser(train: Tensor) -> Denoiser:
    """The linear denoiser of training points (n, D): the posterior mean of one Gaussian with their mean and covariance.

    Of one point the covariance is 0.
    """
    train = check_points("wiener_denoiser", train, train.shape[-1])
    mean = train.mean(0)
    _, sizes, axes = torch.linalg.svd((train - mean) / max(len(train), 1) ** 0.5, full_matrices=False)
    variances = sizes.square()

    def denoise(x: Tensor, s: Level, g: Level) -> Tensor:
        points = check_points("wiener_denoiser", x, train.shape[-1]).to(train.dtype)
        points = points if points.ndim == 2 else points[None]
        s, g = check_coefficients("wiener_denoiser", s, g, points)
        z = (points - s * mean) @ axes.mT
        return (mean + (s * variances / (s**2 * variances + g**2) * z) @ axes).reshape(x.shape)

    return denoise
