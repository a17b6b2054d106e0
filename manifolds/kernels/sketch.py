"""Count-sketches, and tables of embeddings that are addressed by hashing.

The count-sketch and its adjoint are two torch operations each: on the CPU a kernel of our own was no faster (measured
at 1024 rows of 1024 and at one row of 4 million). On CUDA, where torch adds in an order that changes from run to run, a
kernel sums each bucket in the order of its numbers. Hashing, and the gradient of a table's rows, have kernels.
"""

import importlib
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.kernels import dispatch
from holonomy.manifolds.kernels.cpu.memory import flat

__all__ = [
    "count_sketch",
    "count_unsketch",
    "hash_embedding",
    "lookup_reference",
    "lookup_rows",
    "salted_hash",
    "salted_hash_reference",
]


def _on_cuda() -> Any:
    return importlib.import_module("holonomy.manifolds.kernels.cuda.sketch")


# -- count-sketch --------------------------------------------------------------------------------------------------


def _check_sketch(name: str, x: Tensor, index: Tensor, sign: Tensor, size: int, width: int | None) -> None:
    """Refuse what does not describe a sketch; `width` is the length of x that the sketch asks for."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name}: 'x' must be a tensor of floating-point numbers, got {kind}")
    if index.dtype != torch.int64:
        raise TypeError(f"{name}: 'index' must be of dtype int64, got {index.dtype}")
    if size < 1:
        raise ValueError(f"{name}: 'size' must be at least 1, got {size}")
    if index.ndim != 1 or sign.shape != index.shape:
        raise ValueError(
            f"{name}: 'index' and 'sign' must be vectors of one length, "
            f"got shapes {tuple(index.shape)} and {tuple(sign.shape)}"
        )
    if sign.requires_grad:
        raise ValueError(f"{name}: 'sign' is not differentiated; got a tensor that requires a gradient")
    if width is None:
        width = index.shape[0]
    if x.ndim < 1 or x.shape[-1] != width:
        raise ValueError(f"{name}: the last dimension of 'x' must be {width}, got shape {tuple(x.shape)}")


@torch.library.custom_op("holonomy::count_sketch", mutates_args=())
def _sketch(x: Tensor, index: Tensor, sign: Tensor, size: int) -> Tensor:
    found: Tensor = _on_cuda().count_sketch(x, index, sign, size)
    return found


@torch.library.custom_op("holonomy::count_unsketch", mutates_args=())
def _unsketch(y: Tensor, index: Tensor, sign: Tensor) -> Tensor:
    return _unsketch_plain(y, index, sign)


@_sketch.register_fake
def _(x: Tensor, index: Tensor, sign: Tensor, size: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], size)


@_unsketch.register_fake
def _(y: Tensor, index: Tensor, sign: Tensor) -> Tensor:
    return y.new_empty(*y.shape[:-1], index.shape[0])


def _save_sketch(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.size = inputs[0].shape[-1]
    ctx.save_for_backward(inputs[1], inputs[2])


_sketch.register_autograd(
    lambda ctx, g: (_unsketch(g, *ctx.saved_tensors), None, None, None), setup_context=_save_sketch
)
_unsketch.register_autograd(
    lambda ctx, g: (_sketch(g, *ctx.saved_tensors, ctx.size), None, None), setup_context=_save_sketch
)


def _mapped_sketch(op: Any) -> Any:
    """The rule for vmap: mapped vectors are more rows; other sketches go one by one."""

    def rule(info: Any, in_dims: tuple[Any, ...], x: Tensor, index: Tensor, sign: Tensor, *size: int) -> Any:
        if in_dims[1] is None and in_dims[2] is None:
            return op(x.movedim(in_dims[0], 0), index, sign, *size), 0
        three = zip(in_dims, (x, index, sign), strict=False)
        each = zip(*(_in_front(dim, t, info.batch_size) for dim, t in three), strict=True)
        return torch.stack([op(*one, *size) for one in each]), 0

    return rule


_sketch.register_vmap(_mapped_sketch(_sketch))
_unsketch.register_vmap(_mapped_sketch(_unsketch))


def _sketch_plain(x: Tensor, index: Tensor, sign: Tensor, size: int) -> Tensor:
    return x.new_zeros(*x.shape[:-1], size).scatter_add(-1, index.expand(x.shape), x * sign.to(x.dtype))


def _unsketch_plain(y: Tensor, index: Tensor, sign: Tensor) -> Tensor:
    return y.gather(-1, index.expand(*y.shape[:-1], -1)) * sign.to(y.dtype)


def count_sketch(x: Tensor, index: Tensor, sign: Tensor, size: int) -> Tensor:
    """Sum numbers with signs into buckets: y[..., index[j]] += sign[j] x[..., j].

    Every bucket is summed in the order of j: on the CPU whatever the number of threads, on CUDA by a kernel. The
    gradient in x is `count_unsketch`, and the other way round.

    Parameters
    ----------
    x : Tensor, shape (..., n)
        Vectors.
    index : LongTensor, shape (n,)
        Buckets, in [0, size).
    sign : Tensor, shape (n,)
        Signs (or any weights), converted to the dtype of x; not differentiated.
    size : int
        Number of buckets.

    Returns
    -------
    Tensor, shape (..., size)
        Sketches.

    Raises
    ------
    ValueError
        If shapes do not fit, or `size` is less than 1.
    TypeError
        If x does not hold floating-point numbers, or the index is not int64.

    References
    ----------
    Charikar, Chen and Farach-Colton, Finding frequent items in data streams (ICALP 2002).
    """
    _check_sketch("count_sketch", x, index, sign, size, None)
    run = _sketch if dispatch.backend(x) == "cupy" else _sketch_plain
    return run(x, index, sign, size)


def count_unsketch(y: Tensor, index: Tensor, sign: Tensor) -> Tensor:
    """Read numbers back from their buckets with signs: x[..., j] = sign[j] y[..., index[j]], `count_sketch`'s adjoint.

    Parameters
    ----------
    y : Tensor, shape (..., size)
        Sketches.
    index : LongTensor, shape (n,)
        Buckets, in [0, size).
    sign : Tensor, shape (n,)
        Signs (or any weights), converted to the dtype of y; not differentiated.

    Returns
    -------
    Tensor, shape (..., n)
        Estimates of the numbers that were sketched, unbiased over random signs.

    Raises
    ------
    ValueError
        If shapes do not fit.
    TypeError
        If y does not hold floating-point numbers, or the index is not int64.
    """
    if isinstance(y, Tensor) and y.ndim < 1:
        raise ValueError("count_unsketch: 'y' must have a dimension of buckets, got a scalar")
    size = y.shape[-1] if isinstance(y, Tensor) else 1
    _check_sketch("count_unsketch", y, index, sign, size, size)
    run = _unsketch if dispatch.backend(y) == "cupy" else _unsketch_plain
    return run(y, index, sign)


# -- hashing -------------------------------------------------------------------------------------------------------

# The constants of splitmix64 (Steele, Lea and Flood, 2014), as signed 64-bit numbers.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Shift to the right with zeros from the left."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    """The finaliser of splitmix64 on int64, whose products wrap around."""
    z = (z ^ _shifted(z, 30)) * _FIRST
    z = (z ^ _shifted(z, 27)) * _SECOND
    return z ^ _shifted(z, 31)


def salted_hash_reference(ids: Tensor, columns: Tensor, keys: Tensor, buckets: int) -> Tensor:
    """Hash ids (n, features) in plain torch operations; columns, keys (lookups,); the result is (n, lookups)."""
    return _shifted(_mix(ids[:, columns] + keys), 1) % buckets


@torch.library.custom_op("holonomy::salted_hash", mutates_args=(), device_types="cpu")
def _hash(ids: Tensor, columns: Tensor, keys: Tensor, buckets: int) -> Tensor:
    from holonomy.manifolds.kernels.cpu.sketch import hash_ids

    out = ids.new_empty(ids.shape[0], keys.shape[0])
    if columns.numel() and not 0 <= int(columns.min()) <= int(columns.max()) < ids.shape[1]:
        wanted = f"in [0, {ids.shape[1]}), got {columns.tolist()}"
        raise ValueError(f"hash_embedding: 'columns' must be {wanted}")
    if out.numel():
        a, b, c, d = (flat(t) for t in (ids, columns, keys, out))
        hash_ids(a, b, c, d, ids.shape[1], buckets)
    return out


@_hash.register_kernel("cuda")
def _(ids: Tensor, columns: Tensor, keys: Tensor, buckets: int) -> Tensor:
    found: Tensor = _on_cuda().hash_ids(ids, columns, keys, buckets)
    return found


@_hash.register_fake
def _(ids: Tensor, columns: Tensor, keys: Tensor, buckets: int) -> Tensor:
    return ids.new_empty(ids.shape[0], keys.shape[0])


def _in_front(dim: int | None, tensor: Tensor, size: int) -> Tensor:
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


@_hash.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
    ids, columns, keys, buckets = inputs
    if in_dims[1] is None and in_dims[2] is None:
        ids = ids.movedim(in_dims[0], 0)
        return _hash(ids.flatten(0, 1), columns, keys, buckets).unflatten(0, ids.shape[:2]), 0
    each = zip(*(_in_front(dim, t, info.batch_size) for dim, t in zip(in_dims, inputs[:3], strict=False)), strict=True)
    return torch.stack([_hash(*one, buckets) for one in each]), 0


def _hashed(ids: Tensor, columns: Tensor, salts: Tensor, buckets: int) -> Tensor:
    keys = _mix((salts + 1) * _GOLDEN)
    # `backend` knows floating dtypes only; an empty tensor asks for those on the same device.
    probe = torch.empty(0, device=ids.device)
    run = _hash if dispatch.backend(probe) is not None else salted_hash_reference
    return run(ids, columns, keys, buckets)


def _check_ids(name: str, ids: Tensor, **others: Tensor) -> None:
    for argument, tensor in {"ids": ids, **others}.items():
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.int64:
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"{name}: '{argument}' must be a tensor of dtype int64, got {kind}")


def salted_hash(ids: Tensor, num_buckets: int, salt: int | Tensor = 0) -> Tensor:
    """Hash 64-bit ids to buckets, by one of 2^64 independent functions.

    With all arithmetic modulo 2^64 and mix the finaliser of splitmix64::

        key = mix((salt + 1) * 0x9E3779B97F4A7C15)        bucket = (mix(id + key) >> 1) mod num_buckets

    The numbers are part of the interface: they are the same on every device and platform, from release to release.

    Parameters
    ----------
    ids : LongTensor, shape (...)
        Ids, of any sign.
    num_buckets : int
        Number of buckets.
    salt : int or LongTensor, shape (salts,)
        Choice of the function; several for several hashes of each id.

    Returns
    -------
    LongTensor, shape (...) or (..., salts)
        Buckets in [0, num_buckets).

    Raises
    ------
    ValueError
        If `num_buckets` is less than 1, or the salts are not a vector.
    TypeError
        If ids or salts are not int64.

    References
    ----------
    Steele, Lea and Flood, Fast splittable pseudorandom number generators (OOPSLA 2014).
    """
    salts = salt if isinstance(salt, Tensor) else torch.tensor([salt], dtype=torch.int64, device=ids.device)
    _check_ids("salted_hash", ids, salt=salts)
    if num_buckets < 1:
        raise ValueError(f"salted_hash: 'num_buckets' must be at least 1, got {num_buckets}")
    if salts.ndim != 1:
        raise ValueError(f"salted_hash: 'salt' must be an integer or a vector, got shape {tuple(salts.shape)}")
    found = _hashed(ids.reshape(-1, 1), torch.zeros_like(salts), salts, num_buckets)
    return found.reshape(*ids.shape, *salts.shape) if isinstance(salt, Tensor) else found.reshape(ids.shape)


# -- rows of a table -----------------------------------------------------------------------------------------------


def lookup_reference(table: Tensor, rows: Tensor) -> Tensor:
    """Rows of a table in plain torch operations; zeros for negative indices."""
    found = table.index_select(0, rows.clamp_min(0))
    return torch.where((rows < 0).unsqueeze(-1), 0.0, found)


@torch.library.custom_op("holonomy::lookup_rows", mutates_args=(), device_types="cpu")
def _lookup(table: Tensor, rows: Tensor) -> Tensor:
    padded = rows.numel() > 0 and bool(rows.min() < 0)
    out = table.index_select(0, rows.clamp_min(0) if padded else rows)
    return out.masked_fill_((rows < 0).unsqueeze(-1), 0.0) if padded else out


@_lookup.register_kernel("cuda")
def _(table: Tensor, rows: Tensor) -> Tensor:
    return lookup_reference(table, rows)  # without a look at the rows, which would wait for the device


@_lookup.register_fake
def _(table: Tensor, rows: Tensor) -> Tensor:
    return table.new_empty(rows.shape[0], table.shape[1])


@torch.library.custom_op("holonomy::sum_rows", mutates_args=(), device_types="cpu")
def _sum(values: Tensor, rows: Tensor, size: int) -> Tensor:
    from holonomy.manifolds.kernels.cpu.sketch import scatter_rows

    out, d = values.new_empty(size, values.shape[1]), values.shape[1]
    if out.numel():
        values, rows = values.contiguous(), rows.contiguous()
        scatter_rows(flat(values), flat(rows), flat(out), d)
    return out


@_sum.register_kernel("cuda")
def _(values: Tensor, rows: Tensor, size: int) -> Tensor:
    found: Tensor = _on_cuda().sum_rows(values, rows, size)
    return found


@_sum.register_fake
def _(values: Tensor, rows: Tensor, size: int) -> Tensor:
    return values.new_empty(size, values.shape[1])


def _save_lookup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.size = inputs[0].shape[0]
    ctx.save_for_backward(inputs[1])


_lookup.register_autograd(lambda ctx, g: (_sum(g, *ctx.saved_tensors, ctx.size), None), setup_context=_save_lookup)
_sum.register_autograd(lambda ctx, g: (_lookup(g, *ctx.saved_tensors), None, None), setup_context=_save_lookup)


def _apart(rows: Tensor, size: int) -> Tensor:
    """Indices (batch, n) into tables of `size` rows each that lie behind one another."""
    start = size * torch.arange(rows.shape[0], device=rows.device).unsqueeze(-1)
    return torch.where(rows < 0, rows, rows + start).flatten()


@_lookup.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], table: Tensor, rows: Tensor) -> tuple[Tensor, int]:
    rows = _in_front(in_dims[1], rows, info.batch_size)
    if in_dims[0] is None:
        return _lookup(table, rows.flatten()).unflatten(0, rows.shape), 0
    table = table.movedim(in_dims[0], 0)
    return _lookup(table.flatten(0, 1), _apart(rows, table.shape[1])).unflatten(0, rows.shape), 0


@_sum.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], values: Tensor, rows: Tensor, size: int) -> tuple[Tensor, int]:
    values, rows = (_in_front(dim, t, info.batch_size) for dim, t in zip(in_dims[:2], (values, rows), strict=True))
    found = _sum(values.flatten(0, 1), _apart(rows, size), info.batch_size * size)
    return found.unflatten(0, (info.batch_size, size)), 0


def lookup_rows(table: Tensor, rows: Tensor) -> Tensor:
    """Read rows of a table; its gradient is dense, and summed in the order of the lookups.

    Parameters
    ----------
    table : Tensor, shape (size, d)
        Table.
    rows : LongTensor, shape (...)
        Indices of rows, below `size`; a negative one gives zeros.

    Returns
    -------
    Tensor, shape (..., d)
        Rows, differentiable in the table to any order.

    Raises
    ------
    ValueError
        If the table is not a matrix.
    TypeError
        If the table does not hold floating-point numbers, or the indices are not int64.
    """
    _check_ids("lookup_rows", rows)
    if not table.is_floating_point():
        raise TypeError(f"lookup_rows: 'table' must hold floating-point numbers, got {table.dtype}")
    if table.ndim != 2:
        raise ValueError(f"lookup_rows: 'table' must have shape (size, d), got {tuple(table.shape)}")
    run = _lookup if dispatch.backend(table) is not None else lookup_reference
    return run(table, rows.reshape(-1)).reshape(*rows.shape, table.shape[1])


def hash_embedding(
    ids: Tensor,
    table: Tensor,
    salts: Tensor,
    *,
    columns: Tensor | None = None,
    combine: str = "concat",
    padding_id: int | None = None,
) -> Tensor:
    """Look ids up in a shared table at rows chosen by hashing, several times each.

    Lookup l reads the row ``salted_hash(ids[..., columns[l]], M, salts[l])``, so that one call serves features with
    different numbers of lookups. Give every lookup a salt of its own.

    Parameters
    ----------
    ids : LongTensor, shape (..., features), or (...) without `columns`
        Ids of the features.
    table : Tensor, shape (M, d) or (tables, M, d)
        Table; of several, lookup l reads number l modulo tables.
    salts : LongTensor, shape (lookups,)
        Salts of the lookups.
    columns : LongTensor, shape (lookups,), optional
        Feature that each lookup reads. Without it, ids are of one feature, which every lookup reads.
    combine : {"concat", "sum"}
        What becomes of the lookups' vectors.
    padding_id : int, optional
        Id whose vectors are zero and which takes no part in the gradient.

    Returns
    -------
    Tensor, shape (..., lookups * d) for "concat", (..., d) for "sum"
        Embeddings. The gradient in the table is dense and does not depend on the number of threads.

    Raises
    ------
    ValueError
        If shapes do not fit, or for another name of `combine`.
    TypeError
        If ids, salts or columns are not int64, or the table does not hold floating-point numbers.

    References
    ----------
    Coleman et al., Unified embedding (NeurIPS 2023), section 4; Svenstrup, Hansen and Winther, Hash embeddings for
    efficient word representations (NeurIPS 2017).
    """
    name = "hash_embedding"
    _check_ids(name, ids, salts=salts, **({} if columns is None else {"columns": columns}))
    if combine not in ("concat", "sum"):
        raise ValueError(f"{name}: 'combine' must be 'concat' or 'sum', got {combine!r}")
    if salts.ndim != 1 or salts.shape[0] < 1 or (columns is not None and columns.shape != salts.shape):
        shape = None if columns is None else tuple(columns.shape)
        raise ValueError(
            f"{name}: 'salts' and 'columns' must be vectors of one length, at least 1, "
            f"got shapes {tuple(salts.shape)} and {shape}"
        )
    if table.ndim not in (2, 3) or table.shape[-2] < 1:
        raise ValueError(f"{name}: 'table' must have shape (M, d) or (tables, M, d), got {tuple(table.shape)}")
    if columns is None:
        ids, columns = ids.unsqueeze(-1), torch.zeros_like(salts)
    elif ids.ndim < 1 or ids.shape[-1] < 1:
        raise ValueError(f"{name}: 'ids' must have a dimension of features, got shape {tuple(ids.shape)}")
    buckets, d, lookups = table.shape[-2], table.shape[-1], salts.shape[0]
    flat = ids.reshape(-1, ids.shape[-1])
    rows = _hashed(flat, columns, salts, buckets)
    if table.ndim == 3:
        rows = rows + torch.arange(lookups, device=ids.device) % table.shape[0] * buckets
    if padding_id is not None:
        rows = torch.where(flat[:, columns] == padding_id, -1, rows)
    found = lookup_rows(table.reshape(-1, d), rows)
    shape = ids.shape[:-1]
    return found.sum(-2).reshape(*shape, d) if combine == "sum" else found.reshape(*shape, lookups * d)
