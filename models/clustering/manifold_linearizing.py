"""Manifold linearizing and clustering: one network that groups images without labels and makes their classes linear.

Ding, Tong, Chan, Dai, Ma, Haeffele, *Unsupervised Manifold Linearizing and Clustering*, ICCV 2023 (arXiv:2301.01805).

A backbone has two heads of one form. The feature head gives Z on the sphere of R^d, the cluster head C on the same
sphere, and the membership of points with points is the entropic projection of C C^T onto doubly stochastic matrices.
First the total coding rate spreads the features and keeps two views of a sample together (`initialise`); the cluster
head then starts as a copy of the feature head, and both are trained to maximise R(Z) - R_c(Z, Gamma) (`linearize`).
Labels come of spectral clustering on the membership of all points. `ManifoldLinearizingClustering` does all of it.

The loss is convex in the membership, so that without the entropy every point would end as a cluster of its own: eta
and the number of points per cluster in a batch matter more than anything else.
"""

import copy
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holonomy.manifolds.linalg import numerical_rank
from holonomy.models.clustering.coding_rate import MLCLoss, TotalCodingRateLoss
from holonomy.models.clustering.doubly_stochastic import DoublyStochasticProjection, check_eta, membership
from holonomy.models.clustering.estimator import Estimator
from holonomy.models.clustering.self_expression import check_clusters, spectral_clustering

__all__ = ["MLCNet", "ManifoldLinearizingClustering", "aggregate", "embed", "initialise", "linearize"]

Augment = Callable[[Tensor, torch.Generator], Tensor]
#: Called after every epoch with the network; what it returns goes into the history.
Measure = Callable[["MLCNet"], dict[str, float]]
History = dict[str, list[float]]


class MLCNet(nn.Module):
    """A backbone with a feature head and a cluster head, each affine - ReLU - affine, onto the unit sphere.

    Parameters
    ----------
    backbone : nn.Module
        Gives features (n, feature_dim).
    feature_dim : int
        Number of those.
    d : int
        Dimension of Z and C.
    n_hidden : int
        Width of the heads.
    eta : float, default 0.175
        Temperature of the membership.
    abs_kernel : bool, default False
        Project |C C^T| instead of C C^T.
    implicit : bool, default False
        Gradients of the projection by the implicit function theorem.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        d: int,
        n_hidden: int,
        eta: float = 0.175,
        abs_kernel: bool = False,
        implicit: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("feature_dim", feature_dim), ("d", d), ("n_hidden", n_hidden)):
            if value < 1:
                raise ValueError(f"MLCNet: {name!r} must be at least 1, got {value}")
        self.backbone = backbone
        self.feature_head, self.cluster_head = (
            nn.Sequential(nn.Linear(feature_dim, n_hidden), nn.ReLU(), nn.Linear(n_hidden, d)) for _ in range(2)
        )
        self.projection = DoublyStochasticProjection(eta, implicit=implicit)
        self.abs_kernel = abs_kernel

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features Z and cluster features C of inputs, each (n, d) with rows of length 1."""
        features = self.backbone(x)
        return F.normalize(self.feature_head(features), dim=-1), F.normalize(self.cluster_head(features), dim=-1)

    def copy_feature_head_to_cluster_head(self) -> None:
        """Set the cluster head's parameters to the feature head's; later training moves them apart."""
        self.cluster_head.load_state_dict(self.feature_head.state_dict())

    def project(self, c: Tensor) -> Tensor:
        """Membership (n, n) of cluster features (n, d)."""
        cosines = c @ c.mT
        return self.projection(cosines.abs() if self.abs_kernel else cosines)

    def membership(self, x: Tensor) -> Tensor:
        """Membership (n, n) of a batch of inputs, doubly stochastic and symmetric."""
        return self.project(self(x)[1])


