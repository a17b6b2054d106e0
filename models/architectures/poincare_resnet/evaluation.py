"""What classifiers are asked beyond accuracy: adversarial examples, out-of-distribution scores, class activation maps.

Nothing here is particular to hyperbolic networks; any module from images to logits will do.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["energy_score", "fgsm", "grad_cam", "max_softmax_score", "ood_metrics", "origin_distance_score", "pgd"]


def _input_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(model(x), y), x)[0]


def fgsm(
    model: nn.Module, x: Tensor, y: Tensor, epsilon: float, *, bounds: tuple[float, float] = (-1.0, 1.0)
) -> Tensor:
    """Fast gradient sign: images x + epsilon sign(dloss/dx), within `bounds`, that raise the loss of the labels `y`.

    `epsilon` is in the units of `x`: 8/255 of the pixel range is 16/255 where images are normalised to [-1, 1].
    """
    return (x + epsilon * _input_gradient(model, x, y).sign()).clamp(*bounds).detach()


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    epsilon: float,
    *,
    steps: int = 10,
    step_size: float | None = None,
    bounds: tuple[float, float] = (-1.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient ascent on the loss, from a random start in the box of half-width `epsilon` around `x`.

    The step size defaults to 2.5 epsilon / steps. Raises ValueError for fewer than 1 step.
    """
    if steps < 1:
        raise ValueError(f"'steps' must be at least 1, got {steps}")
    step_size = 2.5 * epsilon / steps if step_size is None else step_size
    noise = torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator)
    adversarial = (x + epsilon * (2.0 * noise - 1.0)).clamp(*bounds)
    for _ in range(steps):
        adversarial = adversarial + step_size * _input_gradient(model, adversarial, y).sign()
        adversarial = torch.minimum(torch.maximum(adversarial, x - epsilon), x + epsilon).clamp(*bounds).detach()
    return adversarial


def max_softmax_score(logits: Tensor) -> Tensor:
    """Largest class probability; high for what looks in-distribution."""
    return logits.softmax(-1).amax(-1)


def energy_score(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Negative free energy T logsumexp(logits / T); high for what looks in-distribution."""
    return temperature * torch.logsumexp(logits / temperature, -1)


def origin_distance_score(features: Tensor) -> Tensor:
    """Length of the feature vector: for tangent vectors at the origin, half the hyperbolic distance to it."""
    return torch.linalg.vector_norm(features, dim=-1)


def ood_metrics(inside: Tensor, outside: Tensor) -> dict[str, float]:
    """AUROC, AUPR and FPR95 of a score that is high for in-distribution samples (the positive class).

    Parameters
    ----------
    inside, outside : Tensor
        Scores (N,) of in-distribution and (M,) of other samples.

    Returns
    -------
    dict
        ``auroc``; ``aupr`` (average precision); ``fpr95``, the part of the others that is accepted by the threshold
        that accepts 95 % of the in-distribution samples.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

    scores = torch.cat([inside, outside]).detach().double().cpu().numpy()
    labels = torch.cat([torch.ones(len(inside)), torch.zeros(len(outside))]).numpy()
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    return {
        "auroc": float(roc_auc_score(labels, scores)),
        "aupr": float(average_precision_score(labels, scores)),
        "fpr95": float(false[(true >= 0.95).argmax()]),
    }


def grad_cam(
    model: nn.Module, layer: nn.Module, x: Tensor, target: Tensor | Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Grad-CAM: where in the image the output `layer` of `model` speaks for a class.

    Parameters
    ----------
    model, layer : Module
        A classifier, and one of its submodules that returns feature maps (B, C, H, W) (tangent vectors, for
        hyperbolic layers).
    x : Tensor
        Images (B, channels, H, W).
    target : Tensor or callable, optional
        Class indices (B,), or a function from logits to scores (B,); default: the predicted class.

    Returns
    -------
    Tensor
        Maps (B, H, W) of the images' size, in [0, 1].
    """
    maps: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    try:
        with torch.enable_grad():
            # Images that require gradients keep the feature maps in the graph when the parameters are frozen.
            logits = model(x.detach().requires_grad_())
            if callable(target):
                score = target(logits)
            else:
                score = logits.gather(1, (logits.argmax(1) if target is None else target)[:, None])
            gradient = torch.autograd.grad(score.sum(), maps[-1])[0]
    finally:
        handle.remove()
    weights = gradient.mean((2, 3), keepdim=True)
    cam = F.relu((weights * maps[-1].detach()).sum(1, keepdim=True))
    cam = F.interpolate(cam, x.shape[-2:], mode="bilinear", align_corners=False).squeeze(1)
    peak = cam.amax((1, 2), keepdim=True)
    return cam / torch.where(peak > 0, peak, torch.ones_like(peak))
