"""What is measured: each case builds the same work for Holonomy and for its peers.

A case's `build` returns thunks by name; "holonomy" is ours. `wanted` are the ratios (peer's time over ours) that the
library promises; `bytes_moved` and `flops` are the least that the case has to do, and give the floor.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import geoopt
import numpy as np
import pymanopt
import torch
from hypll.manifolds.poincare_ball import Curvature
from hypll.manifolds.poincare_ball import PoincareBall as HypllBall
from hypll.nn import HConvolution2d
from hypll.tensors import ManifoldTensor
from scipy.sparse import csr_matrix
from scipy.special import softmax, xlogy
from torch import Tensor

from benchmarks.poincare_resnet import training_steps
from holonomy.manifolds import Grassmann, Lorentz, Manifold, ManifoldParameter, PoincareBall, Sphere, Stiefel, kernels
from holonomy.manifolds.hyperbolic import Hyperbolic
from holonomy.manifolds.kernels.birkhoff import birkhoff_proju
from holonomy.manifolds.kernels.hadamard import hadamard_transform
from holonomy.manifolds.kernels.recurrence import linear_recurrence, recurrence_loop
from holonomy.manifolds.kernels.simplex import project_simplex
from holonomy.manifolds.kernels.subspace_logits import subspace_logits
from holonomy.models.adaptation.loki import Grid, Tree, frechet_predict
from holonomy.models.architectures.poincare_resnet import PoincareConv2d
from holonomy.models.clustering.doubly_stochastic import membership
from holonomy.models.clustering.transductive_few_shot.bound import solve_bounds
from holonomy.models.representation.grassmann_class import GrassmannClassifier, param_groups
from holonomy.optim import RiemannianAdam, RiemannianSGD
from holonomy.theory.wide_cnn import HierarchicalKernel, sample_multisphere

__all__ = ["CASES", "Case"]

Thunks = dict[str, Callable[[], object]]
_FLOAT = 4  # bytes
#: Multiplications of the convolutions of `poincare_resnet20` for an image of 32 x 32, channels 8, 16, 32.
_RESNET20_PRODUCTS = 10.3e6


@dataclass(frozen=True)
class Case:
    """One row of the table: name, what to run, the promised ratios, and the least work there is."""

    name: str
    build: Callable[[], Thunks]
    bytes_moved: float
    flops: float = 0.0
    wanted: dict[str, float] = field(default_factory=dict)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _ball_points(*size: int, c: float = 1.0, radius: float = 0.9) -> Tensor:
    x = torch.randn(size, generator=_generator())
    lengths = torch.rand(*size[:-1], 1, generator=_generator()) * radius / c**0.5
    return x / x.norm(dim=-1, keepdim=True) * lengths


def _backward(function: Callable[..., Tensor], *inputs: Tensor) -> Callable[[], object]:
    """Forward and backward pass, to the inputs and, where a module is behind the function, to its weights."""
    leaves = [t.clone().requires_grad_() for t in inputs]

    def run() -> object:
        for leaf in leaves:
            leaf.grad = None
        return function(*leaves).sum().backward()  # type: ignore[no-untyped-call]

    return run


def adam_small(ours: Manifold, peer: geoopt.Manifold, *size: int) -> Thunks:
    """One Adam step over 100 parameters of one small shape."""
    points = [ours.random(*size, generator=_generator()) for _ in range(100)]
    grads = [torch.randn(size, generator=_generator()) for _ in range(100)]
    mine = [ManifoldParameter(x.clone(), ours) for x in points]
    theirs = [geoopt.ManifoldParameter(x.clone(), manifold=peer) for x in points]
    for p, q, g in zip(mine, theirs, grads, strict=True):
        p.grad, q.grad = g.clone(), g.clone()
    one, other = RiemannianAdam(mine, lr=1e-3), geoopt.optim.RiemannianAdam(theirs, lr=1e-3)
    plain = [torch.nn.Parameter(x.clone()) for x in points]
    for p, g in zip(plain, grads, strict=True):
        p.grad = g.clone()
    return {"holonomy": one.step, "geoopt": other.step, "torch Adam": torch.optim.Adam(plain, lr=1e-3).step}


def adam_table(rows: int, columns: int) -> Thunks:
    """One Adam step over one Poincaré embedding table with a dense gradient; torch's fused Adam for scale."""
    x, g = _ball_points(rows, columns), torch.randn(rows, columns, generator=_generator()) * 1e-3
    mine = ManifoldParameter(x.clone(), PoincareBall())
    theirs = geoopt.ManifoldParameter(x.clone(), manifold=geoopt.PoincareBall())
    plain = torch.nn.Parameter(x.clone())
    mine.grad, theirs.grad, plain.grad = g.clone(), g.clone(), g.clone()
    return {
        "holonomy": RiemannianAdam([mine], lr=1e-3).step,
        "geoopt": geoopt.optim.RiemannianAdam([theirs], lr=1e-3).step,
        "torch fused Adam (flat)": torch.optim.Adam([plain], lr=1e-3, fused=True).step,
    }


