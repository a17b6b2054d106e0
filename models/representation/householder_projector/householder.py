r"""Orthonormal columns as products of Householder reflections, H_1 H_2 ... H_k with H_i = I - 2 u_i u_i^T / |u_i|^2.

The product is orthogonal for any vectors that are not zero, so that any optimizer may step them freely. The first k
columns of an orthogonal n x n matrix take k reflections whose i-th vector is zero above entry i and 1 at it: their
n k - k (k + 1) / 2 free entries are as many as the Stiefel manifold has dimensions.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from holonomy.manifolds.linalg import gram_gap, haar

__all__ = [
    "HouseholderOrthogonal",
    "Method",
    "compact_wy",
    "householder_matrix",
    "householder_product",
    "householder_vectors",
]

Method = Literal["wy", "sequential", "torch"]
#: How far columns may be from orthonormal in `householder_vectors`, or sixteen units of rounding where that is more.
TOLERANCE = 1e-4


def householder_matrix(v: Tensor) -> Tensor:
    """The reflection I - 2 v v^T / |v|^2.

    Parameters
    ----------
    v : Tensor
        Vector (..., n), of any length but zero.

    Returns
    -------
    Tensor
        Symmetric orthogonal matrix (..., n, n) with determinant -1.

    Raises
    ------
    TypeError
        Where `v` is not of a real floating dtype.
    ValueError
        Where `v` has no dimension, or is zero or not finite.
    """
    _check_vectors("householder_matrix", "v", v.unsqueeze(-1) if v.ndim else v)
    unit = _unit(v.unsqueeze(-1))
    return torch.eye(v.shape[-1], dtype=v.dtype, device=v.device) - 2.0 * unit @ unit.mT


def compact_wy(vectors: Tensor) -> tuple[Tensor, Tensor]:
    r"""Compact WY form of a product of reflections: H_1 ... H_k = I - Y T Y^T.

    Y holds the vectors divided by their lengths, and T is upper triangular, the inverse of the matrix with 1/2 on its
    diagonal and y_i . y_j above it. Its entries are T_ij = -4 y_i . H_{i+1} ... H_{j-1} y_j, at most 4 in size: the
    inversion loses no digits, however the vectors lie.

    Parameters
    ----------
    vectors : Tensor
        Vectors u_1 ... u_k as columns (..., n, k).

    Returns
    -------
    Y : Tensor
        Unit vectors (..., n, k).
    T : Tensor
        Upper triangular matrix (..., k, k).

    Raises
    ------
    TypeError, ValueError
        As in `householder_product`.
    """
    _check_vectors("compact_wy", "vectors", vectors)
    unit = _unit(vectors)
    eye = torch.eye(unit.shape[-1], dtype=unit.dtype, device=unit.device)
    return unit, torch.linalg.solve_triangular(_inverse(unit), eye, upper=True)


def householder_product(vectors: Tensor, n_cols: int | None = None, method: Method = "wy") -> Tensor:
    r"""First columns of the product H_1 H_2 ... H_k of reflections; differentiable to any order.

    Multiplying a vector by a constant changes nothing, so the gradient of each is orthogonal to it.

    Parameters
    ----------
    vectors : Tensor
        Vectors u_1 ... u_k as columns (..., n, k), of any length but zero.
    n_cols : int, optional
        Number of columns m, from 1 to n; all n when left out.
    method : {"wy", "sequential", "torch"}
        ``"wy"``: matrix products and one triangular solve, n k (k + m) steps. ``"sequential"``: reflection by
        reflection. ``"torch"``: LAPACK through `torch.linalg.householder_product`, for k <= n vectors that are zero
        above their diagonal and not on it.

    Returns
    -------
    Tensor
        Orthonormal columns (..., n, m).

    Raises
    ------
    TypeError
        Where `vectors` is not of a real floating dtype.
    ValueError
        Where a vector is zero or not finite, `n_cols` is out of range, `method` is unknown, or ``"torch"`` is asked for
        vectors that it has no form of.
    """
    if method not in get_args(Method):
        raise ValueError(f"householder_product: 'method' must be one of {', '.join(get_args(Method))}, got {method!r}")
    _check_vectors("householder_product", "vectors", vectors)
    n = vectors.shape[-2]
    columns = n if n_cols is None else n_cols
    if not 1 <= columns <= n:
        raise ValueError(f"householder_product: 'n_cols' must be from 1 to n = {n}, got {n_cols}")
    if method == "torch":
        _check_trapezoidal(vectors)
    return {"wy": _wy, "sequential": _sequential, "torch": _lapack}[method](vectors, columns)


def householder_vectors(q: Tensor) -> tuple[Tensor, Tensor]:
    """Reflections that make given orthonormal columns: ``householder_product(vectors, k) * signs`` is `q`.

    Householder's QR of `q`, whose R is the diagonal of signs. LAPACK keeps R on and above the diagonal of the vectors;
    here they have ones and zeros there, as reflections need them. Nothing is differentiated.

    Parameters
    ----------
    q : Tensor
        Orthonormal columns (..., n, k), k <= n.

    Returns
    -------
    vectors : Tensor
        Unit lower trapezoidal matrix (..., n, k), entries of size 1 at most.
    signs : Tensor
        (..., k), each 1 or -1.

    Raises
    ------
    TypeError
        Where `q` is not of a real floating dtype.
    ValueError
        Where it has more columns than rows, or they are not orthonormal to 1e-4.
    """
    _check_matrix("householder_vectors", "q", q)
    n, k = q.shape[-2:]
    if k > n:
        raise ValueError(f"householder_vectors: 'q' must have at least as many rows as columns, got {tuple(q.shape)}")
    gap, tolerance = gram_gap(q), max(TOLERANCE, 16 * torch.finfo(q.dtype).eps)
    if not gap <= tolerance:  # NaN too
        raise ValueError(
            f"householder_vectors: 'q' must have orthonormal columns, got q^T q off the identity by {gap:.3g} "
            f"(tolerance {tolerance:.3g})"
        )
    packed, tau = torch.geqrf(q.detach())
    diagonal = packed.diagonal(dim1=-2, dim2=-1)
    signs = torch.where(diagonal < 0, -1.0, 1.0).to(q.dtype)
    # LAPACK leaves the reflection away where nothing is below the diagonal; ours is along the axis and turns the sign.
    signs = torch.where(tau == 0, -signs, signs)
    eye = torch.eye(n, k, dtype=q.dtype, device=q.device)
    return packed.tril(-1) + eye, signs


class HouseholderOrthogonal(nn.Module):
    """Orthonormal columns as a function of free parameters, by k reflections; any optimizer may step them.

    Entry i of vector i is 1, whatever the parameter has there; fixed signs of the columns keep `init` within reach
    and choose between the two components of square orthogonal matrices. Computed in the parameters' dtype, float32 at
    least.

    Parameters
    ----------
    n : int
        Rows.
    k : int, optional
        Columns, from 1 to n; n when left out.
    init : Tensor, optional
        Orthonormal columns (n, k) to begin with; uniformly random ones when left out.
    device, dtype
        Of the parameters.
    generator : torch.Generator, optional
        Draws the columns.

    Attributes
    ----------
    vectors : Parameter
        (n, k); what is below the diagonal counts.
    signs : Tensor
        Buffer (k,), part of the state dict.

    Raises
    ------
    ValueError
        Where a size is out of range, or `init` has another shape or columns that are not orthonormal.
    """

    signs: Tensor

    def __init__(
        self,
        n: int,
        k: int | None = None,
        init: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        k = n if k is None else k
        if not 1 <= k <= n:
            raise ValueError(f"HouseholderOrthogonal: 'k' must be from 1 to n = {n}, got {k}")
        if init is None:
            place = generator.device if generator is not None else device
            init = haar((n, k), torch.float64, place, generator)
        elif init.shape != (n, k):
            raise ValueError(f"HouseholderOrthogonal: 'init' must have shape {(n, k)}, got {tuple(init.shape)}")
        vectors, signs = householder_vectors(init.detach().double())
        dtype = dtype or torch.get_default_dtype()
        self.n, self.k = n, k
        self.vectors = nn.Parameter(vectors.to(device, dtype))
        self.register_buffer("signs", signs.to(device, dtype))

    def forward(self) -> Tensor:
        """Orthonormal columns (n, k)."""
        vectors: Tensor = self.vectors
        signs = self.signs
        if vectors.dtype.itemsize < 4:
            vectors, signs = vectors.float(), signs.float()
        eye = torch.eye(self.n, self.k, dtype=vectors.dtype, device=vectors.device)
        with torch.autocast(vectors.device.type, enabled=False):  # in half precision columns would not be orthonormal
            return _wy(vectors.tril(-1) + eye, self.k) * signs

    @torch.no_grad()
    def assign(self, q: Tensor) -> None:
        """Put the columns at given ones.

        Parameters
        ----------
        q : Tensor
            Orthonormal columns (n, k).

        Raises
        ------
        ValueError
            Where `q` has another shape, or columns that are not orthonormal.
        """
        if q.shape != (self.n, self.k):
            raise ValueError(f"HouseholderOrthogonal: 'q' must have shape {(self.n, self.k)}, got {tuple(q.shape)}")
        vectors, signs = householder_vectors(q.double())
        self.vectors.copy_(vectors)
        self.signs.copy_(signs)

    def extra_repr(self) -> str:
        """Sizes."""
        return f"n={self.n}, k={self.k}"


def _unit(vectors: Tensor) -> Tensor:
    # The largest entry is divided out first, so that squares neither overflow nor vanish; as the direction does not
    # depend on it, it counts as a constant.
    scaled = vectors / vectors.detach().abs().amax(-2, keepdim=True)
    return scaled / scaled.norm(dim=-2, keepdim=True)


def _inverse(unit: Tensor) -> Tensor:
    # The diagonal as rounded, not 1/2: then the reflections are those of the rounded vectors, whatever their lengths.
    gram = unit.mT @ unit
    return gram.triu(1) + 0.5 * torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))


def _wy(vectors: Tensor, columns: int) -> Tensor:
    unit = _unit(vectors)
    right = torch.linalg.solve_triangular(_inverse(unit), unit[..., :columns, :].mT, upper=True)
    eye = torch.eye(vectors.shape[-2], columns, dtype=vectors.dtype, device=vectors.device)
    q = eye - unit @ right
    # Some ten roundings are left where vectors are nearly parallel: a Newton-Schulz step takes them, no derivative.
    rough = q.detach()
    return q - 0.5 * rough @ (rough.mT @ rough - eye[..., :columns, :])


def _sequential(vectors: Tensor, columns: int) -> Tensor:
    unit = _unit(vectors)
    n, k = vectors.shape[-2:]
    result = torch.eye(n, columns, dtype=vectors.dtype, device=vectors.device).expand(*vectors.shape[:-2], n, columns)
    for i in reversed(range(k)):
        u = unit[..., i : i + 1]
        result = result - 2.0 * u @ (u.mT @ result)
    return result


def _lapack(vectors: Tensor, columns: int) -> Tensor:
    _n, k = vectors.shape[-2:]
    scaled = vectors / vectors.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)
    tau = 2.0 / scaled.square().sum(-2)
    if columns > k:
        scaled = torch.cat([scaled, scaled.new_zeros(*scaled.shape[:-1], columns - k)], -1)
    return torch.linalg.householder_product(scaled, tau)[..., :columns]


def _check_matrix(name: str, argument: str, value: Tensor) -> None:
    if not value.is_floating_point():
        raise TypeError(f"{name}: {argument!r} must be of a real floating dtype, got {value.dtype}")
    if value.ndim < 2 or 0 in value.shape[-2:]:
        raise ValueError(f"{name}: {argument!r} must have shape (..., n, k), none 0, got {tuple(value.shape)}")


def _check_vectors(name: str, argument: str, vectors: Tensor) -> None:
    _check_matrix(name, argument, vectors)
    size = vectors.detach().abs().amax(-2)
    bad = ~(size.isfinite() & (size > 0))
    if bool(bad.any()):
        first = [int(i) for i in bad.nonzero()[0]]
        raise ValueError(
            f"{name}: {argument!r} must have finite vectors other than zero, got largest entry {float(size[bad][0])} "
            f"in vector {first[-1] if len(first) == 1 else tuple(first)}"
        )


def _check_trapezoidal(vectors: Tensor) -> None:
    n, k = vectors.shape[-2:]
    above, diagonal = vectors.detach().triu(1), vectors.detach().diagonal(dim1=-2, dim2=-1)
    if k > n or bool((above != 0).any()) or bool((diagonal == 0).any()):
        raise ValueError(
            "householder_product: method 'torch' takes at most n = "
            f"{n} 'vectors' that are zero above the diagonal and not on it, got {k} that are not; use method='wy'"
        )
