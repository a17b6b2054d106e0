"""Measures of two clouds: closed forms, loops, independence of blocks, what is refused."""

import math

import pytest
import torch
import torch.nn.functional as F

from holonomy.models.representation.alignment import alignment, modality_gap, relative_alignment, uniformity


def draw(n: int = 9, d: int = 4, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, d, dtype=torch.float64, generator=rng), dim=1)


def test_alignment_is_zero_for_equal_rows_alone() -> None:
    x, y = draw(), draw(seed=1)
    assert float(alignment(x, x)) == 0.0
    assert float(alignment(x, -x)) == pytest.approx(4.0)
    assert float(alignment(x, y)) == pytest.approx(2.0 - 2.0 * float((x * y).sum(1).mean()))
    assert float(alignment(x, torch.cat([x[:-1], y[-1:]]))) > 0.0


@pytest.mark.parametrize("k", [1, 3, None])
@pytest.mark.parametrize("mode", ["difference", "ratio"])
def test_relative_alignment_by_loop_in_any_blocks(k: int | None, mode: str) -> None:
    x, y = draw(), draw(seed=1)
    values = []
    for i in range(9):
        others = sorted(float((x[i] - y[j]).square().sum()) for j in range(9) if j != i)
        near = others[: k or 8]
        own, other = float((x[i] - y[i]).square().sum()), sum(near) / len(near)
        values.append(own - other if mode == "difference" else own / other)
    for block in (1, 4, 100):
        assert float(relative_alignment(x, y, k, mode, block)) == pytest.approx(sum(values) / 9)


def test_uniformity_in_closed_form_and_in_any_blocks() -> None:
    x = draw()
    assert float(uniformity(x[:1].expand(7, -1))) == pytest.approx(0.0, abs=1e-15)
    n, t = 5, 1.5
    ends = torch.cat([x[:1].expand(n, -1), -x[:1].expand(n, -1)])
    wanted = math.log((n * (n - 1) + n * n * math.exp(-4 * t)) / (n * (2 * n - 1)))
    assert float(uniformity(ends, t)) == pytest.approx(wanted)
    loop = [math.exp(-2 * float((x[i] - x[j]).square().sum())) for i in range(9) for j in range(i)]
    for block in (1, 4, 8, 100):
        assert float(uniformity(x, block=block)) == pytest.approx(math.log(sum(loop) / 36))
    # By the squared distance directly: neither underflows far apart.
    assert float(uniformity(1e3 * x)) < -1e5


def test_pooling_one_modality_twice_is_not_pooling_both() -> None:
    x, y = draw(200), 0.0 * draw(200) + draw(1, seed=3)
    both, twice = uniformity(torch.cat([x, y])), uniformity(torch.cat([x, x]))
    assert float(both) > float(twice) + 0.3


def test_gap_is_the_distance_of_means() -> None:
    x, y = draw(), draw(5, seed=1)
    assert float(modality_gap(x, y)) == pytest.approx(float((x.mean(0) - y.mean(0)).norm()))
    assert float(modality_gap(x[:1], -x[:1])) == pytest.approx(2.0)
    assert float(modality_gap(x, x.flip(0))) == pytest.approx(0.0, abs=1e-15)


def test_half_precision_is_computed_in_single() -> None:
    x, y = (v.to(torch.bfloat16) for v in (draw(), draw(seed=1)))
    for measure in (alignment, relative_alignment, modality_gap, lambda a, _: uniformity(a)):
        torch.testing.assert_close(measure(x, y), measure(x.float(), y.float()))


def test_bad_input_is_refused() -> None:
    x, y = draw(), draw(seed=1)
    for measure in (alignment, relative_alignment):
        with pytest.raises(ValueError, match="as many rows of both"):
            measure(x, y[:3])
        with pytest.raises(TypeError, match="must be floating"):
            measure(x.long(), y.long())
    for k, mode in ((0, "difference"), (9, "difference"), (1, "quotient")):
        with pytest.raises(ValueError, match="wanted k from 1 to 8"):
            relative_alignment(x, y, k, mode)
    with pytest.raises(ValueError, match="N >= 2"):
        uniformity(x[:1])
    with pytest.raises(ValueError, match="'t' must be positive"):
        uniformity(x, 0.0)
    with pytest.raises(ValueError, match="of one width"):
        modality_gap(x, y[:, :2])