def doubly_stochastic_membership(n: int, d: int) -> Thunks:
    """Membership of all points, the 50 largest of each row: by blocks, and with the kernel held whole."""
    c = torch.nn.functional.normalize(torch.randn(n, d, generator=_generator()), dim=-1)

    def whole() -> Tensor:
        kernel = ((c @ c.mT - 1.0) / 0.15).exp_()
        u = torch.ones(n)
        for _ in range(100):
            total = kernel @ u
            if float((u * total - 1.0).abs().max()) <= 1e-5:
                break
            u = (u / total).sqrt()
        return kernel.mul_(u).mul_(u.unsqueeze(-1)).topk(50).values

    return {"holonomy": lambda: membership(c, 0.15, top_k=50), "plain torch, n x n held": whole}


def bound_updates(n: int, K: int, k: int, updates: int) -> Thunks:
    """Updates of soft assignments by k neighbours of each point, with the energy after each, and in plain scipy."""
    rng = np.random.default_rng(0)
    W = csr_matrix((np.ones(n * k, np.float32), rng.integers(0, n, n * k), np.arange(0, n * k + 1, k)), (n, n))
    a = rng.random((n, K), dtype=np.float32)
    free = np.full((1, n), -1)

    def plain() -> list[float]:
        Z, energies = softmax(-a, 1), []
        for _ in range(updates):
            pull = W @ Z
            energies.append(float((xlogy(Z, Z) + Z * (a - 0.5 * pull)).sum()))
            Z = softmax(pull - a, 1)
        return energies

    return {
        "holonomy": lambda: solve_bounds(a[None], W, 1.0, None, free, updates, -1.0),
        "plain scipy": plain,
    }


def frechet_labels(queries: int, K: int, labels: int) -> Thunks:
    """Labels of least expected squared distance, against a loop as the formula reads and one of a product a query."""
    P = torch.rand(queries, K, generator=_generator()).softmax(-1)
    D = torch.rand(K, labels, generator=_generator())

    def as_it_reads() -> list[Tensor]:
        return [(row.unsqueeze(1) * D**2).sum(0).argmin() for row in P]

    def product_a_query() -> list[Tensor]:
        squares = D.square()
        return [(row @ squares).argmin() for row in P]

    return {
        "holonomy": lambda: frechet_predict(P, D),
        "loop, the formula": as_it_reads,
        "loop, a product a query": product_a_query,
    }


def frechet_structured(metric: Grid | Tree, queries: int, K: int) -> Thunks:
    """The same by a metric's own rule, against the product with the observed labels' distances, in blocks too."""
    index = torch.randperm(metric.n, generator=_generator())[:K].numpy()
    P = torch.rand(queries, K, generator=_generator(), dtype=torch.float64).softmax(-1)
    return {
        "holonomy": lambda: frechet_predict(P, metric, observed=index),
        "distances and product": lambda: frechet_predict(P, metric.distances(index)),
    }


