"""The fused optimizer steps: kernels against the same step written with the manifolds' methods in plain torch."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from holonomy.manifolds import Lorentz, Manifold, PoincareBall, Sphere, kernels
from holonomy.manifolds.kernels.steps import KINDS, adam_step, obstacle, sgd_step

MANIFOLDS: dict[str, Any] = {"ball": PoincareBall(0.7), "lorentz": Lorentz(1.3), "sphere": Sphere()}
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def curvature(kind: str) -> float:
    return getattr(MANIFOLDS[kind], "c", 1.0)


def table(kind: str, *size: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> dict[str, Tensor]:
    """Points, gradients and moments as they are in the middle of a run."""
    generator = torch.Generator().manual_seed(seed)
    manifold = MANIFOLDS[kind]
    x = manifold.random(*size, dtype=torch.float64, generator=generator)
    found = {
        "x": x,
        "grad": torch.randn(size, dtype=torch.float64, generator=generator),
        "moment": manifold.proju(x, torch.randn(size, dtype=torch.float64, generator=generator)),
        "square": torch.rand(*size[:-1], 1, dtype=torch.float64, generator=generator),
        "largest": torch.rand(*size[:-1], 1, dtype=torch.float64, generator=generator),
    }
    return {name: t.to(dtype) for name, t in found.items()}


def copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in tensors.items()}


def pull(manifold: Manifold, x: Tensor) -> Tensor:
    return manifold.logmap(x, manifold.origin(*x.shape, dtype=x.dtype))


def written_out_adam(manifold: Manifold, t: dict[str, Tensor], o: dict[str, Any]) -> None:
    with kernels.use("reference"):
        x = t["x"]
        g = manifold.egrad2rgrad(x, -t["grad"] if o["maximize"] else t["grad"])
        if o["coupled"]:
            g = g - o["coupled"] * pull(manifold, x)
        m = o["beta1"] * t["moment"] + (1 - o["beta1"]) * g
        t["square"] = o["beta2"] * t["square"] + (1 - o["beta2"]) * manifold.component_inner(x, g)
        t["largest"] = torch.maximum(t["largest"], t["square"])
        root = (t["largest"] / (1 - o["beta2"] ** o["step"])).sqrt() + o["eps"]
        u = -o["lr"] / (1 - o["beta1"] ** o["step"]) / root * m
        if o["decoupled"]:
            u = u + o["lr"] * o["decoupled"] * pull(manifold, x)
        t["x"], t["moment"] = manifold.retr_transp(x, u, m)


def written_out_sgd(manifold: Manifold, t: dict[str, Tensor], o: dict[str, Any]) -> None:
    with kernels.use("reference"):
        x = t["x"]
        g = manifold.egrad2rgrad(x, -t["grad"] if o["maximize"] else t["grad"])
        if o["decay"]:
            g = g - o["decay"] * pull(manifold, x)
        b = g if o["first"] else o["momentum"] * t["moment"] + (1 - o["dampening"]) * g
        u = g + o["momentum"] * b if o["nesterov"] else b
        t["x"], t["moment"] = manifold.retr_transp(x, -o["lr"] * u, b)


ADAM = {"step": 3, "lr": 0.1, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3, "coupled": 0.0, "decoupled": 0.0}
ADAM |= {"maximize": False}
SGD = {"first": False, "lr": 0.1, "momentum": 0.8, "dampening": 0.3, "nesterov": False, "decay": 0.0, "maximize": False}


def run_adam(kind: str, t: dict[str, Tensor], **options: Any) -> None:
    adam_step(kind, curvature(kind), t["x"], t["grad"], t["moment"], t["square"], t["largest"], **(ADAM | options))


def close(ours: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    for name, value in wanted.items():
        scale = value.abs().amax(-1, keepdim=True).clamp_min(1.0)
        torch.testing.assert_close(ours[name] / scale, value / scale, rtol=0, atol=tolerance, msg=name)


def conditioning(kind: str, x: Tensor) -> float:
    """Roundings that a length has: on the hyperboloid u_s - <x_s, u_s>/x_0^2 x_s loses x_0^2 of them, in both codes."""
    return float(x.square().amax()) if kind == "lorentz" and x.shape[-1] == 2 else 1.0


# -- values --------------------------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("size", [2, 3, 7, 8, 10, 16, 17, 33])
def test_adam_is_the_step_written_out(kind: str, size: int) -> None:
    decays = [{}, {"maximize": True}] + ([{"coupled": 0.2}, {"decoupled": 0.2}] if kind != "sphere" else [])
    for rows, options in zip((1, 7, 8, 129), decays * 2, strict=False):
        ours = table(kind, rows, size)
        wanted = copies(ours)
        run_adam(kind, ours, **options)
        units = conditioning(kind, wanted["x"])
        written_out_adam(MANIFOLDS[kind], wanted, ADAM | options)
        close(ours, wanted, 1e-13 * units)  # float64 roundings of sums of 33 numbers


@each_kind
@pytest.mark.parametrize("size", [2, 10, 17])
def test_sgd_is_the_step_written_out(kind: str, size: int) -> None:
    variants = [{}, {"first": True}, {"nesterov": True, "dampening": 0.0}, {"maximize": True}]
    variants += [{"decay": 0.2}] if kind != "sphere" else []
    for options in variants:
        ours = table(kind, 13, size)
        wanted = copies(ours)
        numbers = SGD | options
        sgd_step(kind, curvature(kind), ours["x"], ours["grad"], ours["moment"], **numbers)
        units = conditioning(kind, wanted["x"])
        written_out_sgd(MANIFOLDS[kind], wanted, numbers)
        close(ours, wanted, 1e-13 * units)  # as above
    ours = table(kind, 13, size)
    wanted = copies(ours)
    sgd_step(kind, curvature(kind), ours["x"], ours["grad"], lr=0.1)
    written_out_sgd(MANIFOLDS[kind], wanted, SGD | {"first": True})
    close({"x": ours["x"]}, {"x": wanted["x"]}, 1e-13 * conditioning(kind, table(kind, 13, size)["x"]))


def test_the_ball_may_have_one_dimension() -> None:
    ours = table("ball", 11, 1)
    wanted = copies(ours)
    run_adam("ball", ours)
    written_out_adam(MANIFOLDS["ball"], wanted, ADAM)
    close(ours, wanted, 1e-13)


@each_kind
def test_float32_is_as_accurate_as_the_reference(kind: str) -> None:
    single = table(kind, 500, 10, dtype=torch.float32)
    exact = {name: t.double() for name, t in single.items()}
    plain = copies(single)
    run_adam(kind, single)
    written_out_adam(MANIFOLDS[kind], plain, ADAM)
    written_out_adam(MANIFOLDS[kind], exact, ADAM)
    eps = torch.finfo(torch.float32).eps
    for name, value in exact.items():
        scale = value.abs().amax(-1, keepdim=True).clamp_min(1.0)
        error, reference = (float(((t[name] - value) / scale).abs().amax()) for t in (single, plain))
        assert error < 1.5 * reference + 2 * eps, name  # the order of sums is another one


# -- the edge ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_never_leave_the_ball(dtype: torch.dtype) -> None:
    t = table("ball", 64, 5, dtype=dtype)
    ball = MANIFOLDS["ball"]
    t["x"] = ball.projx(t["x"] * torch.logspace(-3, 3, 64, dtype=dtype).unsqueeze(-1))
    for scale in (1.0, 1e6, 1e12):
        for decay in (0.0, 0.3):
            ours = copies(t)
            sgd_step("ball", 0.7, ours["x"], scale * t["grad"], ours["moment"], lr=1.0, momentum=0.9, decay=decay)
            assert all(torch.isfinite(value).all() for value in ours.values())
            assert ball.check_point_on_manifold(ours["x"])
            wanted = ball.projx(ours["x"])
            assert torch.equal(ours["x"], wanted)  # pulled inside already, where `projx` would do it


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_stay_below_the_cap_of_the_hyperboloid(dtype: torch.dtype) -> None:
    lorentz = MANIFOLDS["lorentz"]
    t = table("lorentz", 64, 5, dtype=dtype)
    for scale in (1.0, 1e3, 1e6):
        ours = copies(t)
        sgd_step("lorentz", 1.3, ours["x"], scale * t["grad"], ours["moment"], lr=1.0, momentum=0.9)
        assert torch.isfinite(ours["x"]).all()
        assert lorentz.check_point_on_manifold(ours["x"])
        eps = torch.finfo(dtype).eps
        assert (math.sqrt(1.3) * ours["x"][:, 1:].norm(dim=-1)).max() <= (1 + 8 * eps) / eps


def test_steps_that_go_around_the_sphere_many_times() -> None:
    t = table("sphere", 16, 3)
    wanted = copies(t)
    for tensors in (t, wanted):
        tensors["grad"][::2] *= 1e6
    sgd_step("sphere", 1.0, t["x"], t["grad"], t["moment"], **(SGD | {"lr": 1.0}))
    written_out_sgd(MANIFOLDS["sphere"], wanted, SGD | {"lr": 1.0})
    torch.testing.assert_close(t["x"][1::2], wanted["x"][1::2], rtol=0, atol=1e-13)  # float64 roundings
    torch.testing.assert_close(t["x"], wanted["x"], rtol=0, atol=1e-9)  # an angle of 1e6, rounded: 1e-10


@each_kind
def test_a_row_that_is_not_finite_leaves_the_others_alone(kind: str) -> None:
    t = table(kind, 11, 4)
    wanted = copies(t)
    t["grad"][3, 2] = math.nan
    run_adam(kind, t)
    run_adam(kind, wanted)
    others = [i for i in range(11) if i != 3]
    assert torch.isnan(t["x"][3]).any()
    for name, value in wanted.items():
        assert torch.equal(t[name][others], value[others])


def test_points_of_the_ball_without_a_gradient_stay_to_the_bit() -> None:
    t = table("ball", 20, 6)
    x = t["x"].clone()
    sgd_step("ball", 0.7, t["x"], torch.zeros_like(x), lr=0.1)
    assert torch.equal(t["x"], x)


# -- layout --------------------------------------------------------------------------------------------------------


@each_kind
# The second and the third begin and end as eight rows in a row do, and are not that.
@pytest.mark.parametrize("rows", [[17, 3, 4, 5, 6, 7, 8, 9, 10, 0], [0, 7], [3, 5, 4, 6, 7, 8, 9, 10], list(range(16))])
def test_only_the_rows_of_an_index_move(kind: str, rows: list[int]) -> None:
    index = torch.tensor(rows)
    whole, some = table(kind, 19, 10), table(kind, 19, 10)
    before = copies(some)
    run_adam(kind, whole)
    some["grad"] = some["grad"][index]
    run_adam(kind, some, index=index)
    others = [i for i in range(19) if i not in index.tolist()]
    for name in ("x", "moment", "square", "largest"):
        assert torch.equal(some[name][index], whole[name][index])
        assert torch.equal(some[name][others], before[name][others])


@each_kind
def test_leading_dimensions_are_rows(kind: str) -> None:
    flat, deep = table(kind, 12, 5), table(kind, 12, 5)
    run_adam(kind, flat)
    deep = {name: t.view(4, 3, -1) for name, t in deep.items()}
    picked = {name: t.clone() for name, t in deep.items()}
    run_adam(kind, deep)
    index = torch.tensor([3, 1])
    picked["grad"] = picked["grad"][index]
    run_adam(kind, picked, index=index)
    for name in ("x", "moment", "square"):
        assert torch.equal(deep[name].view(12, -1), flat[name])
        assert torch.equal(picked[name][index], deep[name][index])
    one, rows = table(kind, 5), table(kind, 1, 5)
    run_adam(kind, one)
    run_adam(kind, rows)
    assert torch.equal(one["x"], rows["x"][0])


@each_kind
def test_no_rows_at_all(kind: str) -> None:
    t = table(kind, 0, 5)
    run_adam(kind, t)
    t = table(kind, 3, 5)
    before = t["x"].clone()
    t["grad"] = t["grad"][:0]
    run_adam(kind, t, index=torch.empty(0, dtype=torch.int64))
    assert torch.equal(t["x"], before)


@pytest.mark.usefixtures("threads")
@each_kind
def test_numbers_of_threads_give_the_same_numbers(kind: str) -> None:
    ends = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        t = table(kind, 20_003, 5)
        run_adam(kind, t)
        ends.append(t)
    for end in ends[1:]:
        assert all(torch.equal(end[name], ends[0][name]) for name in end)


def test_gradients_may_have_any_strides_and_are_not_touched() -> None:
    t = table("ball", 6, 5)
    wanted = copies(t)
    t["grad"] = t["grad"].T.contiguous().T
    kept = t["grad"].clone()
    run_adam("ball", t)
    run_adam("ball", wanted)
    assert torch.equal(t["x"], wanted["x"])
    assert torch.equal(t["grad"], kept)


def test_autograd_sees_that_points_were_written() -> None:
    x = table("ball", 3, 4)["x"].requires_grad_()
    loss = x.square().sum()
    sgd_step("ball", 0.7, x, torch.ones(3, 4, dtype=torch.float64), lr=0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# -- refusals ------------------------------------------------------------------------------------------------------


def test_bad_input_is_refused_by_name() -> None:
    good = table("ball", 6, 4)
    bad: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        (r"'grad' has shape \(6, 3\).*wanted \(6, 4\)", {"grad": good["grad"][:, :3]}, {}),
        (r"'moment' has shape \(4,\)", {"moment": good["moment"][0]}, {}),
        (r"'square' has shape \(6,\).*wanted \(6, 1\)", {"square": good["square"][:, 0]}, {}),
        ("'grad'.*float32", {"grad": good["grad"].float()}, {}),
        ("contiguous", {"x": good["x"].T.contiguous().T}, {}),
        ("dtype is torch.float16", {name: t.half() for name, t in good.items()}, {}),
        ("its state is torch.float32", {"moment": good["moment"].float()}, {}),
        ("reaches outside of the 6 rows", {"grad": good["grad"][:2]}, {"index": torch.tensor([0, 6])}),
        ("reaches outside", {"grad": good["grad"][:2]}, {"index": torch.tensor([0, -1])}),
        ("'index' has shape.*int32", {"grad": good["grad"][:1]}, {"index": torch.tensor([0], dtype=torch.int32)}),
        (r"'grad' has shape \(6, 4\).*wanted \(2, 4\)", {}, {"index": torch.tensor([0, 1])}),
    ]
    for message, tensors, options in bad:
        with pytest.raises(ValueError, match=message):
            run_adam("ball", copies(good) | tensors, **options)
    with pytest.raises(ValueError, match="'kind' must be one of"):
        sgd_step("cube", 1.0, good["x"], good["grad"], lr=0.1)
    with pytest.raises(ValueError, match="d >= 2"):
        sgd_step("sphere", 1.0, good["x"][:, :1].contiguous(), good["grad"][:, :1], lr=0.1)
    assert obstacle(good["x"], good["moment"]) is None
