"""Our manifolds inside geoopt, and geoopt's inside ours."""

import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
import torch

from holonomy.manifolds import (
    SPD,
    DimensionError,
    Euclidean,
    Grassmann,
    Lorentz,
    Manifold,
    ManifoldParameter,
    MembershipError,
    PoincareBall,
    Simplex,
    Sphere,
    Stiefel,
    find_manifold,
    from_geoopt,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # geoopt compiles TorchScript when it is imported
    import geoopt


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def symmetric(n, seed=0):
    a = torch.randn(n, n, dtype=torch.float64, generator=generator(seed))
    return (a + a.T) / 2


# -- registration ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["holonomy", "geoopt"])
def test_registered_whichever_is_imported_first_and_silently(first):
    ours = """
        import sys
        import holonomy.manifolds
        assert ("geoopt" in sys.modules) == geoopt_is_there
    """
    theirs = """
        import warnings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import geoopt
    """
    use = """
        sphere = holonomy.manifolds.Sphere()
        assert isinstance(sphere, geoopt.Manifold)
        p = geoopt.ManifoldParameter(sphere.random(3, 4), manifold=sphere)
        assert p.manifold is sphere
    """
    parts = (ours, theirs, use) if first == "holonomy" else (theirs, ours, use)
    script = f"geoopt_is_there = {first == 'geoopt'}\n" + "".join(map(textwrap.dedent, parts))
    assert subprocess.run([sys.executable, "-W", "error", "-c", script], check=False, timeout=120).returncode == 0


# -- ours inside geoopt ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manifold", [Grassmann(), Stiefel("canonical")], ids=repr)
def test_their_adam_reaches_the_dominant_eigenspace(manifold):
    a = symmetric(50)
    start = manifold.random(50, 5, dtype=torch.float64, generator=generator(1))
    x = geoopt.ManifoldParameter(start, manifold=manifold)
    optimizer = geoopt.optim.RiemannianAdam([x], lr=0.5)
    for _ in range(500):
        optimizer.zero_grad()
        (-(x * (a @ x)).sum()).backward()
        optimizer.step()
    assert manifold.check_point_on_manifold(x)
    values, vectors = torch.linalg.eigh(a)
    # One second moment a point keeps the step proportional to the gradient: convergence to 1e-9 in 500 steps here.
    assert float((x * (a @ x)).detach().sum()) == pytest.approx(float(values[-5:].sum()), rel=1e-12)
    assert float(Grassmann().dist(x.detach(), vectors[:, -5:])) < 1e-7


def test_their_sgd_with_momentum_finds_a_distribution():
    simplex = Simplex()
    target = simplex.random(6, dtype=torch.float64, generator=generator(2))
    x = geoopt.ManifoldParameter(simplex.origin(6, dtype=torch.float64), manifold=simplex)
    optimizer = geoopt.optim.RiemannianSGD([x], lr=0.1, momentum=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        simplex.dist2(x, target).backward()
        optimizer.step()
    # Linear convergence by about 0.7 a step: rounding is reached.
    assert float(simplex.dist(x.detach(), target)) < 1e-12


@pytest.mark.parametrize(
    ("sampler", "settings", "steps", "wanted"),
    [
        # Von Mises-Fisher with kappa = 3: E<x, mean> = coth 3 - 1/3 = 0.67; 300 draws have a standard error of 0.02,
        # and the step size adds its bias. SGRHMC scales noise and force in its own way, and ends colder.
        ("RSGLD", {"epsilon": 2e-2}, 150, (0.57, 0.77)),
        ("RHMC", {"epsilon": 3e-2, "n_steps": 10}, 40, (0.57, 0.77)),
        ("SGRHMC", {"epsilon": 5e-2}, 150, (0.57, 1.0)),
    ],
)
def test_their_samplers_draw_from_a_density_on_ours(sampler, settings, steps, wanted):
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  # theirs accept and reject by it
    sphere = Sphere()
    mean = torch.tensor([0.0, 0.0, 1.0])
    x = geoopt.ManifoldParameter(sphere.random(300, 3), manifold=sphere)
    run = getattr(geoopt.samplers, sampler)([x], **settings)
    for _ in range(steps):
        run.step(lambda: 3.0 * (x @ mean).sum())
    assert sphere.check_point_on_manifold(x)
    assert wanted[0] < float((x.detach() @ mean).mean()) < wanted[1]
    point = geoopt.ManifoldParameter(Simplex().random(3), manifold=Simplex())
    with pytest.raises(ValueError, match="reversible"):
        getattr(geoopt.samplers, sampler)([point])


# -- geoopt's inside ours ----------------------------------------------------------------------------------------------

CONVERTED = {
    "Euclidean": (lambda: geoopt.Euclidean(1), Euclidean, (5, 4)),
    "Lorentz": (lambda: geoopt.Lorentz(torch.tensor(0.7, dtype=torch.float64)), Lorentz, (5, 4)),
    "PoincareBall": (lambda: geoopt.PoincareBall(0.7), PoincareBall, (5, 4)),
    "PoincareBallExact": (lambda: geoopt.PoincareBallExact(0.7), PoincareBall, (5, 4)),
    "Sphere": (geoopt.Sphere, Sphere, (5, 4)),
    "SphereExact": (geoopt.SphereExact, Sphere, (5, 4)),
    "EuclideanStiefel": (geoopt.EuclideanStiefel, Stiefel, (5, 4, 3)),
    "EuclideanStiefelExact": (geoopt.EuclideanStiefelExact, Stiefel, (5, 4, 3)),
    "CanonicalStiefel": (geoopt.CanonicalStiefel, Stiefel, (5, 4, 3)),
}


@pytest.mark.parametrize(("make", "kind", "shape"), CONVERTED.values(), ids=CONVERTED)
def test_converted_to_the_same_points_and_the_same_metric(make, kind, shape):
    theirs = make()
    ours = from_geoopt(theirs)
    assert type(ours) is kind
    assert ours.ndim == theirs.ndim
    x = ours.random(*shape, dtype=torch.float64, generator=generator(3))
    g, h = (torch.randn(shape, dtype=torch.float64, generator=generator(s)) for s in (4, 5))
    assert theirs.check_point_on_manifold(x)
    u, v = ours.proju(x, g), ours.proju(x, h)
    # Their curvature is a float32 that went through a softplus: it is off by some 1e-7.
    same = {"rtol": 1e-6, "atol": 1e-7}
    torch.testing.assert_close(ours.inner(x, u, v, keepdim=True), theirs.inner(x, u, v, keepdim=True), **same)
    torch.testing.assert_close(ours.egrad2rgrad(x, g), theirs.egrad2rgrad(x, g.clone()), **same)
    for manifold in (ours, theirs):
        assert manifold.check_point_on_manifold(manifold.retr(x, 0.1 * u))


@pytest.mark.parametrize("c", [0.1, 0.7, 1.0, 2.5, 30.0])
def test_curvature_is_taken_over_as_it_was_given(c):
    assert from_geoopt(geoopt.PoincareBall(c)).c == c
    assert from_geoopt(geoopt.Lorentz(c)).c == 1 / c  # their k is the square of the radius of curvature
    # Theirs computes exp(c) - 1 in place, and its logarithm: two digits are lost at c = 0.1.
    assert from_geoopt(geoopt.PoincareBall(torch.tensor(c, dtype=torch.float64))).c == pytest.approx(c, rel=1e-14)


def _silently(make, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs says that only one metric is fully there
        return make(*arguments)


def test_positive_definite_matrices_are_converted_with_their_metric():
    ours, theirs = from_geoopt(geoopt.SymmetricPositiveDefinite()), geoopt.SymmetricPositiveDefinite()
    assert ours.key == SPD().key
    assert from_geoopt(_silently(geoopt.SymmetricPositiveDefinite, "LEM")).key == SPD("log-euclidean").key
    x, y = (ours.random(5, 3, 3, dtype=torch.float64, generator=generator(s)) for s in (1, 2))
    u, v = (ours.random_tangent(x, generator=generator(s)) for s in (3, 4))
    same = {"rtol": 1e-10, "atol": 1e-10}  # theirs go through square roots and inverses of eigenvalues
    torch.testing.assert_close(ours.dist(x, y), theirs.dist(x, y), **same)
    torch.testing.assert_close(ours.inner(x, u, v), theirs.inner(x, u, v), **same)
    torch.testing.assert_close(ours.expmap(x, u), theirs.expmap(x, u), **same)
    torch.testing.assert_close(ours.logmap(x, y), theirs.logmap(x, y), **same)
    torch.testing.assert_close(ours.transp(x, y, v), theirs.transp(x, y, v), **same)
    torch.testing.assert_close(ours.egrad2rgrad(x, u), theirs.egrad2rgrad(x, u), **same)
    torch.testing.assert_close(SPD(retraction="quadratic").retr(x, u), theirs.retr(x, u), **same)


WRAPPED = {
    "SymmetricPositiveDefinite of Stein": (lambda: _silently(geoopt.SymmetricPositiveDefinite, "SM"), (3, 4, 4)),
    "BirkhoffPolytope": (lambda: geoopt.BirkhoffPolytope(), (3, 4, 4)),
    "Scaled": (lambda: geoopt.Scaled(geoopt.Sphere(), 2.0), (3, 4)),
    "SphereProjection": (lambda: geoopt.SphereProjection(), (3, 4)),
    "learnable PoincareBall": (lambda: geoopt.PoincareBall(learnable=True), (3, 4)),
}


@pytest.mark.parametrize(("make", "shape"), WRAPPED.values(), ids=WRAPPED)
def test_the_others_are_wrapped_with_their_formulas(make, shape):
    theirs = make()
    ours = from_geoopt(theirs)
    assert isinstance(ours, Manifold)
    x, y = (ours.random(*shape, generator=generator(s)) for s in (1, 1))
    assert type(x) is torch.Tensor
    assert torch.equal(x, y)
    g = torch.randn(shape, generator=generator(2))
    u = ours.egrad2rgrad(x, g)
    torch.testing.assert_close(u, theirs.egrad2rgrad(x, g.clone()))
    y, w = ours.retr_transp(x, -0.1 * u, u)
    torch.testing.assert_close(y, theirs.retr_transp(x, -0.1 * u, u)[0])
    assert w.shape == x.shape
    assert ours.inner(x, u).shape == x.shape[: len(shape) - ours.ndim]
    torch.broadcast_shapes(ours.component_inner(x, u).shape, x.shape)
    assert ours.check_point_on_manifold(y, atol=1e-4)  # theirs, in float32
    assert from_geoopt(theirs).key == ours.key


def test_what_a_wrapped_manifold_cannot_do_is_said():
    lorentz = from_geoopt(geoopt.Lorentz(learnable=True))
    with pytest.raises(NotImplementedError, match="geoopt's Lorentz has no random"):
        lorentz.random(3, 4)
    spd = from_geoopt(_silently(geoopt.SymmetricPositiveDefinite, "SM"))
    with pytest.raises(DimensionError, match=r"shape \(3,\), wanted at least 2 dimensions"):
        spd.norm(torch.ones(3), torch.ones(3))
    with pytest.raises(DimensionError, match=r"shape \(3, 4\), .*shape\[-1\]"):
        from_geoopt(geoopt.BirkhoffPolytope()).proju(torch.ones(3, 4), torch.ones(3, 4))
    with pytest.raises(MembershipError, match="NaN"):
        spd.assert_check_point_on_manifold(torch.full((3, 3), torch.nan))
    gradient = torch.randn(3, generator=generator())
    before = gradient.clone()
    lorentz.egrad2rgrad(torch.tensor([1.0, 0.0, 0.0]), gradient)
    assert torch.equal(gradient, before)


def test_what_only_looks_like_a_sphere_is_not_taken_for_one():
    subclass = type("Sphere", (geoopt.Sphere,), {})()
    subspace = geoopt.Sphere(intersection=torch.eye(4)[:, :3])
    for manifold in (subclass, subspace):
        assert type(from_geoopt(manifold)) is not Sphere
        assert from_geoopt(manifold).manifold is manifold


def test_parameters_of_either_library_are_understood():
    data = Sphere().random(3, 4)
    assert isinstance(find_manifold(geoopt.ManifoldParameter(data, manifold=geoopt.Sphere())), Sphere)
    assert isinstance(find_manifold(geoopt.ManifoldTensor(data, manifold=geoopt.Sphere())), Sphere)
    sphere = Sphere()
    assert find_manifold(geoopt.ManifoldParameter(data, manifold=sphere)) is sphere
    assert isinstance(ManifoldParameter(data, geoopt.Sphere()).manifold, Sphere)
    assert isinstance(ManifoldParameter(geoopt.ManifoldTensor(data, manifold=geoopt.Sphere())).manifold, Sphere)


def test_from_geoopt_takes_manifolds_only():
    sphere = Sphere()
    assert from_geoopt(sphere) is sphere
    with pytest.raises(TypeError, match="must be a manifold of geoopt, got str"):
        from_geoopt("sphere")