def aggregate(z: list[Tensor], gamma: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Put views together: the mean of Z back on the sphere, and the mean of Gamma, which is doubly stochastic still."""
    return F.normalize(torch.stack(z).mean(0), dim=-1), torch.stack(gamma).mean(0)


def _batches(n: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Index of one epoch in a fresh order. Batches are as equal as can be: a small last one would have no clusters."""
    return list(torch.randperm(n, generator=generator).tensor_split(max(1, round(n / batch_size))))


def _check(where: str, x: Tensor, epochs: int, batch_size: int, n_augment: int) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"{where}: 'x' must be a floating tensor, got {getattr(x, 'dtype', type(x).__name__)}")
    if len(x) < 2 or not bool(x.isfinite().all()):
        raise ValueError(f"{where}: 'x' must be two samples at least, of finite values, got shape {tuple(x.shape)}")
    if epochs < 0 or batch_size < 2 or n_augment < 1:
        raise ValueError(
            f"{where}: 'epochs' must be at least 0, 'batch_size' 2 and 'n_augment' 1, got {epochs}, {batch_size} and "
            f"{n_augment}"
        )


def initialise(
    net: MLCNet,
    x: Tensor,
    *,
    augment: Augment,
    loss: TotalCodingRateLoss,
    epochs: int,
    batch_size: int,
    lr: float,
    generator: torch.Generator,
) -> History:
    """First stage: train backbone and feature head by the total coding rate of two views of each sample.

    Parameters
    ----------
    net : MLCNet
        Trained in place.
    x : Tensor
        Samples (n, ...).
    augment : callable
        ``augment(x, generator)`` gives a random view of each sample.
    loss : TotalCodingRateLoss
        What is minimised, by Adam.
    epochs, batch_size, lr
        Passes, samples a batch, learning rate.
    generator : torch.Generator
        Orders and views.

    Returns
    -------
    dict of list of float
        ``loss``, its mean in each epoch.

    Raises
    ------
    TypeError, ValueError
        Where `x` is not floating, or a number is out of its range.
    """
    _check("initialise", x, epochs, batch_size, 2)
    optimizer = torch.optim.Adam([*net.backbone.parameters(), *net.feature_head.parameters()], lr=lr)
    history: History = {"loss": []}
    net.train()
    for _ in range(epochs):
        values = []
        for index in _batches(len(x), batch_size, generator):
            views = torch.cat([augment(x[index], generator) for _ in range(2)])
            z = F.normalize(net.feature_head(net.backbone(views)), dim=-1)
            value = loss(*z.chunk(2))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            values.append(float(value.detach()))
        history["loss"].append(float(np.mean(values)))
    return history


def linearize(
    net: MLCNet,
    x: Tensor,
    *,
    augment: Augment,
    loss: MLCLoss,
    epochs: int,
    batch_size: int,
    lr: float,
    generator: torch.Generator,
    n_augment: int = 2,
    measure: Measure | None = None,
) -> History:
    """Second stage: train backbone and both heads to maximise R(Z) - R_c(Z, Gamma) over views of each sample.

    Parameters
    ----------
    net : MLCNet
        Trained in place; its cluster head is taken as it is (`MLCNet.copy_feature_head_to_cluster_head` first).
    x, augment, epochs, batch_size, lr, generator
        As for `initialise`.
    loss : MLCLoss
        What is minimised, by Adam.
    n_augment : int, default 2
        Views of each sample.
    measure : callable, optional
        ``measure(net)`` gives numbers by name, kept after every epoch.

    Returns
    -------
    dict of list of float
        By epoch, means over its batches: ``R``, ``R_c``, ``objective``, and the gradient norms ``feature gradient`` and
        ``cluster gradient`` of the heads (a cluster gradient of 0 means that the membership is not learned); and what
        `measure` gave.

    Raises
    ------
    TypeError, ValueError
        Where `x` is not floating, or a number is out of its range.
    """
    _check("linearize", x, epochs, batch_size, n_augment)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    history: History = {}
    net.train()
    for _ in range(epochs):
        sums: dict[str, list[float]] = {}
        for index in _batches(len(x), batch_size, generator):
            views = torch.cat([augment(x[index], generator) for _ in range(n_augment)])
            z, c = (part.chunk(n_augment) for part in net(views))
            joint, gamma = aggregate(list(z), [net.project(part) for part in c])
            value, parts = loss(joint, gamma)
            optimizer.zero_grad()
            value.backward()
            parts["objective"] = parts["R"] - parts["R_c"]
            parts["feature gradient"] = _gradient_norm(net.feature_head)
            parts["cluster gradient"] = _gradient_norm(net.cluster_head)
            optimizer.step()
            for name, part in parts.items():
                sums.setdefault(name, []).append(float(part))
        measured = {name: float(np.mean(values)) for name, values in sums.items()} | (measure(net) if measure else {})
        for name, number in measured.items():
            history.setdefault(name, []).append(number)
        net.train()
    return history


