"""The one template of the row kernels: sums over a row, scalar work, and a combination of the row's vectors.

Every map of points and vectors that commutes with rotations has this form. Of each row (one point, one or two vectors,
in the backward pass the upstream gradient) a few inner products are summed; from them come the coefficients; the
results are linear combinations of the row's vectors. Rows are taken in blocks that stay in the nearest cache:

1. *products* gives what is summed over the coordinates, eight coordinates at a time;
2. *stage* turns the sums of eight rows at a time into coefficients;
3. *blend* combines the vectors, eight coordinates at a time.

A map that needs sums over intermediate vectors has more rounds of 1 and 2 (`sweep_twice`, `sweep_thrice`,
`sweep_fourfold`). Between the steps numbers are kept in float64 in a small scratch array whose rows are: sums (`SUM`),
scalars that were given (`GIVEN`), scalars that are returned (`RESULT`), coefficients (`COEF`), and which rows are hard
(`HARD`).

A stage may mark rows as `hard`: the kernel's formula does not hold there (an edge of the manifold, or no finite
number), and the caller evaluates them by the reference.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic, overload

from holonomy.manifolds.kernels.cpu.jit import FRAGMENT, inline
from holonomy.manifolds.kernels.cpu.lanes import (
    LANES,
    load,
    masked_load,
    masked_store,
    narrow,
    recast,
    stack,
    store,
    total,
    widen,
)

__all__ = [
    "COEF",
    "GIVEN",
    "HARD",
    "RESULT",
    "SUM",
    "get",
    "less_one",
    "put",
    "sweep",
    "sweep_fourfold",
    "sweep_thrice",
    "sweep_twice",
]

#: Rows of a block.
BLOCK = 64
#: First rows of the scratch array's sections.
SUM, HARD, GIVEN, RESULT, COEF, _ROWS = 0, 8, 9, 12, 16, 32

#: Vectors of at most so many numbers are short: they are taken as columns.
SHORT = 7
_LONGEST = SHORT + 1

_scratch = stack(_ROWS * BLOCK)
_column_memory = stack(8 * _LONGEST * BLOCK)


def _per_length(stub: Any, body: str, **names: Any) -> None:
    """Define a function of tuples for every length, from the expression of its m-th entry."""

    def define(first, *rest):  # type: ignore[no-untyped-def]
        if not isinstance(first, types.BaseTuple):
            return None
        entries = "".join(f"{body.format(m=m)}, " for m in range(len(first)))
        arguments = ", ".join(["first", *(f"r{k}" for k in range(len(rest)))])
        return eval(f"lambda {arguments}: ({entries})", dict(names))

    overload(stub, jit_options=FRAGMENT)(_with_arguments(define, stub))


def _with_arguments(define: Any, stub: Any) -> Any:
    """Give the definition the argument names that its lambdas have; Numba compares them."""
    count = stub.__code__.co_argcount
    arguments = ", ".join(["first", *(f"r{k}" for k in range(count - 1))])
    return eval(f"lambda {arguments}: define({arguments})", {"define": define})


@inline
def get(s, r, i, like):  # type: ignore[no-untyped-def]
    """Eight numbers of the scratch row `r`, from row i of the block on, in the dtype of the array `like`."""
    return narrow(load(s, r * BLOCK + i), like)


@inline
def put(s, r, i, value):  # type: ignore[no-untyped-def]
    """Write eight numbers to the scratch row `r`."""
    store(s, r * BLOCK + i, widen(value))


def _load_all(ins, at, j):  # type: ignore[no-untyped-def]
    raise NotImplementedError


def _masked_load_all(ins, at, j, rest):  # type: ignore[no-untyped-def]
    raise NotImplementedError


def _offsets(strides, row, lead):  # type: ignore[no-untyped-def]
    raise NotImplementedError


def _add_all(a, b):  # type: ignore[no-untyped-def]
    raise NotImplementedError


def _totals(a):  # type: ignore[no-untyped-def]
    raise NotImplementedError


def _put_all(values, s, r, i):  # type: ignore[no-untyped-def]
    raise NotImplementedError


def _store_all(outs, at, j, values):  # type: ignore[no-untyped-def]
    raise NotImplementedError


def _masked_store_all(outs, at, j, rest, values):  # type: ignore[no-untyped-def]
    raise NotImplementedError


def _lanes_put(values, s, r, i):  # type: ignore[no-untyped-def]
    raise NotImplementedError


def _turn_in(ins, strides, buffers, low, m, lead, d):  # type: ignore[no-untyped-def]
    """Copy the rows of a block to the buffers, transposed."""
    raise NotImplementedError


def _turn_out(outs, strides, buffers, low, m, lead, d):  # type: ignore[no-untyped-def]
    """Copy the buffers of a block to the rows of the results."""
    raise NotImplementedError


def _buffers(ins, memory, first):  # type: ignore[no-untyped-def]
    """Part of the memory for each input, from number `first` on, in the dtype of the input."""
    raise NotImplementedError


def _column(buffers, at):  # type: ignore[no-untyped-def]
    raise NotImplementedError


def _store_column(buffers, at, values):  # type: ignore[no-untyped-def]
    raise NotImplementedError


def _gather(given, strides, s, low, m):  # type: ignore[no-untyped-def]
    """Copy the given scalars of a block to the scratch array."""
    raise NotImplementedError


def _scatter(results, strides, s, low, m):  # type: ignore[no-untyped-def]
    """Copy the returned scalars of a block out of the scratch array."""
    raise NotImplementedError


@inline
def _put_one(s, r, i, value):  # type: ignore[no-untyped-def]
    s[r * BLOCK + i] = value
    return 0


@intrinsic
def _at(typing: Any, address: Any, offset: Any) -> Any:
    """Address of the number `offset` numbers on."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.gep(values[0], [values[1]])

    return address(address, types.intp), code


