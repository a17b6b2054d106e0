"""Count-sketches are linear maps and their adjoints; hashes are fixed, uniform and independent; tables add up."""

import numpy as np
import pytest
import scipy.stats
import torch

from holonomy.manifolds.kernels import dispatch
from holonomy.manifolds.kernels.sketch import (
    count_sketch,
    count_unsketch,
    hash_embedding,
    lookup_reference,
    lookup_rows,
    salted_hash,
)

pytest.importorskip("numba")


def a_sketch(n, size):
    return torch.randint(size, (n,)), 2.0 * torch.randint(2, (n,)) - 1.0


# -- count-sketch --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "size"), [((7,), 3), ((4, 30), 8), ((2, 3, 5), 11), ((0, 6), 4), ((2, 0), 3)])
def test_sketch_is_a_matrix_and_unsketch_its_transpose(shape, size):
    x = torch.randn(shape, dtype=torch.float64)
    index, sign = a_sketch(shape[-1], size)
    matrix = torch.zeros(shape[-1], size, dtype=torch.float64)
    matrix[torch.arange(shape[-1]), index] = sign.double()
    y = count_sketch(x, index, sign, size)
    torch.testing.assert_close(y, x @ matrix)
    torch.testing.assert_close(count_unsketch(y, index, sign), y @ matrix.T)


def test_gradients_of_sketches_of_both_orders():
    x = torch.randn(2, 9, dtype=torch.float64, requires_grad=True)
    index, sign = a_sketch(9, 4)
    torch.autograd.gradcheck(lambda t: count_sketch(t, index, sign, 4), x)
    torch.autograd.gradgradcheck(lambda t: count_sketch(t, index, sign, 4).square(), x)
    torch.autograd.gradcheck(lambda t: count_unsketch(t, index % 9, sign), x)
    (grad,) = torch.autograd.grad(count_sketch(x, index, sign, 4), x, g := torch.randn(2, 4, dtype=torch.float64))
    assert torch.equal(grad, count_unsketch(g, index, sign))


def test_inner_products_of_sketches_are_unbiased():
    x, y = torch.randn(2, 40, dtype=torch.float64)
    found = []
    for _ in range(2000):
        index, sign = a_sketch(40, 16)
        found.append((count_sketch(x, index, sign, 16) * count_sketch(y, index, sign, 16)).sum())
    found = torch.stack(found)
    assert abs(found.mean() - x @ y) < 4 * found.std() / 2000**0.5  # four standard errors


def test_bad_sketches():
    x, index, sign = torch.zeros(2, 4), torch.zeros(4, dtype=torch.int64), torch.ones(4)
    with pytest.raises(ValueError, match=r"'x' must be 4, got shape \(2, 5\)"):
        count_sketch(torch.zeros(2, 5), index, sign, 3)
    with pytest.raises(ValueError, match=r"'size' must be at least 1, got 0"):
        count_sketch(x, index, sign, 0)
    with pytest.raises(ValueError, match=r"one length, got shapes \(4,\) and \(3,\)"):
        count_unsketch(x, index, sign[:3])
    with pytest.raises(ValueError, match="'sign' is not differentiated"):
        count_sketch(x, index, sign.clone().requires_grad_(), 3)
    with pytest.raises(ValueError, match="got a scalar"):
        count_unsketch(torch.zeros(()), index, sign)
    with pytest.raises(TypeError, match=r"'x' .* torch.int64"):
        count_sketch(x.long(), index, sign, 3)
    with pytest.raises(TypeError, match=r"'index' .* torch.float32"):
        count_sketch(x, sign, sign, 3)


# -- hashing -------------------------------------------------------------------------------------------------------


def in_python(identity, buckets, salt):
    """The documented formula in Python's integers."""

    def mix(z):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        return z ^ (z >> 31)

    key = mix((salt + 1) * 0x9E3779B97F4A7C15 % 2**64)
    return (mix((identity + key) % 2**64) >> 1) % buckets


IDS = [0, 1, -1, 2, 12345, -98765432101234, 2**63 - 1, -(2**63)]


@pytest.mark.parametrize("implementation", ["reference", "fused"])
@pytest.mark.parametrize("buckets", [1, 2, 977, 2**40])
def test_hash_is_the_documented_formula(implementation, buckets):
    salts = torch.tensor([0, 1, -7, 2**62])
    with dispatch.use(implementation):
        several, one = salted_hash(torch.tensor(IDS), buckets, salts), salted_hash(torch.tensor(IDS), buckets, 1)
    assert several.tolist() == [[in_python(i, buckets, s) for s in salts.tolist()] for i in IDS]
    assert torch.equal(one, several[:, 1])