def _gradient_norm(module: nn.Module) -> Tensor:
    norms = [p.grad.norm() for p in module.parameters() if p.grad is not None]
    return torch.stack(norms).norm() if norms else torch.zeros(())


@torch.no_grad()
def embed(net: MLCNet, x: Tensor, batch_size: int = 1000) -> tuple[Tensor, Tensor]:
    """Z and C (n, d) of samples as they are, in eval mode, by batches."""
    was = net.training
    net.eval()
    try:
        parts = [net(part) for part in x.split(batch_size)]
    finally:
        net.train(was)
    return torch.cat([z for z, _ in parts]), torch.cat([c for _, c in parts])


class ManifoldLinearizingClustering(Estimator):
    """Clusters and a linear embedding of samples near curved manifolds, in scikit-learn's manner.

    Parameters are checked by `fit`, and read and set by `get_params` and `set_params`. scikit-learn must be installed.

    Parameters
    ----------
    n_clusters : int
        Number of clusters.
    backbone : nn.Module
        Gives features (n, m) of samples; a copy of it is trained.
    d : int, default 128
        Dimension of the embedding.
    eps : float, default 0.5 ** 0.5
        Precision of the coding rates.
    eta : float, default 0.175
        Temperature of the membership.
    augment : callable
        ``augment(x, generator)`` gives a random view of each sample.
    n_augment : int, default 2
        Views of each sample in the second stage.
    init_epochs, epochs : int, default 100, 50
        Passes of the two stages.
    batch_size : int, default 600
        Samples a batch of the second stage: fifty a cluster at least.
    lr : float, default 3e-4
        Learning rate of the second stage.
    random_state : int, default 0
        Seed of parameters, orders, views and spectral clustering.
    init_batch_size, init_lr : int, float, default 200, 1e-3
        Of the first stage.
    weight : float, default 20
        Of the agreement of views in the first stage.
    n_hidden : int, default 128
        Width of the heads.
    cluster_head : {"copy", "random"}, default "copy"
        How the cluster head starts.
    abs_kernel, implicit, gamma_l2
        As for `MLCNet` and `MLCLoss`.
    device : str or torch.device, default "cpu"
        Where to compute.

    Attributes
    ----------
    labels_ : ndarray
        Clusters (n,), int64.
    embedding_ : Tensor
        Z (n, d) of the samples.
    membership_ : Tensor
        Gamma (n, n) of all samples, float32.
    history_ : dict of list of float
        ``R``, ``R_c``, ``objective``, gradient norms and ``rank`` of Z by epoch of the second stage; ``initial loss``
        of the first.
    net_ : MLCNet
        The trained network.
    """

    def __init__(
        self,
        n_clusters: int,
        backbone: nn.Module,
        d: int = 128,
        eps: float = 0.5**0.5,
        eta: float = 0.175,
        augment: Augment | None = None,
        n_augment: int = 2,
        init_epochs: int = 100,
        epochs: int = 50,
        batch_size: int = 600,
        lr: float = 3e-4,
        random_state: int = 0,
        init_batch_size: int = 200,
        init_lr: float = 1e-3,
        weight: float = 20.0,
        n_hidden: int = 128,
        cluster_head: Literal["copy", "random"] = "copy",
        abs_kernel: bool = False,
        implicit: bool = False,
        gamma_l2: float = 0.0,
        device: str | torch.device = "cpu",
    ) -> None:
        self.n_clusters = n_clusters
        self.backbone = backbone
        self.d = d
        self.eps = eps
        self.eta = eta
        self.augment = augment
        self.n_augment = n_augment
        self.init_epochs = init_epochs
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.random_state = random_state
        self.init_batch_size = init_batch_size
        self.init_lr = init_lr
        self.weight = weight
        self.n_hidden = n_hidden
        self.cluster_head = cluster_head
        self.abs_kernel = abs_kernel
        self.implicit = implicit
        self.gamma_l2 = gamma_l2
        self.device = device

    def fit(self, x: Any, y: Any = None) -> "ManifoldLinearizingClustering":
        """Train on samples and group them.

        Parameters
        ----------
        x : Tensor or ndarray
            Samples (n, ...), floating; computed in float32.
        y : ignored
            For scikit-learn's sake.

        Raises
        ------
        TypeError
            Where `x` is not floating, or `augment` is not given.
        ValueError
            Where `x` is not finite or has fewer than two samples, or a parameter is out of its range.
        """
        samples = self._samples(x)
        self._check_parameters(len(samples))
        outside = torch.random.get_rng_state()
        generator = torch.Generator().manual_seed(self.random_state)
        try:
            torch.manual_seed(self.random_state)
            net = self._network(samples).to(self.device)
        finally:
            torch.random.set_rng_state(outside)
        augment: Any = self.augment
        common: dict[str, Any] = {"augment": augment, "generator": generator}
        first = initialise(
            net,
            samples,
            loss=TotalCodingRateLoss(self.eps, self.weight),
            epochs=self.init_epochs,
            batch_size=self.init_batch_size,
            lr=self.init_lr,
            **common,
        )
        if self.cluster_head == "copy":
            net.copy_feature_head_to_cluster_head()
        history = linearize(
            net,
            samples,
            loss=MLCLoss(self.eps, self.gamma_l2),
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            n_augment=self.n_augment,
            measure=lambda net: {"rank": float(numerical_rank(embed(net, samples)[0]))},
            **common,
        )
        self.net_ = net.eval()
        self.history_ = {"initial loss": first["loss"], **history}
        self.embedding_, c = embed(net, samples)
        self.membership_ = membership(c, self.eta, abs_kernel=self.abs_kernel)
        self.labels_ = spectral_clustering(self.membership_, self.n_clusters, self.random_state)
        return self

    def fit_predict(self, x: Any, y: Any = None) -> np.ndarray:
        """Train on samples and return their clusters (n,)."""
        return self.fit(x).labels_

    def transform(self, x: Any) -> Tensor:
        """Embedding Z (n, d) of samples, unit rows.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        """
        self.check_fitted("net_")
        return embed(self.net_, self._samples(x))[0]

    def _samples(self, x: Any) -> Tensor:
        samples = x if isinstance(x, Tensor) else torch.from_numpy(np.asarray(x))
        _check("ManifoldLinearizingClustering", samples, 0, 2, 1)
        return samples.to(self.device, torch.float32)

    def _check_parameters(self, n: int) -> None:
        where = "ManifoldLinearizingClustering"
        check_clusters(where, self.n_clusters, n)
        check_eta(where, self.eta)
        if not callable(self.augment):
            raise TypeError(f"{where}: 'augment' must be a callable of samples and a generator, got {self.augment!r}")
        if self.cluster_head not in ("copy", "random"):
            raise ValueError(f"{where}: 'cluster_head' must be 'copy' or 'random', got {self.cluster_head!r}")
        for name, least in (("epochs", 0), ("init_epochs", 0), ("batch_size", 2), ("init_batch_size", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{where}: {name!r} must be at least {least}, got {getattr(self, name)}")
        MLCLoss(self.eps, self.gamma_l2)  # both refuse what is out of range, before any work
        TotalCodingRateLoss(self.eps, self.weight)

    def _network(self, samples: Tensor) -> MLCNet:
        backbone = copy.deepcopy(self.backbone).to(self.device)
        backbone.eval()
        with torch.no_grad():
            features = backbone(samples[:2])
        if features.ndim != 2:
            raise ValueError(
                "ManifoldLinearizingClustering: 'backbone' must give features (n, m), got shape "
                f"{tuple(features.shape)} of two samples"
            )
        return MLCNet(backbone, features.shape[1], self.d, self.n_hidden, self.eta, self.abs_kernel, self.implicit)