@inline
def _turn_in_one(rows, stride, buffer, low, m, lead, d):  # type: ignore[no-untyped-def]
    for j in range(d):
        for i in range(m):
            buffer[j * BLOCK + i] = rows[(low + i) * stride + lead + j]
    return 0


@inline
def _turn_out_one(rows, stride, buffer, low, m, lead, d):  # type: ignore[no-untyped-def]
    for j in range(d):
        for i in range(m):
            rows[(low + i) * stride + lead + j] = buffer[j * BLOCK + i]
    return 0


@inline
def _gather_one(s, r, values, stride, low, m):  # type: ignore[no-untyped-def]
    for i in range(m):
        s[r * BLOCK + i] = values[(low + i) * stride]
    return 0


@inline
def _scatter_one(s, r, results, stride, low, m):  # type: ignore[no-untyped-def]
    for i in range(m):
        results[(low + i) * stride] = s[r * BLOCK + i]
    return 0


_per_length(_gather, "one(r1, GIVEN + {m}, first[{m}], r0[{m}], r2, r3)", one=_gather_one, GIVEN=GIVEN)
_per_length(_scatter, "one(r1, RESULT + {m}, first[{m}], r0[{m}], r2, r3)", one=_scatter_one, RESULT=RESULT)
_per_length(
    _buffers,
    "recast(at(r0, (r1 + {m}) * _LONGEST * BLOCK), first[{m}])",
    recast=recast,
    at=_at,
    _LONGEST=_LONGEST,
    BLOCK=BLOCK,
)
_per_length(_turn_in, "one(first[{m}], r0[{m}], r1[{m}], r2, r3, r4, r5)", one=_turn_in_one)
_per_length(_turn_out, "one(first[{m}], r0[{m}], r1[{m}], r2, r3, r4, r5)", one=_turn_out_one)
_per_length(_column, "load(first[{m}], r0)", load=load)
_per_length(_store_column, "store(first[{m}], r0, r1[{m}])", store=store)
_per_length(_lanes_put, "put(r0, r1 + {m}, r2, first[{m}])", put=put)
_per_length(_load_all, "load(first[{m}], r0[{m}] + r1)", load=load)
_per_length(_masked_load_all, "masked_load(first[{m}], r0[{m}] + r1, r2)", masked_load=masked_load)
_per_length(_offsets, "first[{m}] * r0 + r1")
_per_length(_add_all, "first[{m}] + r0[{m}]")
_per_length(_totals, "total(first[{m}])", total=total)
_per_length(_put_all, "put(r0, r1 + {m}, r2, first[{m}])", put=_put_one)
_per_length(_store_all, "store(first[{m}], r0[{m}] + r1, r2[{m}])", store=store)
_per_length(_masked_store_all, "store(first[{m}], r0[{m}] + r1, r3[{m}], r2)", store=masked_store)


