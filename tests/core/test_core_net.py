"""`Net`: the real forward on other tensors, modes put back, what cannot be viewed said so."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from contract.nets import NETS, example
from torch import Tensor, nn
from torch.nn import functional as F

import foreprune
from foreprune.core.masks import Masks
from foreprune.core.net import Net, isolated_randomness, primary_output, scoring


@pytest.mark.parametrize("name", NETS)
def test_the_view_computes_what_the_module_computes(name: str) -> None:
    given = example(name)
    given.model.eval()
    net = Net.of(given.model)
    torch.testing.assert_close(net(net.params, given.x), given.model(given.x), rtol=1e-12, atol=1e-14)
    zero = {key: torch.zeros_like(value) for key, value in net.params.items()}
    assert not net(zero, given.x).any()
    assert torch.equal(net({}, given.x), net(net.params, given.x))


@pytest.mark.parametrize("name", NETS)
def test_masked_parameters_compute_what_a_masked_module_computes(name: str) -> None:
    given = example(name)
    given.model.eval()
    net = Net.of(given.model)
    masks = foreprune.prune(given.model, "random", density=0.5)
    found = net(masks(net.params), given.x)
    masks.apply_(given.model)
    torch.testing.assert_close(found, given.model(given.x), rtol=1e-12, atol=1e-14)


def test_parameters_are_aliases_and_tied_ones_are_listed_once() -> None:
    model = example("tied").model
    net = Net.of(model)
    assert list(net.params) == [name for name, _ in model.named_parameters()]
    assert net.params["down.weight"].data_ptr() == model.down.weight.data_ptr()
    assert not net.params["down.weight"].requires_grad


@pytest.mark.parametrize("batchnorm", ["train", "eval"])
def test_scoring_sets_modes_and_puts_them_back(batchnorm: Any) -> None:
    model = example("conv").model
    model.features[1].eval()
    before = [module.training for module in model.modules()]
    net = Net.of(model)
    with torch.no_grad(), torch.autocast("cpu"), scoring(net, batchnorm=batchnorm):
        assert torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")
        for module in model.modules():
            wanted = batchnorm == "train" and isinstance(module, nn.BatchNorm2d)
            assert module.training == wanted
    assert [module.training for module in model.modules()] == before
    with torch.inference_mode(), scoring(net, batchnorm=batchnorm):
        assert not torch.is_inference_mode_enabled()
    with pytest.raises(KeyError), scoring(net, batchnorm=batchnorm):
        raise KeyError
    assert [module.training for module in model.modules()] == before


def test_an_unknown_mode_of_batch_normalization() -> None:
    net = Net.of(example("conv").model)
    rule = r'batchnorm must be "train" \(statistics of the scoring batch\) or "eval", not \'test\''
    with pytest.raises(ValueError, match=rule), scoring(net, batchnorm="test"):  # type: ignore[arg-type]
        pass


def test_what_is_no_module_and_what_is_not_initialized() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, not dict"):
        Net.of({})  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lazy modules are announced as experimental
        lazy = nn.Sequential(nn.Linear(3, 4), nn.LazyLinear(2))
    with pytest.raises(
        ValueError, match=r"parameter '1.weight' is not initialized yet: run the model once, then prune it"
    ):
        foreprune.prune(lazy, "magnitude", density=0.5)
    with pytest.raises(
        ValueError, match=r"parameter 'weight' is on the meta device and has no values; write model.to_empty\(device="
    ):
        foreprune.prune(nn.Linear(3, 4, device="meta"), "magnitude", density=0.5)
    lazy(torch.zeros(1, 3))
    assert foreprune.prune(lazy, "magnitude", density=0.5).total == 20


class Hooked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 3)
        self.on = True

    def forward(self, x: Tensor) -> Tensor:
        with torch.autograd.graph.save_on_cpu() if self.on else contextlib.nullcontext():
            output: Tensor = self.second(F.relu(self.first(x)))
        return output


@pytest.mark.parametrize("method", ["snip", "grasp", "synflow"])
def test_other_saved_tensor_hooks_are_refused(method: str) -> None:
    """They may compute again after the masked weights have left the module: scores of another network."""
    given, model = example("mlp"), Hooked().double()
    model.train()
    with pytest.raises(
        ValueError, match=r"the model sets hooks on the tensors that autograd saves .*; switch that off"
    ):
        foreprune.score(model, method, data=(given.x, given.y), inputs=given.x)
    assert model.training
    model.on = False
    assert foreprune.score(model, method, data=(given.x, given.y), inputs=given.x)


def test_compiled_models_are_looked_through_and_scored_eagerly() -> None:
    """Names are those of the plain model, so masks fit both; compiled code would not see other tensors."""
    given = example("mlp")
    arguments: dict[str, Any] = {"data": (given.x, given.y), "inputs": given.x}
    wanted = {name: foreprune.prune(given.model, name, density=0.4, **arguments) for name in ("snip", "synflow")}
    compiled = torch.compile(given.model, backend="eager")
    compiled(given.x)
    for name, masks in wanted.items():
        assert foreprune.prune(compiled, name, density=0.4, **arguments) == masks
    assert wanted["snip"].apply_(compiled) is compiled
    assert int((given.model[0].weight != 0).sum()) == wanted["snip"].layer_counts()["0.weight"][0]
    in_place = example("mlp").model
    in_place.compile(backend="eager")
    in_place(given.x)
    for name, masks in wanted.items():
        assert foreprune.prune(in_place, name, density=0.4, **arguments) == masks


def test_isolated_randomness_is_seeded_and_leaves_no_trace() -> None:
    def draw() -> tuple[float, float]:
        return float(torch.rand(())), float(np.random.rand())  # noqa: NPY002

    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    following = draw()
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    with isolated_randomness(7):
        first = draw()
    with pytest.raises(KeyError), isolated_randomness(2**63 - 1):
        raise KeyError(draw())
    with isolated_randomness(7):
        assert draw() == first
    assert draw() == following


def test_the_primary_output() -> None:
    tensor, other = torch.ones(1), torch.zeros(1)

    class Output:
        logits = tensor

    for output in (tensor, (tensor, other), [None, tensor], {"x": other, "logits": tensor}, {"x": tensor}, Output()):
        assert primary_output(output) is tensor
    for nothing in (None, (), {"logits": 3}, 1.0):
        with pytest.raises(TypeError, match="with no tensor in it; return a tensor, a tuple that begins with one"):
            primary_output(nothing)


def test_masks_of_a_score_are_checked() -> None:
    """A new method that forgets a layer must not pass as a method that prunes it."""
    from foreprune.core.by_score import by_score
    from foreprune.core.task import Task

    net = Net.of(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)))
    task = Task((), None, None, torch.Generator())
    rates: dict[str, Tensor] = {}

    def score(*_: Any) -> dict[str, Tensor]:
        return rates

    for given, message in (
        ({"0.weight": torch.ones(3, 2)}, "the scores lack '1.weight'; give every prunable weight a tensor"),
        (
            {"0.weight": torch.ones(3, 2), "1.weight": torch.ones(6)},
            r"'1.weight' must be .* \(2, 3\), not shape \(6,\)",
        ),
        (
            {"0.weight": torch.ones(3, 2), "1.weight": torch.ones(2, 3), "0.bias": torch.ones(3)},
            "the scores have '0.bias', which is no",
        ),
    ):
        rates = given
        with pytest.raises(ValueError, match=message):
            by_score(score, net, task, 0.5)
    rates = {"1.weight": torch.ones(2, 3), "0.weight": torch.ones(3, 2)}
    assert by_score(score, net, task, 0.5).kept == 6
    assert isinstance(by_score(score, net, task, 0.5), Masks)


class Stateful(nn.Module):
    """Keeps a state of what it has seen, in place, but not while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = self.first(x).exp()
        output: torch.Tensor = self.second(state)
        if not self.training:
            state += 1
        return output


@pytest.mark.parametrize("method", ["snip", "grasp"])
def test_what_is_overwritten_in_evaluation_mode_is_said(method: str) -> None:
    with pytest.raises(ValueError, match=r"overwrites in place what gradients need.*model\.config\.use_cache = False"):
        foreprune.prune(Stateful(), method, density=0.5, data=(torch.rand(4, 3), torch.arange(4) % 2))
