"""The properties that geomstats ships and the diagnostics that pymanopt ships, on our manifolds: ``make peers``."""

import inspect
import re
from typing import Any

import numpy as np
import pytest
import torch

np.trapz = np.trapezoid  # noqa: NPY201 - geomstats 2.8.0 asks for the name that numpy 2.4 dropped

import pymanopt  # noqa: E402
from adapters import GeomstatsSpace, Pymanopt  # noqa: E402
from geomstats.test_cases.geometry.connection import ConnectionTestCase  # noqa: E402
from geomstats.test_cases.geometry.manifold import ManifoldTestCase  # noqa: E402
from geomstats.test_cases.geometry.riemannian_metric import RiemannianMetricTestCase  # noqa: E402
from matplotlib import pyplot  # noqa: E402
from pymanopt.tools import diagnostics  # noqa: E402

from holonomy.manifolds import (  # noqa: E402
    Birkhoff,
    Euclidean,
    Grassmann,
    Lorentz,
    Manifold,
    Oblique,
    PoincareBall,
    PositiveOrthant,
    Power,
    Product,
    Scaled,
    Simplex,
    SpecialEuclidean,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
)

pytestmark = pytest.mark.peers

SPACES: tuple[tuple[Manifold, tuple[int, ...]], ...] = (
    (Birkhoff(), (3, 3)),
    (Euclidean(ndim=1), (3,)),
    (Grassmann(), (5, 2)),
    (Lorentz(c=0.5), (4,)),
    (Oblique(), (3, 2)),
    (PoincareBall(c=2.0), (3,)),
    (PositiveOrthant(ndim=1), (3,)),
    (Power(Sphere()), (2, 3)),
    (Product((Sphere(), (3,)), (Euclidean(ndim=1), (2,))), (5,)),
    (Scaled(Sphere(), 2.0), (3,)),
    (Simplex(), (4,)),
    (SpecialEuclidean(), (4, 4)),
    (SpecialOrthogonal(), (3, 3)),
    (Sphere(), (4,)),
    (Stiefel(), (5, 2)),
    (Stiefel(metric="canonical", retraction="cayley"), (5, 2)),
)
each_space = pytest.mark.parametrize(("manifold", "shape"), SPACES, ids=lambda t: str(t))

#: Properties of geomstats that ask for what our interface does not have: name pattern, reason.
NOT_APPLICABLE = (
    (r"metric_matrix|cometric|inner_coproduct|derivative_matrix|christoffel", "we offer no matrices in coordinates"),
    (r"riemann|ricci|curvature|tensor", "we offer sectional curvature only, not the tensor"),
    (r"geodesic|ladder", "geomstats' geodesic is a function of many times; ours of one that broadcasts"),
    (r"regularize|belongs_intrinsic|coords|basis|diameter", "no such operation"),
    (r"_vec$", "vectorisation data are generated for geomstats' own signatures"),
)
_SYMMETRIC_ONLY = "a vector transport, no isometry, by its class"


def properties() -> list[Any]:
    """Every property of geomstats' test cases that asks for nothing but a number of points and a tolerance."""
    found = []
    for case in (ManifoldTestCase, ConnectionTestCase, RiemannianMetricTestCase):
        for name, method in inspect.getmembers(case, inspect.isfunction):
            wanted = set(inspect.signature(method).parameters) - {"self"}
            if name.startswith("test_") and "n_points" in wanted and wanted <= {"n_points", "atol"}:
                found.append(pytest.param(case, name, id=f"{case.__name__}.{name}"))
    return found


@each_space
@pytest.mark.parametrize(("case", "name"), properties())
def test_geomstats(manifold: Manifold, shape: tuple[int, ...], case: type, name: str) -> None:
    for pattern, reason in NOT_APPLICABLE:
        if re.search(pattern, name):
            pytest.skip(reason)
    if "transport" in name and not manifold.exact_transport:
        pytest.skip(_SYMMETRIC_ONLY)
    test = case()
    test.space = GeomstatsSpace(manifold, shape)
    test.setup_method()
    arguments = {"n_points": 3, "atol": 1e-8}
    wanted = inspect.signature(getattr(test, name)).parameters
    try:
        getattr(test, name)(**{k: v for k, v in arguments.items() if k in wanted})
    except NotImplementedError as error:
        pytest.skip(str(error))


def _problem(manifold: Manifold, shape: tuple[int, ...]) -> pymanopt.Problem:
    space = Pymanopt(manifold, shape)
    weights = torch.linspace(0.5, 1.7, int(np.prod(shape)), dtype=torch.float64).reshape(shape)

    def cost(x: Any) -> Any:
        if isinstance(manifold, Grassmann):  # a function of the subspace
            x = x @ x.mT
            return (torch.linspace(0.5, 1.7, x.numel(), dtype=x.dtype).reshape(x.shape) * torch.sin(1.3 * x)).sum()
        return (weights * torch.sin(1.3 * x + weights)).sum()

    return pymanopt.Problem(space, pymanopt.function.pytorch(space)(cost))


@pytest.fixture(autouse=True)
def _no_windows(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(pyplot, "show", lambda: pyplot.close("all"))
    fit = np.polyfit

    def polyfit(*arguments: Any, full: bool = False, **keywords: Any) -> Any:
        """Give the residual as the number that pymanopt 2.2.1 stores; numpy 2.4 no longer makes one of an array."""
        result = fit(*arguments, full=full, **keywords)
        return (result[0], float(result[1].sum()), *result[2:]) if full else result

    monkeypatch.setattr(np, "polyfit", polyfit)


@each_space
@pytest.mark.parametrize("check", ["gradient", "hessian"])
def test_pymanopt_derivatives(
    manifold: Manifold, shape: tuple[int, ...], check: str, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = _problem(manifold, shape)
    second = check == "hessian"
    # Along a retraction of first order pymanopt's quadratic model is not that of the Hessian.
    if second and isinstance(manifold, Birkhoff):
        pytest.skip("no exponential map, and the retraction is of first order")
    slope = diagnostics.check_directional_derivative(problem, use_quadratic_model=second)[3][0]
    assert slope > (2.9 if second else 1.9) or "exact" in capsys.readouterr().out
    getattr(diagnostics, f"check_{check}")(problem)
    said = capsys.readouterr().out
    for residual in re.findall(r"(?:Residual|be close to 0|very close to 0|= ).{0,3}: ?([-+.e\d]+)\.?\n", said):
        assert abs(float(residual.rstrip("."))) < 1e-10


@each_space
def test_pymanopt_retraction(manifold: Manifold, shape: tuple[int, ...], capsys: pytest.CaptureFixture[str]) -> None:
    if isinstance(manifold, Birkhoff):
        pytest.skip("no exponential map to compare with")
    space = Pymanopt(manifold, shape)
    diagnostics.check_retraction(space)
    said = capsys.readouterr().out
    slope = float(re.search(r"slope is: ([-+.e\dnaif]+)\.\n", said)[1])
    total = float(re.search(r"should be zero: ([-+.e\d]+?)\.\n", said)[1])
    assert total < 1e-10 or slope > 1.9