def stiefel_retr(*size: int) -> Thunks:
    """Each library's default retraction, and geoopt's QR for scale."""
    ours = Stiefel()
    x = ours.random(*size, generator=_generator())
    u = ours.proju(x, torch.randn(size, generator=_generator())) / size[-2] ** 0.5
    default, qr = geoopt.Stiefel(), geoopt.EuclideanStiefel()
    return {
        "holonomy": lambda: ours.retr(x, u),
        "geoopt": lambda: default.retr(x, u),
        "geoopt QR": lambda: qr.retr(x, u),
    }


def grassmann_exp(batch: int, n: int, p: int) -> Thunks:
    """Exponential map of a batch of subspaces."""
    ours = Grassmann()
    x = ours.random(batch, n, p, generator=_generator())
    u = ours.random_tangent(x, generator=_generator()) / n**0.5
    peer = pymanopt.manifolds.Grassmann(n, p, k=batch)
    a, b = np.asarray(x), np.asarray(u)
    return {"holonomy": lambda: ours.expmap(x, u), "pymanopt": lambda: peer.exp(a, b)}


def principal_angles(backward: bool, *size: int) -> Thunks:
    """Principal angles of pairs of subspaces."""
    ours = Grassmann()
    x, y = (ours.random(*size, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    mine = _backward(ours.principal_angles, x, y) if backward else lambda: ours.principal_angles(x, y)
    return {"holonomy": mine, "plain torch": _reference(mine)}


def pairwise(n: int, d: int, backward: bool = False) -> Thunks:
    """All distances between n points of the ball."""
    x, y = _ball_points(n, d), _ball_points(n, d).flip(0)
    ours, peer = PoincareBall(), geoopt.PoincareBall()

    def theirs(x: Tensor, y: Tensor) -> Tensor:
        return peer.dist(x[:, None], y[None])

    if backward:
        return {"holonomy": _backward(ours.cdist, x, y), "geoopt": _backward(theirs, x, y)}
    return {"holonomy": lambda: ours.cdist(x, y), "geoopt": lambda: theirs(x, y)}


# -- plain formulas of the ball, as one writes them in ordinary torch at c = 1 -------------------------------------


def _plain_add(x: Tensor, y: Tensor) -> Tensor:
    x2, y2, xy = (t.sum(-1, keepdim=True) for t in (x * x, y * y, x * y))
    return ((1 + 2 * xy + y2) * x + (1 - x2) * y) / (1 + 2 * xy + x2 * y2).clamp_min(1e-15)


def _plain_expmap(x: Tensor, u: Tensor) -> Tensor:
    n = u.norm(dim=-1, keepdim=True).clamp_min(1e-15)
    return _plain_add(x, torch.tanh(n / (1 - (x * x).sum(-1, keepdim=True))) * u / n)


def _plain_logmap(x: Tensor, y: Tensor) -> Tensor:
    z = _plain_add(-x, y)
    n = z.norm(dim=-1, keepdim=True).clamp_min(1e-15)
    return (1 - (x * x).sum(-1, keepdim=True)) * torch.atanh(n.clamp_max(1 - 1e-7)) * z / n


def _plain_dist(x: Tensor, y: Tensor) -> Tensor:
    return 2 * torch.atanh(_plain_add(-x, y).norm(dim=-1).clamp_max(1 - 1e-7))


def _plain_transp(x: Tensor, y: Tensor, v: Tensor) -> Tensor:
    x2, y2, xy, xv, yv = (t.sum(-1, keepdim=True) for t in (x * x, y * y, x * y, x * v, y * v))
    a = -yv * x2 - xv + 2 * xy * xv
    b = -xv * y2 + yv
    turned = v + 2 * (-a * y - b * x) / (1 - 2 * xy + x2 * y2).clamp_min(1e-15)
    return turned * (1 - y2) / (1 - x2)


_PLAIN = {"expmap": _plain_expmap, "logmap": _plain_logmap, "dist": _plain_dist, "transp": _plain_transp}
_compiled: dict[str, Callable[..., Tensor]] = {}


def _reference(run: Callable[[], object]) -> Callable[[], object]:
    def plain() -> object:
        with kernels.use("reference"):
            return run()

    return plain


def row_op(ours: Manifold, peer: geoopt.Manifold, name: str, backward: bool, *size: int) -> Thunks:
    """One operation on rows of points: ours, ours in plain torch operations, geoopt, and the ball's under compile."""
    ball = isinstance(ours, PoincareBall)
    x = _ball_points(*size) if ball else ours.random(*size, generator=_generator())
    v = _ball_points(*size).flip(0) * 0.5
    if not ball:
        v = ours.proju(x, v)
        v = v if name in ("expmap", "retr") else ours.expmap(x, v)
    arguments = (x, v, v.flip(0)) if name == "transp" else (x, v)
    make = _backward if backward else lambda f, *t: lambda: f(*t)
    mine = make(getattr(ours, name), *arguments)
    thunks = {"holonomy": mine, "plain torch": _reference(mine), "geoopt": make(getattr(peer, name), *arguments)}
    if ball and size[0] > 1000:
        if name not in _compiled:
            _compiled[name] = torch.compile(_PLAIN[name], dynamic=True)
        thunks["torch.compile"] = make(_compiled[name], *arguments)
    return thunks


def midpoint(ours: Hyperbolic, backward: bool, *size: int) -> Thunks:
    """Weighted midpoint of all rows; geoopt has the ball's."""
    x, w = ours.random(*size, generator=_generator()), torch.rand(size[:-1], generator=_generator())
    make = _backward if backward else lambda f, *t: lambda: f(*t)
    mine = make(ours.weighted_midpoint, x, w)
    thunks = {"holonomy": mine, "plain torch": _reference(mine)}
    if isinstance(ours, PoincareBall):
        thunks["geoopt"] = make(geoopt.PoincareBall().weighted_midpoint, x, w)
    return thunks


def transporting_step(backward: bool, *size: int) -> Thunks:
    """A step of the ball with the transport of a vector along it: what Adam and SGD with momentum do."""
    ball, peer = PoincareBall(), geoopt.PoincareBall()
    x = _ball_points(*size)
    u, v = (0.1 * ball.random_tangent(x, generator=_generator()) for _ in range(2))

    def sums(function: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., Tensor]:
        return lambda *t: sum(r.sum() for r in function(*t))

    make = (lambda f: _backward(sums(f), x, u, v)) if backward else (lambda f: lambda: f(x, u, v))
    mine = make(ball.retr_transp)
    return {"holonomy": mine, "plain torch": _reference(mine), "geoopt": make(peer.expmap_transp)}


def planes(backward: bool, n: int, d: int, count: int | None) -> Thunks:
    """Distances of n points to a plane each, or to `count` planes all."""
    ball, peer = PoincareBall(), geoopt.PoincareBall()
    x, p = (
        (_ball_points(n, d), _ball_points(n, d).flip(0))
        if count is None
        else (
            _ball_points(n, 1, d),
            _ball_points(count, d),
        )
    )
    a = torch.randn(p.shape, generator=_generator())

    def distances(manifold: PoincareBall | geoopt.PoincareBall) -> Callable[..., Tensor]:
        return lambda x, p, a: manifold.dist2plane(x, p, a, signed=True)

    make = _backward if backward else lambda f, *t: lambda: f(*t)
    mine = make(distances(ball), x, p, a)
    return {"holonomy": mine, "plain torch": _reference(mine), "geoopt": make(distances(peer), x, p, a)}


def simplex_projection(rows: int, n: int) -> Thunks:
    """Euclidean projection to the probability simplex, against the usual way by sorting."""
    x = torch.randn(rows, n, generator=_generator())
    return {"holonomy": lambda: project_simplex(x), "plain torch": _reference(lambda: project_simplex(x))}


def birkhoff_tangent(n: int) -> Thunks:
    """Projection to the tangent space of the doubly stochastic matrices."""
    peer = geoopt.BirkhoffPolytope()
    x = peer.projx(torch.rand(n, n, generator=_generator()) + 0.1)
    u = torch.randn(n, n, generator=_generator())
    return {"holonomy": lambda: birkhoff_proju(x, u), "geoopt": lambda: peer.proju(x, u)}


def class_logits(backward: bool) -> Thunks:
    """Lengths of the projections of 64 features to 1000 subspaces of dimension 8 of R^2048."""
    x = torch.randn(64, 2048, generator=_generator())
    bases = Grassmann().random(1000, 2048, 8, generator=_generator())

    def plain(x: Tensor, bases: Tensor) -> Tensor:
        return torch.einsum("bd,cdk->bck", x, bases).norm(dim=-1)

    if backward:
        return {"holonomy": _backward(subspace_logits, x, bases), "plain torch": _backward(plain, x, bases)}
    return {"holonomy": lambda: subspace_logits(x, bases), "plain torch": lambda: plain(x, bases)}


def class_head() -> Thunks:
    """Forward, backward and geodesic step of a head of 1000 subspaces (2048, 8), batch 64, momentum 0.9.

    The peer is the method as its paper writes it: einsum, autograd, the momentum's projection, a batched SVD for the
    geodesic, and a QR after it.
    """
    x = torch.randn(64, 2048, generator=_generator())
    y = torch.randint(0, 1000, (64,), generator=_generator())
    head = GrassmannClassifier(2048, 1000, 8)
    head.reset_parameters(_generator())
    optimizer = RiemannianSGD(param_groups(head, 0.1, 0.0), momentum=0.9)
    bases = head.subspaces.detach().clone().requires_grad_()
    buffer = torch.zeros_like(bases)

    def ours() -> object:
        optimizer.zero_grad()
        features = x.clone().requires_grad_()
        torch.nn.functional.cross_entropy(head(features), y).backward()
        return optimizer.step()

    def plain() -> object:
        bases.grad = None
        features = x.clone().requires_grad_()
        unit = torch.nn.functional.normalize(features, dim=-1)
        logits = 25.0 * torch.einsum("bd,cdk->bck", unit, bases).norm(dim=-1)
        torch.nn.functional.cross_entropy(logits, y).backward()
        with torch.no_grad():
            buffer.mul_(0.9).add_(bases.grad)
            g = buffer - bases @ (bases.mT @ buffer)
            u, sigma, vh = torch.linalg.svd(g, full_matrices=False)
            angle = (-0.1 * sigma).unsqueeze(-2)
            bases.copy_(torch.linalg.qr((bases @ vh.mT * angle.cos() + u * angle.sin()) @ vh)[0])
        return None

    return {"holonomy": ours, "plain torch": plain}


def hadamard(rows: int, n: int) -> Thunks:
    """Walsh-Hadamard transform."""
    x = torch.randn(rows, n, generator=_generator())
    return {"holonomy": lambda: hadamard_transform(x), "plain torch": _reference(lambda: hadamard_transform(x))}


def hierarchical_ntk(n: int) -> Thunks:
    """NTK of a convolutional hierarchy of six layers for inputs of 32 patches of two numbers, float64."""
    x = sample_multisphere(n, 32, 2, _generator())
    kernel = HierarchicalKernel((2, 2, 2, 2, 2, 2))
    patches = x.numpy()

    def plain() -> np.ndarray:
        """The recursion as one writes it in NumPy, for blocks of rows that fit memory."""
        return np.concatenate([_ntk_rows(patches[k : k + 64], patches) for k in range(0, n, 64)])

    return {"holonomy": lambda: kernel(x), "NumPy": plain}


def _ntk_rows(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    t = np.einsum("nps,mps->pnm", x, y).clip(-1.0, 1.0)
    values = slopes = t
    for layer in range(6):
        if layer:
            values, slopes = (a.reshape(-1, 2, *a.shape[1:]).mean(1) for a in (values, slopes))
        angle = np.pi - np.arccos(values.clip(-1.0, 1.0))
        found = (values * angle + np.sqrt(1.0 - values.clip(-1.0, 1.0) ** 2)) / np.pi
        values, slopes = found, found + slopes * angle / np.pi
    return np.asarray(slopes.mean(0))


def recurrence() -> Thunks:
    """h_t = a_t h_(t-1) + b_t, forward and backward, against a loop over time."""
    a = torch.rand(32, 256, 64, generator=_generator())
    b, h0 = torch.randn(32, 256, 64, generator=_generator()), torch.zeros(32, 64)

    def plain(a: Tensor, b: Tensor) -> Tensor:
        return recurrence_loop(a, b, h0)

    return {"holonomy": _backward(linear_recurrence, a, b), "plain torch": _backward(plain, a, b)}


def conv(backward: bool) -> Thunks:
    """Hyperbolic 3x3 convolution of a (32, 16, 32, 32) map from ball to ball; torch's Euclidean one for scale."""
    ours = PoincareConv2d(16, 16, 3, padding=1, ball=PoincareBall(), space="ball")
    x = PoincareBall().expmap0(torch.randn(32, 16, 32, 32, generator=_generator()) * 0.05, dim=1)
    ball = HypllBall(c=Curvature(1.0, constraining_strategy=lambda c: c))
    peer = HConvolution2d(16, 16, 3, manifold=ball, padding=1)
    flat = torch.nn.Conv2d(16, 16, 3, padding=1)

    def theirs(x: Tensor) -> Tensor:
        return peer(ManifoldTensor(x, manifold=ball, man_dim=1)).tensor

    if backward:
        return {"holonomy": _backward(ours, x), "hypll": _backward(theirs, x), "torch Conv2d": _backward(flat, x)}

    def forward(function: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        def run() -> object:
            with torch.no_grad():
                return function(x)

        return run

    return {"holonomy": forward(ours), "hypll": forward(theirs), "torch Conv2d": forward(flat)}


def _row_cases() -> list[Case]:
    """Operations on rows: bytes are those of the vectors read and written, at least."""
    cases = []
    promised = {(100_000, 16): 6.0, (1_000_000, 2): 6.0, (4096, 512): 5.0}
    for size in ((1, 16), (1000, 16), (100_000, 16), (1_000_000, 2), (4096, 512)):
        n = size[0] * size[1] * _FLOAT
        for name, vectors in (("expmap", 2), ("logmap", 2), ("dist", 2), ("transp", 3)):
            written = 0 if name == "dist" else n
            for backward in (False, True):
                label = f"ball {name} {size} {'forward+backward' if backward else 'forward'}"
                moved = vectors * n + written + (2 * vectors * n + written if backward else 0)
                bound = {"geoopt": promised[size]} if size in promised else {"plain torch": 2.0}
                build = functools.partial(row_op, PoincareBall(), geoopt.PoincareBall(), name, backward, *size)
                cases.append(Case(label, build, moved, wanted=bound))
    for ours, peer in ((Lorentz(), geoopt.Lorentz()), (Sphere(), geoopt.Sphere())):
        size, n = (100_000, 16), 100_000 * 16 * _FLOAT
        for name in ("expmap", "dist"):
            for backward in (False, True):
                label = f"{ours.name} {name} {size} {'forward+backward' if backward else 'forward'}"
                moved = 2 * n + (name != "dist") * n + backward * 5 * n
                cases.append(Case(label, functools.partial(row_op, ours, peer, name, backward, *size), moved))
    return cases


def _hyperbolic_cases() -> list[Case]:
    """Operations of whole batches of hyperbolic points."""
    cases = []
    for backward in (False, True):
        way = "forward+backward" if backward else "forward"
        for n, d in ((100_000, 16), (4096, 512)):
            build = functools.partial(transporting_step, backward, n, d)
            cases.append(Case(f"ball retr_transp ({n}, {d}) {way}", build, (5 + 8 * backward) * n * d * _FLOAT))
            build = functools.partial(planes, backward, n, d, None)
            cases.append(Case(f"ball dist2plane ({n}, {d}) {way}", build, (3 + 6 * backward) * n * d * _FLOAT))
        for n, d, count in ((4096, 16, 100), (1024, 128, 100)):
            build, work = functools.partial(planes, backward, n, d, count), n * d * count * (5 + 8 * backward)
            label = f"ball dist2plane, {n} points, {count} planes, d = {d}, {way}"
            cases.append(Case(label, build, (1 + backward) * n * count * _FLOAT, flops=work))
    for size in ((100_000, 16), (4096, 512)):
        n = size[0] * size[1] * _FLOAT
        for backward in (False, True):
            way = f"{size} {'forward+backward' if backward else 'forward'}"
            for ours in (PoincareBall(), Lorentz()):
                build = functools.partial(midpoint, ours, backward, *size)
                cases.append(Case(f"{ours.name} weighted midpoint {way}", build, (1 + 2 * backward) * n))
    return cases


CASES = [
    Case(
        "Adam step, 100 ball points of 16",
        lambda: adam_small(PoincareBall(), geoopt.PoincareBall(), 16),
        7 * 100 * 16 * _FLOAT,
        wanted={"geoopt": 5.0},
    ),
    Case(
        "Adam step, 100 Stiefel points of (128, 8)",
        lambda: adam_small(Stiefel(), geoopt.Stiefel(), 128, 8),
        7 * 100 * 128 * 8 * _FLOAT,
        flops=100 * 10 * 128 * 8 * 8,
        wanted={"geoopt": 5.0},
    ),
    Case(
        "Adam step, ball table 100,000 x 10",
        lambda: adam_table(100_000, 10),
        7 * 10**6 * _FLOAT,
        wanted={"geoopt": 10.0},
    ),
    Case(
        "Adam step, ball table 1,000,000 x 10",
        lambda: adam_table(1_000_000, 10),
        7 * 10**7 * _FLOAT,
        wanted={"geoopt": 25.0},
    ),
    Case(
        "Stiefel retraction (1, 2048, 256)",
        lambda: stiefel_retr(1, 2048, 256),
        3 * 2048 * 256 * _FLOAT,
        flops=2 * 2048 * 256**2 * 2,
        wanted={"geoopt": 15.0},
    ),
    Case(
        "Grassmann exp (1000, 2048, 8)",
        lambda: grassmann_exp(1000, 2048, 8),
        3 * 1000 * 2048 * 8 * _FLOAT,
        flops=1000 * 2 * 2048 * 8 * 8 * 3,
        wanted={"pymanopt": 5.0},
    ),
    Case(
        "pairwise ball distance 4096 x 4096, d = 16",
        lambda: pairwise(4096, 16),
        4096**2 * _FLOAT,
        flops=4096**2 * 16 * 2,
        wanted={"geoopt": 90.0},
    ),
    Case(
        "pairwise ball distance 2048 x 2048, d = 16, forward+backward",
        lambda: pairwise(2048, 16, backward=True),
        2 * 2048**2 * _FLOAT,
        flops=3 * 2048**2 * 16 * 2,
        wanted={"geoopt": 100.0},
    ),
    Case(
        "hyperbolic conv (32,16,32,32) 3x3 forward",
        lambda: conv(False),
        2 * 32 * 16 * 1024 * _FLOAT,
        flops=2 * 32 * 1024 * 16 * 16 * 9,
    ),
    Case(
        "hyperbolic conv (32,16,32,32) 3x3 forward+backward",
        lambda: conv(True),
        5 * 32 * 16 * 1024 * _FLOAT,
        flops=3 * 2 * 32 * 1024 * 16 * 16 * 9,
        wanted={"hypll": 12.0},
    ),
    Case(
        "Poincaré ResNet-20, a training step of 32 images",
        lambda: training_steps(32),
        0.0,
        flops=3 * 2 * 32 * _RESNET20_PRODUCTS,
        wanted={"hypll": 5.0},
    ),
    Case(
        "simplex projection 100,000 x 64",
        lambda: simplex_projection(100_000, 64),
        2 * 100_000 * 64 * _FLOAT,
        wanted={"plain torch": 6.0},
    ),
    Case(
        "Birkhoff tangent projection 1024",
        lambda: birkhoff_tangent(1024),
        3 * 1024**2 * _FLOAT,
        wanted={"geoopt": 100.0},
    ),
    Case(
        "membership of 10,000 points (128), 50 largest a row",
        lambda: doubly_stochastic_membership(10_000, 128),
        10_000 * (128 + 50) * _FLOAT,
        flops=2 * 10_000**2 * 128,  # of one product; the iteration needs it afresh at every step
    ),
    Case(
        "10 bound updates, 10,000 points, 100 clusters, 10 neighbours",
        lambda: bound_updates(10_000, 100, 10, 10),
        10 * 10_000 * (3 * 100 + 2 * 10) * _FLOAT,
        flops=10 * 10_000 * 100 * (2 * 10 + 12),
        wanted={"plain scipy": 2.0},
    ),
    Case(
        "Fréchet labels, 100 queries, 100 of 100,000 labels observed",
        lambda: frechet_labels(100, 100, 100_000),
        100 * 100_000 * _FLOAT,
        flops=2 * 100 * 100 * 100_000,
        wanted={"loop, the formula": 20.0},
    ),
    Case(
        "Fréchet labels in a tree of 100,000 nodes, 20 queries, 2,000 observed",
        lambda: frechet_structured(Tree([((v - 1) // 3, v) for v in range(1, 100_000)]), 20, 2000),
        20 * 100_000 * 6 * 8,
        wanted={"distances and product": 5.0},
    ),
    Case(
        "Fréchet labels on a grid of 316 x 316, 20 queries, 2,000 observed",
        lambda: frechet_structured(Grid((316, 316)), 20, 2000),
        20 * 316**2 * 6 * 8,
        wanted={"distances and product": 5.0},
    ),
    *(
        Case(
            f"subspace logits, 64 features, 1000 subspaces (2048, 8), {'forward+backward' if backward else 'forward'}",
            functools.partial(class_logits, backward),
            (1 + 2 * backward) * 1000 * 2048 * 8 * _FLOAT,
            flops=(1 + 2 * backward) * 2 * 64 * 1000 * 2048 * 8,
        )
        for backward in (False, True)
    ),
    Case(
        "Grassmann head, 64 features, 1000 subspaces (2048, 8): forward, backward, step",
        class_head,
        # Bases are read for logits, gradients and the step; gradient and buffer written and read; bases written.
        8 * 1000 * 2048 * 8 * _FLOAT,
        flops=3 * 2 * 64 * 1000 * 2048 * 8 + 5 * 2 * 1000 * 2048 * 8 * 8,
        wanted={"plain torch": 3.0},
    ),
    Case("Hadamard transform (1, 2^20)", lambda: hadamard(1, 1 << 20), 2 * 2**20 * _FLOAT, wanted={"plain torch": 5.0}),
    Case("Hadamard transform (1024, 1024)", lambda: hadamard(1024, 1024), 2 * 2**20 * _FLOAT),
    Case(
        "linear recurrence (32, 256, 64) forward+backward",
        recurrence,
        8 * 32 * 256 * 64 * _FLOAT,
        wanted={"plain torch": 5.0},
    ),
    *(
        Case(
            f"principal angles {size} {'forward+backward' if backward else 'forward'}",
            functools.partial(principal_angles, backward, *size),
            (2 + 4 * backward) * size[0] * size[1] * size[2] * _FLOAT,
        )
        for size in ((1000, 2048, 8), (64, 64, 8))
        for backward in (False, True)
    ),
    *_row_cases(),
    *_hyperbolic_cases(),
]
