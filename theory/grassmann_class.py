"""What Grassmann class representation rests on: the law of its logits at the start, and its steps along geodesics.

The projection of a unit vector of R^D onto a uniformly random k-dimensional subspace has squared length of the Beta law
with parameters k/2 and (D - k)/2: logits begin at gamma times sqrt(k/D), whatever the feature. A step moves a subspace
by the learning rate times the length of the projected momentum; projecting the momentum departs from its parallel
transport at second order in the step; and the published re-orthonormalisation by QR makes training depend on the bases
that subspaces are written in, which the steps of this library do not.

Source: Zhang, Wang, Chen and Wang, Get the best of both worlds: Grassmann class representation (ICCV 2023).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds import Grassmann, ManifoldParameter
from holonomy.manifolds.linalg import haar
from holonomy.models.representation.grassmann_class import GrassmannClassifier
from holonomy.optim import RiemannianSGD
from holonomy.theory.check import Check
from holonomy.theory.statistics import mean_interval, paired_exponent

__all__ = ["checks"]

DTYPE = torch.float64
#: Bootstrap intervals cover this much: all of them together err less than once in a hundred runs.
CONFIDENCE = 0.999
MANIFOLD = Grassmann("exp")


def checks(seed: int = 0) -> list[Check]:
    """Run every check, drawing from `seed`; some seconds."""
    generator = torch.Generator().manual_seed(seed)
    return [
        *initial_logits(generator),
        travelled(generator),
        *projected_momentum(generator),
        *dependence_on_bases(generator),
    ]


def initial_logits(generator: torch.Generator, sizes: Sequence[tuple[int, int]] = ((64, 1), (64, 8))) -> list[Check]:
    """Mean and mean square of the logits of a new head."""
    result = []
    for features, k in sizes:
        head = GrassmannClassifier(features, 4000, k, gamma=1.0, dtype=DTYPE)
        head.reset_parameters(generator)
        with torch.no_grad():
            cosines = head(torch.randn(features, dtype=DTYPE, generator=generator)).numpy()
        how = f"D = {features}, k = {k}, one feature, 4000 uniform subspaces, float64"
        logs = [math.lgamma(0.5 * n) for n in (k + 1, features, k, features + 1)]
        mean = math.exp(logs[0] + logs[1] - logs[2] - logs[3])
        for name, predicted, values in (
            (f"E cos^2 = k/D, k = {k}", k / features, cosines**2),
            (f"E cos = G((k+1)/2) G(D/2) / (G(k/2) G((D+1)/2)), k = {k}", mean, cosines),
        ):
            low, measured, high = mean_interval(values, confidence=CONFIDENCE)
            result.append(Check(f"logits of a new head: {name}", predicted, measured, how, low=low, high=high))
    return result


def travelled(generator: torch.Generator, lr: float = 0.05) -> Check:
    """Distance that a step moves the subspaces, over the learning rate times the length of the projected gradient."""
    x = MANIFOLD.random(50, 20, 4, dtype=DTYPE, generator=generator)
    gradient = torch.randn(x.shape, dtype=DTYPE, generator=generator)
    p = ManifoldParameter(x.clone(), MANIFOLD)
    p.grad = gradient
    RiemannianSGD([p], lr=lr, momentum=0.9, ambient_momentum=True).step()
    ratio = MANIFOLD.dist(x, p.detach()) / (lr * MANIFOLD.proju(x, gradient).norm(dim=(-2, -1)))
    return Check(
        "a step moves a subspace by lr |G|_F, while its angles are below pi/2: largest relative error",
        1e-12,
        float((ratio - 1.0).abs().max()),
        "50 subspaces of dimension 4 of R^20, random gradients, lr = 0.05, float64",
        "at most",
    )


def projected_momentum(
    generator: torch.Generator, steps: Sequence[float] = (0.01, 0.02, 0.04, 0.08), trials: int = 60
) -> list[Check]:
    """How far a projected velocity is from the parallel one after a step, relative to its length."""
    errors = []
    for _ in range(trials):
        x = MANIFOLD.random(20, 4, dtype=DTYPE, generator=generator)
        u = MANIFOLD.random_tangent(x, generator=generator)
        u = u / u.norm()
        row = []
        for step in steps:
            y, parallel = MANIFOLD.expmap_transp(x, step * u, u)
            row.append(float((MANIFOLD.proju(y, u) - parallel).norm()))
        errors.append(row)
    how = f"{trials} velocities on Gr(20, 4), steps {', '.join(map(str, steps))}, float64"
    low, exponent, high = paired_exponent(steps, np.array(errors), confidence=CONFIDENCE)
    theorem = "projecting a velocity departs from its parallel transport"
    # The next order bends the line by a share of the square of the step.
    bend = max(steps) ** 2
    order = Check(f"{theorem} at second order: exponent", 2.0, exponent, how, low=low - bend, high=high + bend)
    x = MANIFOLD.random(20, 1, dtype=DTYPE, generator=generator)
    u = MANIFOLD.random_tangent(x, generator=generator)
    u = u / u.norm()
    y, _ = MANIFOLD.expmap_transp(x, 1.0 * u, u)
    kept = float(MANIFOLD.proju(y, u).norm())
    along = Check(
        f"{theorem} along a plane: it keeps the share cos(t) of its length",
        math.cos(1.0),
        kept,
        "a line in R^20, t = 1, float64",
        low=kept - 1e-12,  # some roundings
        high=kept + 1e-12,
    )
    return [order, along]


def dependence_on_bases(generator: torch.Generator, steps: int = 20) -> list[Check]:
    """Distance of subspaces that were trained from two bases of the same start."""
    x = MANIFOLD.random(10, 20, 4, dtype=DTYPE, generator=generator)
    turned = x @ haar((10, 4, 4), DTYPE, None, generator)
    target = torch.randn(64, 20, dtype=DTYPE, generator=generator)
    y = torch.randint(0, 10, (64,), generator=generator)
    how = f"10 subspaces of Gr(20, 4), {steps} steps, lr = 0.1, momentum 0.9, gamma = 5, float64"

    def gap(train: Callable[[Tensor, Tensor, Tensor, int], Tensor]) -> float:
        return float(MANIFOLD.dist(train(x, target, y, steps), train(turned, target, y, steps)).max())

    theorem = "largest distance after training from two bases of the same subspaces"
    return [
        Check(f"{theorem}, geodesic steps", 1e-8, gap(train_geodesic), how, "at most"),
        Check(f"{theorem}, QR every fifth step, as published", 1e-3, gap(train_published), how, "at least"),
    ]


def loss(bases: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of logits 5 |S^T x| / |x|."""
    unit = x / x.norm(dim=-1, keepdim=True)
    return torch.nn.functional.cross_entropy(5.0 * torch.einsum("bd,cdk->bck", unit, bases).norm(dim=-1), y)


def train_geodesic(x: Tensor, target: Tensor, y: Tensor, steps: int) -> Tensor:
    """Train by the library's optimizer."""
    p = ManifoldParameter(x.clone(), MANIFOLD)
    optimizer = RiemannianSGD([p], lr=0.1, momentum=0.9, ambient_momentum=True)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(p, target, y).backward()
        optimizer.step()
    return p.detach()


def train_published(x: Tensor, target: Tensor, y: Tensor, steps: int) -> Tensor:
    """Train as published: SVD of the projected momentum, QR every fifth step, which leaves the momentum as it is."""
    momentum = torch.zeros_like(x)
    for step in range(1, steps + 1):
        bases = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(bases, target, y), bases)
        momentum = 0.9 * momentum + gradient
        u, sigma, vh = torch.linalg.svd(momentum - x @ (x.mT @ momentum), full_matrices=False)
        angle = (-0.1 * sigma).unsqueeze(-2)
        x = (x @ vh.mT * angle.cos() + u * angle.sin()) @ vh
        if step % 5 == 0:
            x = torch.linalg.qr(x)[0]
    return x