@inline
def _coefficients(s, i):  # type: ignore[no-untyped-def]
    """Coefficients of one row; those that are not used cost nothing."""
    k = COEF * BLOCK + i
    return (
        s[k],
        s[k + BLOCK],
        s[k + 2 * BLOCK],
        s[k + 3 * BLOCK],
        s[k + 4 * BLOCK],
        s[k + 5 * BLOCK],
        s[k + 6 * BLOCK],
        s[k + 7 * BLOCK],
        s[k + 8 * BLOCK],
        s[k + 9 * BLOCK],
        s[k + 10 * BLOCK],
        s[k + 11 * BLOCK],
        s[k + 12 * BLOCK],
        s[k + 13 * BLOCK],
        s[k + 14 * BLOCK],
        s[k + 15 * BLOCK],
    )


@inline
def _row_sums(products, coefficients, ins, at, d):  # type: ignore[no-untyped-def]
    full = d - d % LANES
    rest = d - full
    if full > 0:
        sums = products(_load_all(ins, at, 0), coefficients)
        for j in range(LANES, full, LANES):
            sums = _add_all(sums, products(_load_all(ins, at, j), coefficients))
        if rest > 0:
            sums = _add_all(sums, products(_masked_load_all(ins, at, full, rest), coefficients))
    else:
        sums = products(_masked_load_all(ins, at, 0, rest), coefficients)
    return _totals(sums)


@inline
def _lane_coefficients(s, i, like):  # type: ignore[no-untyped-def]
    """Coefficients of eight rows."""
    return (
        get(s, COEF, i, like),
        get(s, COEF + 1, i, like),
        get(s, COEF + 2, i, like),
        get(s, COEF + 3, i, like),
        get(s, COEF + 4, i, like),
        get(s, COEF + 5, i, like),
        get(s, COEF + 6, i, like),
        get(s, COEF + 7, i, like),
        get(s, COEF + 8, i, like),
        get(s, COEF + 9, i, like),
        get(s, COEF + 10, i, like),
        get(s, COEF + 11, i, like),
        get(s, COEF + 12, i, like),
        get(s, COEF + 13, i, like),
        get(s, COEF + 14, i, like),
        get(s, COEF + 15, i, like),
    )


# -- long vectors: eight numbers of a row at a time ----------------------------------------------------------------


@inline
def _enter_rows(ins, outs, memory, lead, d, low, m):  # type: ignore[no-untyped-def]
    return ins, outs


@inline
def _sum_rows(products, ins, lead, d, s, low, m):  # type: ignore[no-untyped-def]
    for i in range(m):
        at = _offsets(ins[1], low + i, lead)
        _put_all(_row_sums(products, _coefficients(s, i), ins[0], at, d), s, SUM, i)


@inline
def _blend_rows(blend, ins, outs, lead, d, s, low, m):  # type: ignore[no-untyped-def]
    full = d - d % LANES
    rest = d - full
    for i in range(m):
        at = _offsets(ins[1], low + i, lead)
        to = _offsets(outs[1], low + i, lead)
        k = _coefficients(s, i)
        for j in range(0, full, LANES):
            _store_all(outs[0], to, j, blend(_load_all(ins[0], at, j), k))
        if rest > 0:
            _masked_store_all(outs[0], to, full, rest, blend(_masked_load_all(ins[0], at, full, rest), k))


