"""One list of operations for every reading of a network's paths."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from graph.sums.forwards import Network
from torch import Tensor, nn

import foreprune
from foreprune.analysis.effective import effective_masks
from foreprune.analysis.path_kernel import path_kernel
from foreprune.analysis.path_sums import path_count, path_norm
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.task import as_inputs
from foreprune.graph import COUNTED, EVERY_PATH, PathError, active_outputs, record_units
from foreprune.graph.sums.operations import IDENTITIES
from foreprune.graph.sums.reached import REACHED
from foreprune.graph.sums.scales import HANDLERS
from foreprune.graph.units.record import UNIT_HANDLERS
from foreprune.graph.vocabulary import FAMILIES, Family, family_of

PACKAGE = Path(foreprune.__file__).parent
READINGS = {
    "sum": HANDLERS,
    "normalizations open": IDENTITIES,
    "every path": EVERY_PATH,
    "counted": COUNTED,
    "reached": REACHED,
    "units": UNIT_HANDLERS,
}


def test_each_name_is_in_one_family() -> None:
    words = [word for family in Family for word in family.value.split()]
    assert len(words) == len(set(words)) == len(FAMILIES)
    assert family_of("relu_") is family_of("relu") is Family.ACTIVATION
    assert family_of("__getitem__") is Family.STRUCTURE
    assert family_of("no such function") is None


@pytest.mark.parametrize("reading", READINGS)
def test_every_reading_knows_every_family(reading: str) -> None:
    assert READINGS[reading].keys() == set(Family)


def test_the_names_stand_nowhere_else() -> None:
    """A second list would have to be kept in step; single names, for what is special about them, are no list."""
    for path in PACKAGE.rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        for family in (Family.ACTIVATION, Family.CONVOLUTION, Family.MATRIX_PRODUCT):
            known = {word for text in texts for word in text.split()} & set(family.value.split())
            assert (len(known) > 4) == (path.name == "vocabulary.py"), f"{path.name} lists {known}"


def network(activation: Any) -> nn.Module:
    torch.manual_seed(0)
    return Network(lambda m, x: m.b(activation(m.a(x))), a=nn.Linear(3, 4), b=nn.Linear(4, 2)).double()


X = torch.tensor([[0.5, 1.0, 2.0], [1.0, 0.2, 0.3]]).double()


@pytest.mark.parametrize("in_place", [False, True])
def test_an_activation_added_to_the_vocabulary_is_known_to_every_reading(
    in_place: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def activation(x: Tensor) -> Tensor:
        return x.clone().atan_() if in_place else torch.atan(x)

    model, linear = network(activation), network(lambda x: x)
    net = Net.of(model)
    inputs, masks = as_inputs(X), Masks.dense(net.weights)
    with pytest.raises(PathError, match=r"atan_? in module .* has no meaning for paths"):
        foreprune.score(model, "synflow", inputs=X)
    monkeypatch.setitem(FAMILIES, "atan", Family.ACTIVATION)

    # an open gate in the sums, the counts, and where weights are looked for on paths
    found, wanted = (foreprune.score(each, "synflow", inputs=X) for each in (model, linear))
    torch.testing.assert_close(found, wanted)
    assert path_count(model, inputs=X).value == 3 * 4 * 2
    assert path_norm(model, inputs=X) == path_norm(linear, inputs=X)
    assert effective_masks(model, inputs=X) == masks
    # path by path
    assert torch.equal(path_kernel(model, inputs=X).eigenvalues, path_kernel(linear, inputs=X).eigenvalues)
    # units
    assert len(record_units(net, inputs).nodes) == 2
    assert foreprune.prune(model, "phew", density=0.5, inputs=X) == foreprune.prune(
        linear, "phew", density=0.5, inputs=X
    )
    # the gates of a real pass: the squared slope, 1 / (1 + x^2)^2
    ones = {name: torch.ones_like(value) for name, value in net.params.items()}
    energy, exponent = active_outputs(net, inputs, ones, real=net.params)
    slopes = (1 + nn.functional.linear(X, net.params["a.weight"], net.params["a.bias"]).square()).pow(-2)
    expected = (X.square().sum(1, keepdim=True) * slopes).sum(1, keepdim=True).expand(2, 2)
    torch.testing.assert_close(energy * 2.0**exponent, expected)


@pytest.mark.parametrize("name", sorted(Family.ACTIVATION.value.split() + Family.SQUASHING.value.split()))
def test_every_activation_is_a_real_gate_in_px(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is called by its name, and none passes as an open gate: its slope counts."""
    needed: dict[str, tuple[Any, ...]] = {
        "clamp": (-0.1, 0.1), "clip": (-0.1, 0.1), "clamp_min": (0.1,), "clamp_max": (0.1,), "threshold": (0.1, 0.0),
        "prelu": (torch.tensor([0.25]).double(),),
    }  # fmt: skip
    owners = (nn.functional, torch, torch._C._nn)
    function = next(getattr(owner, name) for owner in owners if hasattr(owner, name))
    model = network(lambda x: function(x, *needed.get(name, ())))
    net = Net.of(model)
    ones = {key: torch.ones_like(value) for key, value in net.params.items()}
    energy, exponent = active_outputs(net, as_inputs(X), ones, real=net.params)
    hidden = nn.functional.linear(X, net.params["a.weight"], net.params["a.bias"]).requires_grad_()
    (slope,) = torch.autograd.grad(function(hidden, *needed.get(name, ())).sum(), hidden)
    expected = (X.square().sum(1, keepdim=True) * slope.square()).sum(1, keepdim=True).expand(2, 2)
    torch.testing.assert_close(energy * 2.0**exponent, expected)
    plain = X.square().sum(1, keepdim=True).mul(4).expand(2, 2)
    assert not torch.allclose(energy * 2.0**exponent, plain)