def test_key_of_salt_0_is_the_first_number_of_splitmix64():
    # 0xE220A8397B1DCDAF is the first output of the published generator for seed 0: the id that cancels it hashes to 0.
    cancels = -(0xE220A8397B1DCDAF - 2**64)
    assert salted_hash(torch.tensor([cancels, cancels + 1]), 2**62, 0).tolist()[0] == 0
    assert salted_hash(torch.tensor([cancels + 1]), 2**62, 0).item() != 0


def test_hash_is_uniform_and_its_salts_are_independent():
    ids = torch.arange(100_000) - 50_000
    found = salted_hash(ids, 1000, torch.arange(3))
    for column in found.T:
        # Fixed ids and salts: these are fixed numbers, far from the 1 % tail.
        assert scipy.stats.chisquare(np.bincount(column, minlength=1000)).pvalue > 0.01
    agreement = (found[:, 0] == found[:, 1]).double().mean()
    assert abs(agreement - 1e-3) < 4 * (1e-3 / 100_000) ** 0.5  # four standard errors
    # Ids that follow each other collide as often as any: n^2 / 2M pairs.
    pairs = sum(n * (n - 1) / 2 for n in np.bincount(salted_hash(torch.arange(2000), 5000), minlength=5000))
    assert abs(pairs - 2000**2 / 10_000) < 4 * 400**0.5


def test_hash_of_shapes_and_strides():
    ids = torch.randint(10**9, (4, 6)).T
    assert salted_hash(ids, 10).shape == (6, 4)
    assert salted_hash(ids, 10, torch.arange(2)).shape == (6, 4, 2)
    assert torch.equal(salted_hash(ids, 10), salted_hash(ids.contiguous(), 10))
    assert salted_hash(ids[:0], 10, torch.arange(2)).shape == (0, 4, 2)
    mapped = torch.vmap(lambda t: salted_hash(t, 10, torch.arange(2)), 1)(ids)
    assert torch.equal(mapped, salted_hash(ids.T, 10, torch.arange(2)))


# -- tables --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 5, 8, 19])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_and_their_gradient_equal_the_references(d, dtype):
    rows = torch.randint(-1, 12, (40, 3))
    table = torch.randn(12, d, dtype=dtype, requires_grad=True)
    y, z = lookup_rows(table, rows), lookup_reference(table, rows.flatten()).view(40, 3, d)
    assert torch.equal(y, z)
    assert (y[rows < 0] == 0).all()
    g = torch.randn_like(y)
    # Both add in the order of the lookups, so that there is nothing to round differently.
    assert torch.equal(*(torch.autograd.grad(t, table, g)[0] for t in (y, z)))


def test_lookup_of_nothing_and_of_strided_arguments():
    table = torch.randn(8, 5).T.requires_grad_()
    rows = torch.randint(5, (3, 4)).T
    assert torch.equal(lookup_rows(table, rows), table[rows])
    empty = lookup_rows(table, rows[:0])
    assert empty.shape == (0, 3, 8)
    (grad,) = torch.autograd.grad(empty.sum(), table)
    assert torch.equal(grad, torch.zeros(5, 8))
    with pytest.raises(IndexError):
        lookup_rows(table, torch.tensor([5]))


def test_embedding_concatenates_the_rows_of_each_lookup():
    ids, table, salts = torch.randint(10**12, (6, 3)), torch.randn(50, 4), torch.tensor([3, 1, 4, 15])
    columns = torch.tensor([0, 0, 1, 2])
    y = hash_embedding(ids, table, salts, columns=columns)
    each = [table[salted_hash(ids[:, c], 50, s)] for c, s in zip(columns.tolist(), salts.tolist(), strict=True)]
    assert torch.equal(y, torch.cat(each, -1))
    total = hash_embedding(ids, table, salts, columns=columns, combine="sum")
    torch.testing.assert_close(total, sum(each))
    assert torch.equal(hash_embedding(ids[:, 0], table, salts[:1]), each[0])


def test_several_tables_take_turns_and_padding_is_zero():
    ids, tables, salts = torch.tensor([[7, -1], [-1, 8]]), torch.randn(2, 9, 3, requires_grad=True), torch.arange(3)
    columns = torch.tensor([0, 0, 1])
    y = hash_embedding(ids, tables, salts, columns=columns, padding_id=-1).view(2, 3, 3)
    assert torch.equal(y[0, 0], tables[0, salted_hash(ids[0, 0], 9, 0)])
    assert torch.equal(y[0, 1], tables[1, salted_hash(ids[0, 0], 9, 1)])
    assert torch.equal(y[1, 2], tables[0, salted_hash(ids[1, 1], 9, 2)])
    assert (y[0, 2] == 0).all()
    assert (y[1, :2] == 0).all()
    (grad,) = torch.autograd.grad(y.sum(), tables)
    assert grad.sum() == 9  # three lookups of three numbers are not padding


