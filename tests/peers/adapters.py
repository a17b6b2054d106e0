"""Our manifolds behind the interfaces of pymanopt and of geomstats, for the checks that these ship."""

from typing import Any

import numpy as np
import torch
from pymanopt.manifolds.manifold import RiemannianSubmanifold
from torch import Tensor

from holonomy.manifolds import Manifold


def _in(x: Any) -> Tensor:
    return torch.as_tensor(np.asarray(x, dtype=np.float64))


class Pymanopt(RiemannianSubmanifold):
    """A manifold as pymanopt's optimizers and diagnostics see it: one point at a time, numpy arrays."""

    def __init__(self, manifold: Manifold, shape: tuple[int, ...]) -> None:
        super().__init__(repr(manifold), manifold.dimension(*shape))
        self.ours, self.shape = manifold, shape
        self.generator = torch.Generator().manual_seed(0)

    def _call(self, name: str, *arguments: Any) -> Any:
        return getattr(self.ours, name)(*map(_in, arguments)).numpy()

    def inner_product(self, point: Any, tangent_vector_a: Any, tangent_vector_b: Any) -> float:
        return float(self._call("inner", point, tangent_vector_a, tangent_vector_b))

    def norm(self, point: Any, tangent_vector: Any) -> float:
        return float(self._call("norm", point, tangent_vector))

    def dist(self, point_a: Any, point_b: Any) -> float:
        return float(self._call("dist", point_a, point_b))

    def projection(self, point: Any, vector: Any) -> Any:
        return self._call("proju", point, vector)

    to_tangent_space = projection

    def exp(self, point: Any, tangent_vector: Any) -> Any:
        return self._call("expmap", point, tangent_vector)

    def retraction(self, point: Any, tangent_vector: Any) -> Any:
        return self._call("retr", point, tangent_vector)

    def euclidean_to_riemannian_gradient(self, point: Any, euclidean_gradient: Any) -> Any:
        return self._call("egrad2rgrad", point, euclidean_gradient)

    def euclidean_to_riemannian_hessian(
        self, point: Any, euclidean_gradient: Any, euclidean_hessian: Any, tangent_vector: Any
    ) -> Any:
        return self._call("ehess2rhess", point, euclidean_gradient, euclidean_hessian, tangent_vector)

    def random_point(self) -> Any:
        return self.ours.random(*self.shape, dtype=torch.float64, generator=self.generator).numpy()

    def random_tangent_vector(self, point: Any) -> Any:
        u = self.ours.random_tangent(_in(point), generator=self.generator)
        return (u / self.ours.norm(_in(point), u, keepdim=True)).numpy()

    def zero_vector(self, point: Any) -> Any:
        return np.zeros(self.shape)


class GeomstatsMetric:
    """The metric of a manifold by geomstats' names."""

    def __init__(self, manifold: Manifold) -> None:
        self.ours = manifold

    def inner_product(self, tangent_vec_a: Any, tangent_vec_b: Any, base_point: Any) -> Any:
        return self.ours.inner(*map(_in, (base_point, tangent_vec_a, tangent_vec_b))).numpy()

    def norm(self, vector: Any, base_point: Any) -> Any:
        return self.ours.norm(_in(base_point), _in(vector)).numpy()

    def squared_norm(self, vector: Any, base_point: Any) -> Any:
        return self.norm(vector, base_point) ** 2

    def normalize(self, vector: Any, base_point: Any) -> Any:
        length = self.ours.norm(_in(base_point), _in(vector), keepdim=True)
        return (_in(vector) / length).numpy()

    def exp(self, tangent_vec: Any, base_point: Any) -> Any:
        return self.ours.expmap(_in(base_point), _in(tangent_vec)).numpy()

    def log(self, point: Any, base_point: Any) -> Any:
        return self.ours.logmap(_in(base_point), _in(point)).numpy()

    def dist(self, point_a: Any, point_b: Any) -> Any:
        return self.ours.dist(_in(point_a), _in(point_b)).numpy()

    def squared_dist(self, point_a: Any, point_b: Any) -> Any:
        return self.ours.dist2(_in(point_a), _in(point_b)).numpy()

    def parallel_transport(
        self, tangent_vec: Any, base_point: Any, direction: Any = None, end_point: Any = None
    ) -> Any:
        x, v = _in(base_point), _in(tangent_vec)
        if end_point is None:
            return self.ours.transp_follow_expmap(x, _in(direction), v).numpy()
        return self.ours.transp(x, _in(end_point), v).numpy()


class GeomstatsSpace:
    """A manifold as geomstats' test cases see it: numpy arrays, batches in front."""

    intrinsic = False

    def __init__(self, manifold: Manifold, shape: tuple[int, ...]) -> None:
        self.ours, self.shape = manifold, shape
        self.dim, self.point_ndim = manifold.dimension(*shape), len(shape)
        self.metric = GeomstatsMetric(manifold)
        self.generator = torch.Generator().manual_seed(0)

    def _size(self, n_points: int) -> tuple[int, ...]:
        return self.shape if n_points == 1 else (n_points, *self.shape)

    def random_point(self, n_points: int = 1) -> Any:
        return self.ours.random(*self._size(n_points), dtype=torch.float64, generator=self.generator).numpy()

    def random_tangent_vec(self, base_point: Any, n_points: int = 1) -> Any:
        x = _in(base_point)
        u = self.ours.random_tangent(x, generator=self.generator)
        # Within the injectivity radius, as the properties of the logarithm suppose.
        return (u / self.ours.norm(x, u, keepdim=True)).numpy()

    def to_tangent(self, vector: Any, base_point: Any) -> Any:
        return self.ours.proju(_in(base_point), _in(vector)).numpy()

    def _each(self, check: Any, *arrays: Any) -> Any:
        tensors = [_in(a) for a in arrays]
        if tensors[0].ndim == self.point_ndim:
            return np.asarray(check(*tensors))
        return np.asarray([check(*row) for row in zip(*tensors, strict=True)])

    def belongs(self, point: Any, atol: float = 1e-12) -> Any:
        if np.shape(point)[np.ndim(point) - self.point_ndim :] != self.shape:
            return np.zeros(np.shape(point)[: np.ndim(point) - self.point_ndim], dtype=bool)
        return self._each(lambda x: self.ours.check_point_on_manifold(x, atol=atol), point)

    def is_tangent(self, vector: Any, base_point: Any, atol: float = 1e-12) -> Any:
        return self._each(lambda x, u: self.ours.check_vector_on_tangent(x, u, atol=atol), base_point, vector)
