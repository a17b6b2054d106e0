"""The manifold stays with its parameter through everything that torch does to parameters."""

import copy
import io
import pickle
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import prune

from holonomy.manifolds import (
    DimensionError,
    Euclidean,
    ManifoldParameter,
    MembershipError,
    Simplex,
    Sphere,
    find_manifold,
    find_manifolds,
    manifold_parameters,
)


class Scores(nn.Module):
    """A layer with two parameters that share a manifold, and a plain one."""

    def __init__(self, classes=3, features=4):
        super().__init__()
        manifold = Sphere()
        self.weight = ManifoldParameter(manifold.random(classes, features), manifold)
        self.query = ManifoldParameter(manifold.random(features), manifold)
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, x):
        return (x + self.query) @ self.weight.T + self.bias


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), Scores())


def assert_on_sphere(model):
    found = manifold_parameters(model)
    assert list(found) == ["1.weight", "1.query"]
    assert all(isinstance(manifold, Sphere) for manifold in found.values())


@pytest.fixture
def future(request):
    """Set one of torch's switches for how a module's parameters are converted, and set it back."""
    getattr(torch.__future__, f"set_{request.param}")(True)
    yield
    getattr(torch.__future__, f"set_{request.param}")(False)


# -- construction ------------------------------------------------------------------------------------------------------


def test_is_a_parameter_and_a_plain_tensor_in_arithmetic():
    data = Sphere().random(3, 4)
    p = ManifoldParameter(data, Sphere())
    assert isinstance(p, nn.Parameter)
    assert p.is_leaf
    assert p.requires_grad
    assert p.data_ptr() == data.data_ptr()
    assert all(type(t) is torch.Tensor for t in (p + 1, p.detach(), p.data, p[0], p.clone(), p.double(), 2 * p.T))
    assert not ManifoldParameter(data, Sphere(), requires_grad=False).requires_grad
    assert repr(p).startswith("Parameter on Sphere() containing:\ntensor([[")
    assert repr(p).endswith("requires_grad=True)")


def test_manifold_is_taken_from_the_data_or_euclidean():
    p = ManifoldParameter(torch.randn(3))
    assert isinstance(p.manifold, Euclidean)
    simplex = Simplex()
    assert ManifoldParameter(ManifoldParameter(simplex.random(3), simplex)).manifold is simplex


def test_errors_name_what_is_wrong():
    with pytest.raises(TypeError, match="'data' must be a tensor, got list"):
        ManifoldParameter([1.0, 0.0], Sphere())
    with pytest.raises(TypeError, match=r"real floating dtype, got torch.int64"):
        ManifoldParameter(torch.tensor([1, 0]), Sphere())
    with pytest.raises(TypeError, match=r"write Sphere\(\), not Sphere"):
        ManifoldParameter(torch.ones(2), Sphere)
    with pytest.raises(TypeError, match="'manifold' must be a Manifold, got str"):
        ManifoldParameter(torch.ones(2), "sphere")
    with pytest.raises(DimensionError, match=r"Sphere.* shape \(3, 1\)"):
        ManifoldParameter(torch.ones(3, 1), Sphere())


@pytest.mark.parametrize(("data", "reason"), [([2.0, 0.0], "off the manifold by 1"), ([torch.nan, 0.0], "NaN")])
def test_membership_is_checked_on_request(data, reason):
    data = torch.tensor(data, requires_grad=True)
    ManifoldParameter(data, Sphere())
    with pytest.raises(MembershipError, match=reason):
        ManifoldParameter(data, Sphere(), validate=True)
    assert ManifoldParameter(Sphere().random(5, 3), Sphere(), validate=True).shape == (5, 3)


# -- copies and files --------------------------------------------------------------------------------------------------