def test_gradients_of_the_embedding_of_both_orders():
    ids, salts = torch.randint(10**9, (4, 2)), torch.arange(3)
    table = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    for combine in ("concat", "sum"):
        torch.autograd.gradcheck(lambda t, c=combine: hash_embedding(ids, t, salts, combine=c), table)
    torch.autograd.gradgradcheck(lambda t: hash_embedding(ids, t, salts, padding_id=int(ids[0, 0])).square(), table)


def test_the_number_of_threads_changes_nothing():
    ids, table = torch.randint(10**9, (40_000,)), torch.randn(300, 8, requires_grad=True)

    def numbers():
        y = hash_embedding(ids, table, torch.arange(2))
        return y, *torch.autograd.grad(y.square().sum(), table)

    one = numbers()
    torch.set_num_threads(3)
    try:
        assert all(torch.equal(s, t) for s, t in zip(one, numbers(), strict=True))
    finally:
        torch.set_num_threads(1)


def test_vmap_over_ids_tables_and_gradients():
    ids, salts, tables = torch.randint(10**9, (5, 4)), torch.arange(2), torch.randn(5, 7, 3)
    one = torch.vmap(lambda i: hash_embedding(i, tables[0], salts))(ids)
    assert torch.equal(one, hash_embedding(ids, tables[0], salts))
    other = torch.vmap(lambda t: hash_embedding(ids[0], t, salts))(tables)
    assert torch.equal(other, torch.stack([hash_embedding(ids[0], t, salts) for t in tables]))

    def grad(t, i):
        return torch.func.grad(lambda s: hash_embedding(i, s, salts).square().sum())(t)

    each = torch.stack([grad(t, i) for t, i in zip(tables, ids, strict=True)])
    torch.testing.assert_close(torch.vmap(grad)(tables, ids), each)


def test_operators_pass_torchs_own_checks():
    ids, columns, keys = torch.randint(99, (4, 2)), torch.tensor([0, 1, 1]), torch.tensor([5, -6, 7])
    torch.library.opcheck(torch.ops.holonomy.salted_hash, (ids, columns, keys, 11))
    rows = torch.tensor([0, 2, -1, 2])
    torch.library.opcheck(torch.ops.holonomy.lookup_rows, (torch.randn(3, 5, requires_grad=True), rows))
    torch.library.opcheck(torch.ops.holonomy.sum_rows, (torch.randn(4, 5, requires_grad=True), rows, 3))


def test_compiles_to_one_graph():
    ids, salts, table = torch.randint(10**9, (4, 2)), torch.arange(2), torch.randn(7, 3, requires_grad=True)

    def loss(t):
        return hash_embedding(ids, t, salts, columns=torch.tensor([0, 1])).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(table), table), torch.autograd.grad(loss(table), table))


def test_bad_input_to_hashes_and_tables():
    ids, table, salts = torch.zeros(3, 2, dtype=torch.int64), torch.zeros(5, 4), torch.arange(2)
    with pytest.raises(ValueError, match="'num_buckets' must be at least 1, got 0"):
        salted_hash(ids, 0)
    with pytest.raises(ValueError, match=r"'salt' .* got shape \(1, 2\)"):
        salted_hash(ids, 5, salts[None])
    with pytest.raises(TypeError, match=r"'ids' .* torch.float32"):
        salted_hash(ids.float(), 5)
    with pytest.raises(TypeError, match=r"'ids' .* list"):
        hash_embedding(["a"], table, salts)
    with pytest.raises(ValueError, match=r"'combine' .* 'mean'"):
        hash_embedding(ids, table, salts, combine="mean")
    with pytest.raises(ValueError, match=r"one length, at least 1, got shapes \(2,\) and \(1,\)"):
        hash_embedding(ids, table, salts, columns=salts[:1])
    for bad in (torch.tensor([0, 2]), torch.tensor([-1, 0])):
        with pytest.raises(ValueError, match=r"'columns' must be in \[0, 2\)"):
            hash_embedding(ids, table, salts, columns=bad)
    with pytest.raises(ValueError, match=r"'table' .* got \(4,\)"):
        hash_embedding(ids, table[0], salts)
    with pytest.raises(TypeError, match=r"'table' .* torch.int64"):
        hash_embedding(ids, table.long(), salts)
    with pytest.raises(ValueError, match=r"'table' must have shape \(size, d\), got \(4,\)"):
        lookup_rows(table[0], ids)
    with pytest.raises(TypeError, match=r"'rows'|'ids'"):
        lookup_rows(table, ids.float())
