r"""Stationary representations: features that stay comparable when the model is replaced.

Biondi, Pernici, Ricci, Del Bimbo, *Stationary Representations: Optimally Approximating Compatibility and Implications
for Improved Model Replacements*, CVPR 2024 (arXiv:2405.02581).

The weights of the last layer are the K vertices of a regular simplex on the sphere of R^(K-1), fixed, without bias,
with more vertices than there will ever be classes. Training brings the features of a class to its vertex, so that all
models with the same K and the same classes at the same vertices share one interface. In sequential fine-tuning a
contrastive loss between features of the old and of the new model keeps more than their means (`HOCLoss`).
"""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holonomy.models.representation.retrieval import nearest_cosine

__all__ = [
    "CompatibleTrainer",
    "FixedSimplexClassifier",
    "HOCLoss",
    "average_accuracy",
    "average_compatibility",
    "compatibility_matrix",
    "compatibility_violations",
    "simplex_vertices",
]


def simplex_vertices(
    num_classes: int, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Vertices of a regular simplex as rows of length 1, with cosines -1/(K - 1) between any two.

    Computed in float64 and cast: of a thousand vertices cosines in half precision would be rounding.

    Parameters
    ----------
    num_classes : int
        Number K of vertices, at least 2.
    dtype, device
        Of the result.

    Returns
    -------
    Tensor
        (K, K - 1).

    Raises
    ------
    ValueError
        If K is below 2.
    """
    k = num_classes
    if k < 2:
        raise ValueError(f"simplex_vertices: 'num_classes' must be at least 2, got {k}")
    last = torch.full((1, k - 1), (1.0 - math.sqrt(k)) / (k - 1), dtype=torch.float64)
    rows = torch.cat([torch.eye(k - 1, dtype=torch.float64), last])
    unit = F.normalize(rows - rows.mean(0), dim=1)
    return unit.to(device, dtype or torch.get_default_dtype())


class FixedSimplexClassifier(nn.Module):
    """A last layer whose weights are a simplex's vertices and never change.

    Parameters
    ----------
    num_preallocated : int
        Number K of vertices, more than there will ever be classes: to grow it later would be another simplex.
    in_features : int, optional
        Width of the inputs; where it is not K - 1, and only there, a linear map without bias comes first. K - 1 when
        left out.
    class_map : sequence of int, optional
        Vertex of class 0, 1, ...; class i has vertex i when left out. Models share an interface where it is the same.

    Attributes
    ----------
    weight : Tensor
        Buffer (K, K - 1).

    Raises
    ------
    ValueError
        If K is below 2, or vertices are repeated or out of range.
    """

    weight: Tensor
    class_map: Tensor

    def __init__(
        self, num_preallocated: int, in_features: int | None = None, class_map: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("weight", simplex_vertices(num_preallocated))
        places = list(range(num_preallocated) if class_map is None else class_map)
        if len(places) > num_preallocated:
            raise ValueError(
                f"FixedSimplexClassifier: {len(places)} classes are more than the {num_preallocated} vertices set "
                "aside; a larger simplex is not compatible with features of this one"
            )
        if len(set(places)) != len(places) or any(not 0 <= p < num_preallocated for p in places):
            raise ValueError(
                f"FixedSimplexClassifier: 'class_map' must be different vertices below {num_preallocated}, got {places}"
            )
        self.register_buffer("class_map", torch.tensor(places))
        width = num_preallocated - 1
        same = in_features is None or in_features == width
        self.embed: nn.Module = nn.Identity() if same else nn.Linear(in_features or width, width, bias=False)

    def assign(self, labels: Tensor) -> Tensor:
        """Vertices of classes: the targets of cross-entropy.

        Raises
        ------
        TypeError
            Where labels are not integers.
        ValueError
            Where a label is negative or has no vertex.
        """
        if labels.is_floating_point():
            raise TypeError(f"FixedSimplexClassifier: labels must be integers, got {labels.dtype}")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.class_map):
            raise ValueError(
                f"FixedSimplexClassifier: labels must be from 0 to {len(self.class_map) - 1}, got "
                f"{int(labels.min())} to {int(labels.max())}"
            )
        return self.class_map[labels]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``logits`` (B, K) over all vertices, of ``features`` (B, K - 1) as they are: not normalised."""
        z = self.embed(x)
        return {"logits": z @ self.weight.mT.to(z.dtype), "features": z}


class HOCLoss(nn.Module):
    """Cross-entropy and a contrastive loss between old and new features, lambda and 1 - lambda of them (section 4).

    With cosines times mu, s_nm, of old features n and new ones m the second is the mean of
    -s_nn + log sum_m exp(s_nm [y_n != y_m]).

    Parameters
    ----------
    mu : float, default 10
        Scale of cosines, positive.
    lam : float, default 0.1
        Share of cross-entropy, from 0 to 1.
    same_class : {"zero", "exclude"}, default "zero"
        What the sum has for pairs of one class: exp(0) = 1, the pair n, n too, as the authors' code has it, or nothing
        but the pair n, n itself, which is InfoNCE.

    Raises
    ------
    ValueError
        If a number or `same_class` is out of its range.
    """

    def __init__(self, mu: float = 10.0, lam: float = 0.1, same_class: Literal["zero", "exclude"] = "zero") -> None:
        super().__init__()
        if not 0.0 < mu < math.inf or not 0.0 <= lam <= 1.0:
            raise ValueError(f"HOCLoss: wanted mu > 0 and lam from 0 to 1, got {mu} and {lam}")
        if same_class not in ("zero", "exclude"):
            raise ValueError(f"HOCLoss: 'same_class' must be 'zero' or 'exclude', got {same_class!r}")
        self.mu, self.lam, self.same_class = mu, lam, same_class

    def forward(self, logits: Tensor, feat_new: Tensor, feat_old: Tensor, y: Tensor) -> Tensor:
        """Loss of a batch, a scalar.

        Parameters
        ----------
        logits : Tensor
            (B, K) of the new model.
        feat_new, feat_old : Tensor
            Features (B, d); no gradient goes to the old.
        y : Tensor
            Targets of the logits (B,): vertices, as `FixedSimplexClassifier.assign` gives them.

        Raises
        ------
        TypeError
            Where targets are not integers.
        ValueError
            Where shapes differ.
        """
        if y.shape != logits.shape[:1]:
            raise ValueError(f"HOCLoss: wanted a target for each of {len(logits)} logits, got {tuple(y.shape)}")
        contrastive = self.contrastive(feat_new, feat_old, y)
        return self.lam * F.cross_entropy(logits, y) + (1.0 - self.lam) * contrastive

    def contrastive(self, feat_new: Tensor, feat_old: Tensor, y: Tensor) -> Tensor:
        """The contrastive part alone. Parameters and errors as of the whole."""
        if y.is_floating_point():
            raise TypeError(f"HOCLoss: targets must be integers, got {y.dtype}")
        if feat_new.shape != feat_old.shape or feat_new.ndim != 2 or y.shape != feat_new.shape[:1]:
            raise ValueError(
                "HOCLoss: wanted new and old features (B, d) and targets (B,), got "
                f"{tuple(feat_new.shape)}, {tuple(feat_old.shape)} and {tuple(y.shape)}"
            )
        s = self.mu * F.normalize(feat_old.detach(), dim=1) @ F.normalize(feat_new, dim=1).mT
        same = y.unsqueeze(1) == y
        if self.same_class == "zero":
            summed = s.masked_fill(same, 0.0)
        else:
            own = torch.eye(len(y), dtype=torch.bool, device=y.device)
            summed = s.masked_fill(same & ~own, -math.inf)
        return (summed.logsumexp(1) - s.diagonal()).mean()

    def extra_repr(self) -> str:
        """Scale, share and what pairs of one class count."""
        return f"mu={self.mu:g}, lam={self.lam:g}, same_class={self.same_class!r}"


def _features(model: Any, x: Tensor) -> Tensor:
    found = model(x)
    return found["features"] if isinstance(found, dict) else found


@torch.no_grad()
def compatibility_matrix(
    models: Sequence[Any],
    query: tuple[Tensor, Tensor],
    gallery: tuple[Tensor, Tensor],
    metric: Literal["template", "1nn"] = "template",
) -> np.ndarray:
    """Accuracy of queries by model i in galleries by model j, over all classes, those that a model never saw too.

    Parameters
    ----------
    models : sequence of callable
        Give features (n, d), or a dictionary that has them, of inputs.
    query, gallery : tuple of Tensor
        Inputs and their classes.
    metric : {"template", "1nn"}
        Nearest by cosine of the classes' templates, means of unit features brought to length 1, or of all samples.

    Returns
    -------
    ndarray
        (T, T); entries above the diagonal are of old queries in new galleries.

    Raises
    ------
    ValueError
        If there are no models, or `metric` is unknown.
    """
    if not models or metric not in ("template", "1nn"):
        raise ValueError(f"compatibility_matrix: wanted models and metric 'template' or '1nn', got {metric!r}")
    asked = [F.normalize(_features(model, query[0]), dim=1) for model in models]
    stored = [F.normalize(_features(model, gallery[0]), dim=1) for model in models]
    labels = gallery[1]
    if metric == "template":
        labels = gallery[1].unique()
        stored = [torch.stack([z[gallery[1] == c].mean(0) for c in labels]) for z in stored]
    result = np.zeros((len(models), len(models)))
    for i, q in enumerate(asked):
        for j, g in enumerate(stored):
            found = labels[nearest_cosine(q, g, 1).squeeze(1)]
            result[i, j] = float((found == query[1]).double().mean())
    return result


def _square(where: str, matrix: Any) -> np.ndarray:
    found = np.asarray(matrix, dtype=float)
    if found.ndim != 2 or found.shape[0] != found.shape[1] or len(found) < 1 or not np.isfinite(found).all():
        raise ValueError(f"{where}: 'matrix' must be square and finite, got shape {found.shape}")
    return found


def average_compatibility(matrix: Any) -> float:
    """Share of pairs i > j in which new queries are strictly better than old ones in the old gallery, M_ij > M_jj.

    Of one model there is no pair; the share is 1 by convention.

    Raises
    ------
    ValueError
        Where the matrix is not square or not finite.
    """
    m = _square("average_compatibility", matrix)
    if len(m) == 1:
        return 1.0
    i, j = np.tril_indices(len(m), -1)
    return float((m[i, j] > m[j, j]).mean())


def average_accuracy(matrix: Any) -> float:
    """Mean of the lower triangle, the diagonal included, as a share: 1 at best.

    Raises
    ------
    ValueError
        Where the matrix is not square or not finite.
    """
    m = _square("average_accuracy", matrix)
    return float(m[np.tril_indices(len(m))].mean())


@torch.no_grad()
def compatibility_violations(f_new: Tensor, f_old: Tensor, y: Tensor) -> tuple[float, float]:
    """Shares of pairs that break the definition of compatibility, by cosine distance.

    Parameters
    ----------
    f_new, f_old : Tensor
        Features (n, d) of the same samples by both models.
    y : Tensor
        Classes (n,).

    Returns
    -------
    tuple of float
        Of pairs i, j of one class (i != j) with d(new_i, old_j) > d(old_i, old_j), and of pairs of two classes with
        d(new_i, old_j) < d(old_i, old_j); 0 where there are no such pairs.

    Raises
    ------
    ValueError
        Where shapes differ.
    """
    if f_new.shape != f_old.shape or f_new.ndim != 2 or y.shape != f_new.shape[:1]:
        raise ValueError(
            "compatibility_violations: wanted two of features (n, d) and classes (n,), got "
            f"{tuple(f_new.shape)}, {tuple(f_old.shape)} and {tuple(y.shape)}"
        )
    new, old = (F.normalize(f, dim=1) for f in (f_new, f_old))
    further = new @ old.mT - old @ old.mT  # negative where the new model is further away
    same = y.unsqueeze(1) == y
    same_pairs = same & ~torch.eye(len(y), dtype=torch.bool, device=y.device)
    shares = [
        float((bad & pairs).sum()) / max(int(pairs.sum()), 1)
        for bad, pairs in ((further < 0, same_pairs), (further > 0, ~same))
    ]
    return shares[0], shares[1]


class CompatibleTrainer:
    """Trains a model task after task, with a memory of samples, against a frozen copy of what it was.

    Parameters
    ----------
    model : nn.Module
        Gives ``logits`` and ``features`` of inputs: ``nn.Sequential(backbone, FixedSimplexClassifier(K))``, say.
    head : FixedSimplexClassifier or None
        The part of it that assigns vertices to classes; None takes classes as targets.
    loss : callable or None
        Of logits, new features, old features and targets, from the second task on: `HOCLoss`. None leaves
        cross-entropy alone.
    memory_per_class : int, default 20
        Samples of each class that are kept.
    batch_size : int, default 128
        Half of it new, half from the memory, from the second task on.
    lr, momentum, weight_decay : float
        Of SGD; the decay does not act on one-dimensional parameters. The rate falls along a cosine in every task.
    seed : int, default 0
        Of orders and of the memory.

    Attributes
    ----------
    previous : nn.Module or None
        The frozen copy, in eval mode, without gradients.
    memory : tuple of Tensor
        Inputs and classes that are kept.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """

    def __init__(
        self,
        model: nn.Module,
        head: FixedSimplexClassifier | None,
        loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None,
        memory_per_class: int = 20,
        batch_size: int = 128,
        lr: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        seed: int = 0,
    ) -> None:
        if memory_per_class < 1 or batch_size < 2 or not lr > 0:
            raise ValueError(
                "CompatibleTrainer: wanted memory_per_class >= 1, batch_size >= 2 and lr > 0, got "
                f"{memory_per_class}, {batch_size} and {lr}"
            )
        self.model, self.head, self.loss = model, head, loss
        self.memory_per_class, self.batch_size = memory_per_class, batch_size
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.generator = torch.Generator().manual_seed(seed)
        self.previous: nn.Module | None = None
        self.memory: tuple[Tensor, Tensor] | None = None

    def fit_task(self, x: Tensor, y: Tensor, epochs: int) -> list[float]:
        """Train on a task's samples, keep some of each of its classes, and freeze a copy.

        Parameters
        ----------
        x, y : Tensor
            Inputs (n, ...) and classes (n,).
        epochs : int
            Passes over them.

        Returns
        -------
        list of float
            Mean loss of every epoch.
        """
        trained = [p for p in self.model.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.SGD([group for group in groups if group["params"]], self.lr, self.momentum)
        fresh = self.batch_size if self.memory is None else self.batch_size // 2
        total = epochs * math.ceil(len(x) / fresh)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total, eta_min=0.01 * self.lr)
        self.model.train()
        history = []
        for _ in range(epochs):
            values = []
            for index in torch.randperm(len(x), generator=self.generator).split(fresh):
                loss = self._loss(*self._with_memory(x[index], y[index]))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                values.append(float(loss.detach()))
            history.append(float(np.mean(values)))
        self._remember(x, y)
        self._freeze()
        return history

    def replace_model(self, state: dict[str, Any]) -> None:
        """Take over the parameters of a better model that was trained elsewhere; what was stored is not touched.

        Raises
        ------
        RuntimeError
            Where the parameters do not fit.
        ValueError
            Where its simplex or its classes' vertices are others, and its features would not be comparable.
        """
        own = self.model.state_dict()
        for name, module in self.model.named_modules():
            if isinstance(module, FixedSimplexClassifier):
                for key in (f"{name}.weight".lstrip("."), f"{name}.class_map".lstrip(".")):
                    given = state.get(key)
                    if given is None or given.shape != own[key].shape or not torch.equal(given.to(own[key]), own[key]):
                        raise ValueError(f"replace_model: {key!r} differs, so that features would not be comparable")
        self.model.load_state_dict(state)
        self._freeze()

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        found = self.model(x)
        target = y if self.head is None else self.head.assign(y)
        if self.loss is None or self.previous is None:
            return F.cross_entropy(found["logits"], target)
        with torch.no_grad():
            old = self.previous(x)["features"]
        return self.loss(found["logits"], found["features"], old, target)

    def _with_memory(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if self.memory is None:
            return x, y
        kept, labels = self.memory
        index = torch.randint(len(kept), (self.batch_size - self.batch_size // 2,), generator=self.generator)
        return torch.cat([x, kept[index]]), torch.cat([y, labels[index]])

    def _remember(self, x: Tensor, y: Tensor) -> None:
        order = torch.randperm(len(y), generator=self.generator)
        rows = torch.cat([order[y[order] == label][: self.memory_per_class] for label in y.unique()])
        parts: Iterable[tuple[Tensor, Tensor]] = [(x[rows], y[rows])]
        if self.memory is not None:
            parts = [self.memory, *parts]
        self.memory = (torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts]))

    def _freeze(self) -> None:
        self.previous = copy.deepcopy(self.model).eval().requires_grad_(requires_grad=False)