def test_copies_of_a_bare_parameter():
    p = ManifoldParameter(Simplex("exp").random(3, 4), Simplex("exp"), requires_grad=False)
    p.note = "kept by pickle"
    file = io.BytesIO()
    torch.save(p, file)
    file.seek(0)
    pickled = pickle.loads(pickle.dumps(p))
    for q in (copy.deepcopy(p), copy.copy(p), pickled, torch.load(file, weights_only=False)):
        assert type(q) is ManifoldParameter
        assert q.manifold.key == p.manifold.key
        assert torch.equal(p, q)
        assert not q.requires_grad
    assert copy.copy(p).data_ptr() == p.data_ptr() != copy.deepcopy(p).data_ptr()
    assert pickled.note == p.note


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
)
def test_copies_of_a_module_share_one_copy_of_the_manifold(model, duplicate):
    other = duplicate(model)
    assert_on_sphere(other)
    assert other[1].weight.manifold is other[1].query.manifold
    assert other[1].weight.manifold is not model[1].weight.manifold


def test_state_dict_holds_plain_tensors(model):
    state = model.state_dict()
    assert all(type(t) is torch.Tensor for t in state.values())
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    for loaded in (torch.load(file, weights_only=True), load_safetensors(save_safetensors(state))):
        fresh = nn.Sequential(nn.Linear(4, 4), Scores())
        fresh.load_state_dict(loaded)
        assert_on_sphere(fresh)
        assert torch.equal(fresh[1].weight, model[1].weight)


def test_load_state_dict_by_assignment_gives_the_manifold_back(model):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    assert type(model[1].weight) is ManifoldParameter
    assert model[1].weight.data_ptr() == state["1.weight"].data_ptr()
    assert_on_sphere(model)


# -- conversions -------------------------------------------------------------------------------------------------------

FUTURES = ["overwrite_module_params_on_conversion", "swap_module_params_on_conversion"]


def test_conversions_keep_the_object(model):
    before = model[1].weight
    for converted in (model.double(), model.to("cpu"), model.bfloat16(), model.share_memory()):
        assert converted[1].weight is before
        assert_on_sphere(converted)


@pytest.mark.parametrize("future", FUTURES, indirect=True)
def test_conversions_that_replace_the_tensor(model, future):
    assert_on_sphere(model.double())
    assert model[1].weight.dtype == torch.float64
    assert model[1].weight.manifold is model[1].query.manifold  # found, and given back
    model.load_state_dict(model.state_dict())
    model.load_state_dict(model.state_dict(), assign=True)
    assert type(model[1].weight) is ManifoldParameter
    assert_on_sphere(model)


def test_meta_device_and_to_empty(model):
    with torch.device("meta"):
        skeleton = nn.Sequential(nn.Linear(4, 4), Scores())
    assert skeleton[1].weight.is_meta
    assert_on_sphere(skeleton)
    assert_on_sphere(copy.deepcopy(skeleton).to_empty(device="cpu"))
    skeleton.load_state_dict(model.state_dict(), assign=True)
    assert_on_sphere(skeleton)
    x = torch.randn(2, 4)
    torch.testing.assert_close(skeleton(x), model(x), atol=0, rtol=0)


def test_fake_tensors_carry_the_manifold():
    with FakeTensorMode():
        fake = nn.Sequential(nn.Linear(4, 4), Scores())
        assert isinstance(fake[1].weight, ManifoldParameter)
        assert isinstance(fake[1].weight, nn.Parameter)
        assert_on_sphere(fake)
        assert fake(torch.randn(2, 4)).shape == (2, 3)
    assert not isinstance(nn.Parameter(torch.zeros(2)), ManifoldParameter)


# -- replacement by tools ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("duplicate", [lambda m: m, copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))])
def test_found_through_the_module_where_a_tool_replaced_the_tensor(model, duplicate):
    layer = duplicate(model[1])
    layer._parameters["weight"] = replacement = nn.Parameter(layer.weight.detach().clone())
    assert isinstance(find_manifold(replacement), Sphere)
    assert type(replacement) is ManifoldParameter
    manifolds = find_manifolds([layer.bias, *layer.parameters()])
    assert manifolds[0] is None
    assert [type(m) for m in manifolds[1:]] == [Sphere, Sphere, type(None)]
    assert find_manifold(nn.Parameter(layer.weight.detach())) is None  # no module holds this one


def test_a_replacement_that_cannot_lie_on_the_manifold_is_an_error(model):
    model[1]._parameters["weight"] = nn.Parameter(torch.zeros(12, 1))
    with pytest.raises(DimensionError, match=r"'weight' was registered on Sphere\(\).* shape \(12, 1\), wanted"):
        find_manifolds(model.parameters())
    with pytest.raises(DimensionError):
        manifold_parameters(model)


