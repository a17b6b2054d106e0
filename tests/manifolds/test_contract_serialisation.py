"""A manifold survives copying, pickling and state_dict, and knows which others have its geometry."""

import copy
import io
import pickle

import torch
from cases import CASES, Case, each_case

from holonomy import manifolds
from holonomy.manifolds import Manifold


@each_case()
def test_copies_and_pickles_are_the_same_geometry(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs(3)
    for other in (copy.copy(manifold), copy.deepcopy(manifold), pickle.loads(pickle.dumps(manifold))):
        assert type(other) is type(manifold)
        assert other.key == manifold.key
        assert torch.equal(other.retr(inputs["x"], inputs["u"]), manifold.retr(inputs["x"], inputs["u"]))


@each_case()
def test_keys_are_equal_for_equal_geometry_only(case: Case) -> None:
    assert case.manifold().key == case.manifold().key
    assert case.manifold(validate=True).key == case.manifold().key
    assert hash(case.manifold().key) == hash(case.manifold().key)
    for other in CASES:
        same = other.kind is case.kind and other.manifold().extra_repr() == case.manifold().extra_repr()
        assert (other.manifold().key == case.manifold().key) == same, other.id


@each_case()
def test_state_dict_holds_plain_tensors(case: Case) -> None:
    state = case.manifold().state_dict()
    assert all(type(t) is torch.Tensor for t in state.values())
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    case.manifold().load_state_dict(torch.load(file, weights_only=True))


@each_case()
def test_repr_shows_how_to_make_it(case: Case) -> None:
    manifold = case.manifold(validate=True)
    text = repr(manifold)
    assert text.startswith(case.kind.__name__)
    assert "validate=True" in text
    rebuilt = eval(text, dict(vars(manifolds)))
    assert isinstance(rebuilt, Manifold)
    assert rebuilt.key == manifold.key
    assert rebuilt.validate


@each_case()
def test_casting_a_model_leaves_the_geometry(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs(3)
    wanted = manifold.retr(inputs["x"], inputs["u"])
    manifold.to(torch.bfloat16).double()
    assert torch.equal(manifold.retr(inputs["x"], inputs["u"]), wanted)