@inline
def _leave_rows(outs, columns, lead, d, low, m):  # type: ignore[no-untyped-def]
    return None


# -- short vectors: one number of eight rows at a time, from a transposed copy of the block -------------------------


@inline
def _enter_columns(ins, outs, memory, lead, d, low, m):  # type: ignore[no-untyped-def]
    columns = _buffers(ins[0], memory, 0)
    _turn_in(ins[0], ins[1], columns, low, m, lead, d)
    return (columns, ins[1]), (_buffers(outs[0], memory, len(columns)), outs[1])


@inline
def _sum_columns(products, ins, lead, d, s, low, m):  # type: ignore[no-untyped-def]
    for i in range(0, m, LANES):
        k = _lane_coefficients(s, i, ins[0][0])
        sums = products(_column(ins[0], i), k)
        for j in range(1, d):
            sums = _add_all(sums, products(_column(ins[0], j * BLOCK + i), k))
        _lanes_put(sums, s, SUM, i)


@inline
def _blend_columns(blend, ins, outs, lead, d, s, low, m):  # type: ignore[no-untyped-def]
    for i in range(0, m, LANES):
        k = _lane_coefficients(s, i, ins[0][0])
        for j in range(d):
            _store_column(outs[0], j * BLOCK + i, blend(_column(ins[0], j * BLOCK + i), k))


@inline
def _leave_columns(outs, columns, lead, d, low, m):  # type: ignore[no-untyped-def]
    _turn_out(outs[0], outs[1], columns[0], low, m, lead, d)


# -- the choice between the two, at compile time -------------------------------------------------------------------


def _enter(ins, outs, memory, lead, d, low, m):  # type: ignore[no-untyped-def]
    raise NotImplementedError


def _sum(products, ins, lead, d, s, low, m):  # type: ignore[no-untyped-def]
    raise NotImplementedError


def _blend(blend, ins, outs, lead, d, s, low, m):  # type: ignore[no-untyped-def]
    raise NotImplementedError


def _leave(outs, columns, lead, d, low, m):  # type: ignore[no-untyped-def]
    raise NotImplementedError


def _by_length(stub: Any, long: Any, short: Any) -> None:
    """Define a function by the type of the size d: int32 says that vectors are short."""
    code = stub.__code__
    names = ", ".join(code.co_varnames[: code.co_argcount])

    def choose(is_short: bool) -> Any:
        return eval(f"lambda {names}: function({names})", {"function": short if is_short else long})

    overload(stub, jit_options=FRAGMENT)(
        eval(f"lambda {names}: choose(d == short)", {"choose": choose, "short": types.int32})
    )


_by_length(_enter, _enter_rows, _enter_columns)
_by_length(_sum, _sum_rows, _sum_columns)
_by_length(_blend, _blend_rows, _blend_columns)
_by_length(_leave, _leave_rows, _leave_columns)


def less_one(d):  # type: ignore[no-untyped-def]
    """d - 1 in the type of d, for vectors that follow one number."""
    raise NotImplementedError


@overload(less_one)
def _less_one(d):  # type: ignore[no-untyped-def]
    return (lambda d: np.int32(d - 1)) if d == types.int32 else (lambda d: d - 1)


# -- the template --------------------------------------------------------------------------------------------------


@inline
def _stages(stage, s, c, like, m):  # type: ignore[no-untyped-def]
    for i in range(0, m, LANES):
        stage(s, i, c, like)


@inline
def _mark(s, hard, low, m):  # type: ignore[no-untyped-def]
    for i in range(m):
        if s[HARD * BLOCK + i] != 0.0:
            hard[low + i] = 1