def test_assigning_a_plain_parameter_keeps_the_manifold_and_ties():
    layer, other = Scores(), Scores()
    tied = nn.Parameter(Sphere().random(7, 4))
    layer.weight = other.weight = tied
    assert layer.weight is other.weight is tied
    assert isinstance(tied.manifold, Sphere)


def test_leaving_the_manifold_takes_a_word():
    layer = Scores()
    del layer.weight
    layer.weight = nn.Parameter(torch.randn(3, 4))
    assert find_manifold(layer.weight) is None
    layer.query = ManifoldParameter(torch.randn(4), Euclidean())
    assert isinstance(find_manifold(layer.query), Euclidean)


def test_a_module_that_is_initialised_anew_forgets():
    layer = Scores()
    nn.Module.__init__(layer)
    layer.weight = nn.Parameter(torch.randn(3, 4))
    assert find_manifold(layer.weight) is None


def test_modules_are_not_kept_alive():
    import gc

    from holonomy.manifolds import parameter

    gc.collect()
    before = len(parameter._remembered)
    layers = [Scores() for _ in range(5)]
    assert len(parameter._remembered) == before + 5
    del layers
    gc.collect()
    assert len(parameter._remembered) == before


def test_fully_sharded_parameters_are_found():
    script = """
        import torch
        import torch.distributed as dist
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        from torch.distributed.tensor import DTensor
        from holonomy.manifolds import ManifoldParameter, Sphere, manifold_parameters

        class Layer(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = ManifoldParameter(Sphere().random(8, 4), Sphere())
                self.bias = torch.nn.Parameter(torch.zeros(8))

            def forward(self, x):
                return x @ self.weight.T + self.bias

        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        layer = Layer()
        fully_shard(layer, mesh=init_device_mesh("cpu", (1,)))
        assert isinstance(layer.weight, DTensor)
        assert {n: type(m) for n, m in manifold_parameters(layer).items()} == {"weight": Sphere}
        assert isinstance(layer.weight, ManifoldParameter)
        layer(torch.randn(3, 4)).square().sum().backward()
        assert isinstance(layer.weight.grad, DTensor)
        assert {n: type(m) for n, m in manifold_parameters(layer.double()).items()} == {"weight": Sphere}
        dist.destroy_process_group()
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False, timeout=120).returncode == 0


# -- torch's tools -----------------------------------------------------------------------------------------------------


def test_containers(model):
    points = ManifoldParameter(Sphere().random(4), Sphere())
    listed = nn.ParameterList([points, torch.zeros(2)])
    named = nn.ParameterDict({"a": points, "b": nn.Parameter(torch.zeros(2))})
    assert manifold_parameters(listed).keys() == {"0"}
    assert manifold_parameters(named).keys() == {"a"}
    assert manifold_parameters(nn.ModuleList([model, listed])).keys() == {"0.1.weight", "0.1.query", "1.0"}


def test_tools_that_read_parameters(model):
    x = torch.randn(2, 4)
    expected = model(x)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.testing.assert_close(torch.func.functional_call(model, state, x), expected)
    vector = nn.utils.parameters_to_vector(model.parameters())
    assert type(vector) is torch.Tensor
    nn.utils.vector_to_parameters(vector, model.parameters())
    expected.sum().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    assert model[1].weight.grad.norm() <= 1e-3
    averaged = torch.optim.swa_utils.AveragedModel(model)
    averaged.update_parameters(model)
    assert_on_sphere(averaged.module)
    assert_on_sphere(model)


def test_parametrization_and_pruning_by_others_keep_the_manifold(model):
    prune.l1_unstructured(model[1], "weight", amount=1)
    assert manifold_parameters(model).keys() == {"1.query", "1.weight_orig"}
    nn.utils.parametrize.register_parametrization(model[1], "query", nn.Identity())
    assert "1.parametrizations.query.original" in manifold_parameters(model)


def test_compile_and_export_see_plain_parameters(model):
    x = torch.randn(2, 4)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))
    compiled(x).sum().backward()
    assert model[1].weight.grad is not None
    exported = torch.export.export(model, (x,))
    torch.testing.assert_close(exported.module()(x), model(x))
