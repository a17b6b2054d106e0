"""Batches: any number of leading dimensions, broadcast, in any memory layout, equals one point at a time."""

import torch
from cases import Case, Operation, assert_close, each_case, each_operation

EPS = torch.finfo(torch.float64).eps


@each_operation()
def test_a_batch_equals_the_loop(case: Case, operation: Operation) -> None:
    manifold, inputs = case.manifold(), case.inputs(2, 3)
    together = operation(manifold, inputs)
    for i in range(2):
        for j in range(3):
            apart = operation(manifold, {name: t[i, j] for name, t in inputs.items()})
            for a, b in zip(together, apart, strict=True):
                assert_close(a[i, j], b, case.float64_error * EPS)


@each_operation()
def test_one_point_broadcasts_against_many(case: Case, operation: Operation) -> None:
    """Each argument in turn is the single one; tangent vectors belong to one point, so x is single or all are."""
    manifold = case.manifold()
    single = case.inputs(1)
    x = single["x"]
    many = {name: t.expand(4, *case.shape) for name, t in single.items()}
    scale = torch.linspace(0.2, 1.0, 4, dtype=torch.float64).reshape(4, *(1,) * len(case.shape))
    many = {name: t * scale if name in ("u", "v", "egrad", "ehess") else t for name, t in many.items()}
    many["y"] = manifold.retr(x, many["u"])
    for name in operation.takes:
        if name not in many:
            continue
        mixed = {**many, name: single[name][0]}
        full = {**many, name: single[name].expand(4, *case.shape)}
        for a, b in zip(operation(manifold, mixed), operation(manifold, full), strict=True):
            assert_close(a.expand_as(b), b, case.float64_error * EPS, name)
    for a, b in zip(operation(manifold, {**many, "x": x}), operation(manifold, many), strict=True):
        assert_close(a, b, case.float64_error * EPS)


@each_operation()
def test_memory_layout_does_not_matter(case: Case, operation: Operation) -> None:
    manifold, inputs = case.manifold(), case.inputs(4)
    strided = {name: torch.stack([t, t], dim=-1)[..., 0] for name, t in inputs.items()}
    turned = {name: t.movedim(0, -1).contiguous().movedim(-1, 0) for name, t in inputs.items()}
    wanted = operation(manifold, inputs)
    for layout in (strided, turned):
        assert not layout["x"].is_contiguous() or not case.shape
        for a, b in zip(operation(manifold, layout), wanted, strict=True):
            assert_close(a, b, case.float64_error * EPS)


@each_operation()
def test_an_empty_batch_gives_an_empty_result(case: Case, operation: Operation) -> None:
    manifold, inputs = case.manifold(), case.inputs(4)
    wanted = operation(manifold, inputs)
    for a, b in zip(operation(manifold, {name: t[:0] for name, t in inputs.items()}), wanted, strict=True):
        assert a.shape == (0, *b.shape[1:])


@each_operation()
def test_inputs_are_left_as_they_were(case: Case, operation: Operation) -> None:
    manifold, inputs = case.manifold(), case.inputs(4)
    before = {name: t.clone() for name, t in inputs.items()}
    operation(manifold, inputs)
    assert all(torch.equal(before[name], inputs[name]) for name in inputs)


@each_case()
def test_kept_dimensions_broadcast_against_points(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs(4)
    x, y, u = inputs["x"], inputs["y"], inputs["u"]
    ones = (1,) * len(case.shape)
    assert manifold.inner(x, u, keepdim=True).shape == (4, *ones)
    assert manifold.norm(x, u, keepdim=True).shape == (4, *ones)
    if case.has("dist", "dist2"):
        assert manifold.dist(x, y, keepdim=True).shape == (4, *ones)
        assert manifold.dist2(x, y, keepdim=True).shape == (4, *ones)