@inline
def sweep(products, stage, blend, ins, outs, given, results, hard, lead, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Evaluate the rows lo, ..., hi - 1 of a map.

    `ins`, `outs`, `given` and `results` are pairs: a tuple of addresses, and a tuple of the distances
    between their rows, of which 0 repeats one row. Vectors are the `d` numbers from `lead` numbers into a row on; an
    int32 `d`, of at most `SHORT`, has them taken as columns.
    """
    s, memory = _scratch(), _column_memory()
    for low in range(lo, hi, BLOCK):
        m = min(BLOCK, hi - low)
        _gather(given[0], given[1], s, low, m)
        source, target = _enter(ins, outs, memory, lead, d, low, m)
        _sum(products, source, lead, d, s, low, m)
        _stages(stage, s, c, ins[0][0], m)
        _blend(blend, source, target, lead, d, s, low, m)
        _leave(outs, target, lead, d, low, m)
        _scatter(results[0], results[1], s, low, m)
        _mark(s, hard, low, m)


@inline
def sweep_twice(rounds, blend, ins, outs, given, results, hard, lead, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """`sweep` with two rounds of sums: (products, stage, products, stage).

    The second round sees the coefficients of the first, and its sums replace those of the first.
    """
    products, stage, products_again, stage_again = rounds
    s, memory = _scratch(), _column_memory()
    for low in range(lo, hi, BLOCK):
        m = min(BLOCK, hi - low)
        _gather(given[0], given[1], s, low, m)
        source, target = _enter(ins, outs, memory, lead, d, low, m)
        _sum(products, source, lead, d, s, low, m)
        _stages(stage, s, c, ins[0][0], m)
        _sum(products_again, source, lead, d, s, low, m)
        _stages(stage_again, s, c, ins[0][0], m)
        _blend(blend, source, target, lead, d, s, low, m)
        _leave(outs, target, lead, d, low, m)
        _scatter(results[0], results[1], s, low, m)
        _mark(s, hard, low, m)


@inline
def sweep_thrice(rounds, blend, ins, outs, given, results, hard, lead, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """`sweep` with three rounds of sums, each of which sees the coefficients of those before."""
    first, stage_first, second, stage_second, third, stage_third = rounds
    s, memory = _scratch(), _column_memory()
    for low in range(lo, hi, BLOCK):
        m = min(BLOCK, hi - low)
        _gather(given[0], given[1], s, low, m)
        source, target = _enter(ins, outs, memory, lead, d, low, m)
        _sum(first, source, lead, d, s, low, m)
        _stages(stage_first, s, c, ins[0][0], m)
        _sum(second, source, lead, d, s, low, m)
        _stages(stage_second, s, c, ins[0][0], m)
        _sum(third, source, lead, d, s, low, m)
        _stages(stage_third, s, c, ins[0][0], m)
        _blend(blend, source, target, lead, d, s, low, m)
        _leave(outs, target, lead, d, low, m)
        _scatter(results[0], results[1], s, low, m)
        _mark(s, hard, low, m)


@inline
def sweep_fourfold(rounds, blend, ins, outs, given, results, hard, lead, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """`sweep` with four rounds of sums, each of which sees the coefficients of those before."""
    first, stage_first, second, stage_second, third, stage_third, fourth, stage_fourth = rounds
    s, memory = _scratch(), _column_memory()
    for low in range(lo, hi, BLOCK):
        m = min(BLOCK, hi - low)
        _gather(given[0], given[1], s, low, m)
        source, target = _enter(ins, outs, memory, lead, d, low, m)
        _sum(first, source, lead, d, s, low, m)
        _stages(stage_first, s, c, ins[0][0], m)
        _sum(second, source, lead, d, s, low, m)
        _stages(stage_second, s, c, ins[0][0], m)
        _sum(third, source, lead, d, s, low, m)
        _stages(stage_third, s, c, ins[0][0], m)
        _sum(fourth, source, lead, d, s, low, m)
        _stages(stage_fourth, s, c, ins[0][0], m)
        _blend(blend, source, target, lead, d, s, low, m)
        _leave(outs, target, lead, d, low, m)
        _scatter(results[0], results[1], s, low, m)
        _mark(s, hard, low, m)
