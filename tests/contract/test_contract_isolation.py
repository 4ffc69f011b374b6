"""Every method, on every network: the user's model and the global state are bit for bit what they were."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from contract.nets import NETS, Example, example, refusals
from contract.photograph import differences, photograph
from torch import Tensor, nn
from torch.nn import functional as F

import foreprune
from foreprune.core.method import Method

pytestmark = pytest.mark.filterwarnings(
    "ignore::foreprune.LayerCollapse", "ignore::foreprune.core.unscored.UnscoredBlocks"
)
METHODS = [pytest.param(method, id=method.name) for method in foreprune.list_methods()]
RANDOM = ("random", "uniform", "er", "erk")


def disarrange(model: nn.Module) -> None:
    """Give a model the odd state that users' models have."""
    model.train()
    for index, module in enumerate(model.modules()):
        module.training = index % 2 == 0
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 3 != 1)
        if index % 2:
            parameter.grad = torch.full_like(parameter, 0.25)
    model.register_forward_hook(lambda *_: None)
    torch.manual_seed(12345)  # states that no seeding inside of a call can bring back by chance
    np.random.seed(12345)  # noqa: NPY002
    random.seed(12345)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("method", METHODS)
def test_the_model_and_the_global_state_are_untouched(method: Method, name: str) -> None:
    given = example(name)
    disarrange(given.model)
    before = photograph(given.model)
    with refusals(method):
        foreprune.prune(given.model, method.name, density=0.3, **given.arguments(method))
    assert differences(before, photograph(given.model)) == []
    if method.score is not None:
        arguments = {key: value for key, value in given.arguments(method).items() if key != "rounds"}
        foreprune.score(given.model, method.name, **arguments)
        assert differences(before, photograph(given.model)) == []


def test_every_method_that_needs_inputs_runs_the_forward() -> None:
    """Otherwise the tests of failing forwards would prove nothing."""
    for param in METHODS:
        (method,) = param.values
        given, calls = example("mlp"), []
        given.model.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        foreprune.prune(given.model, method.name, density=0.3, **given.arguments(method))
        assert bool(calls) == bool(method.needs), method.name


class Fails(Exception):
    pass


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("call", [1, 2])
def test_they_are_untouched_after_a_forward_that_fails(method: Method, name: str, call: int) -> None:
    given = example(name)
    disarrange(given.model)
    calls = 0

    def fail(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Fails

    given.model.register_forward_hook(fail)
    arguments = given.arguments(method)
    if method.needs & {"images", "labels"}:
        arguments["data"] = [(given.x, given.y), (given.x, given.y)]
    before = photograph(given.model)
    raised = False
    try:
        with refusals(method):
            foreprune.prune(given.model, method.name, density=0.3, **arguments)
    except Fails:
        raised = True
    assert raised == (calls >= call)
    assert differences(before, photograph(given.model)) == []


@pytest.mark.parametrize("method", [param for param in METHODS if "labels" in param.values[0].needs])
def test_they_are_untouched_after_a_loss_that_fails(method: Method) -> None:
    given = example("residual")
    disarrange(given.model)

    called = False

    def loss(output: Tensor, target: Tensor) -> Tensor:
        nonlocal called
        called = True
        raise Fails

    before = photograph(given.model)
    raised = False
    try:
        foreprune.prune(given.model, method.name, density=0.3, loss=loss, **given.arguments(method))
    except Fails:
        raised = True
    assert called
    assert raised, "an error of the loss was swallowed"
    assert differences(before, photograph(given.model)) == []


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides_whatever_the_global_random_state(method: Method) -> None:
    masks = []
    for state in (1, 2):
        given = example("conv")
        torch.manual_seed(state)
        np.random.seed(state)  # noqa: NPY002
        random.seed(state)
        masks.append(foreprune.prune(given.model, method.name, density=0.3, seed=5, **given.arguments(method)))
    assert masks[0] == masks[1]


@pytest.mark.parametrize("name", RANDOM)
def test_another_seed_gives_another_random_mask(name: str) -> None:
    model = example("conv").model
    masks = [foreprune.prune(model, name, density=0.3, seed=seed) for seed in (0, 1)]
    assert masks[0] != masks[1]
    assert masks[0].kept == masks[1].kept


@pytest.mark.parametrize("method", METHODS)
def test_defaults_of_type_and_device_do_not_matter(method: Method) -> None:
    """`torch.set_default_device("cuda")` is common; "meta" stands for it here."""
    given = example("mlp")
    scope: Any = "local" if method.score else "global"
    few = foreprune.prune(given.model, method.name, density=0.013, scope=scope, **given.arguments(method))
    wanted = foreprune.prune(given.model, method.name, density=0.3, **given.arguments(method))
    try:
        torch.set_default_dtype(torch.float64)
        assert foreprune.prune(given.model, method.name, density=0.3, **given.arguments(method)) == wanted
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        found = foreprune.prune(given.model, method.name, density=0.013, scope=scope, **given.arguments(method))
        assert found == few
        assert foreprune.prune(given.model, method.name, density=0.3, **given.arguments(method)) == wanted


def _frozen(given: Example) -> None:
    given.model.requires_grad_(False)


SURROUNDINGS: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["conv", "encoder"])
def test_the_mask_does_not_depend_on_the_context(method: Method, name: str, surroundings: str) -> None:
    given = example(name)
    with refusals(method, skip=True):
        wanted = foreprune.prune(given.model, method.name, density=0.3, **given.arguments(method))
    with SURROUNDINGS[surroundings]():
        found = foreprune.prune(given.model, method.name, density=0.3, **given.arguments(method))
    assert found == wanted
    assert not any(mask.is_inference() for mask in found._tensors.values())


@pytest.mark.parametrize("method", METHODS)
def test_models_and_data_made_in_inference_mode_are_fine(method: Method) -> None:
    given = example("conv")
    wanted = foreprune.prune(given.model, method.name, density=0.3, **given.arguments(method))
    with torch.inference_mode():
        other = example("conv")
    assert other.x.is_inference()
    assert foreprune.prune(other.model, method.name, density=0.3, **other.arguments(method)) == wanted


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["conv", "encoder"])
def test_the_mask_does_not_depend_on_flags_of_the_model(method: Method, name: str) -> None:
    """Training or evaluation mode, frozen parameters: scoring sets its own modes, so dropout plays no part."""
    given = example(name)
    with refusals(method, skip=True):
        wanted = foreprune.prune(given.model, method.name, density=0.3, **given.arguments(method))
    given.model.eval()
    assert foreprune.prune(given.model, method.name, density=0.3, **given.arguments(method)) == wanted
    given.model.requires_grad_(False)
    assert foreprune.prune(given.model, method.name, density=0.3, **given.arguments(method)) == wanted


class Buffers(nn.Module):
    """A forward that replaces one buffer, fills another that was None, and registers a third."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.average: Tensor
        self.cache: Tensor | None
        self.register_buffer("average", torch.zeros(3))
        self.register_buffer("cache", None)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.linear(x)
        self.average = 0.9 * self.average + hidden.mean(0)
        if self.cache is None:
            self.cache = torch.ones(3, dtype=x.dtype)
        if "late" not in self._buffers:
            self.register_buffer("late", torch.ones(3))
        return hidden * self.cache + self.average


@pytest.mark.parametrize("method", ["snip", "grasp", "synflow"])
def test_buffers_that_a_forward_creates_or_replaces_are_put_back(method: str) -> None:
    model = Buffers().double()
    given = example("mlp")
    before = photograph(model)
    foreprune.prune(model, method, density=0.5, data=(given.x, given.y), inputs=given.x)
    assert differences(before, photograph(model)) == []


@pytest.mark.parametrize("method", [param for param in METHODS if param.values[0].needs & {"images", "labels"}])
def test_a_forward_that_works_on_its_inputs_in_place_changes_no_data(method: Method) -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = example("mlp").model

        def forward(self, x: Tensor) -> Tensor:
            x -= 0.5
            output: Tensor = self.body(x)
            return output

    given = example("mlp")
    seen = given.x.clone()
    model = InPlace().double()
    arguments = {**given.arguments(method), "data": [(given.x[:6], given.y[:6]), (given.x[6:], given.y[6:])]}
    masks = foreprune.prune(model, method.name, density=0.3, **arguments)
    assert torch.equal(given.x, seen)
    model.forward = lambda x: model.body(x - 0.5)  # type: ignore[method-assign]
    assert foreprune.prune(model, method.name, density=0.3, **arguments) == masks


def test_gradients_can_still_be_recorded_on_the_model_afterwards() -> None:
    given = example("residual")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        foreprune.prune(given.model, "grasp", density=0.5, data=(given.x, given.y))
    F.cross_entropy(given.model(given.x), given.y).backward()
    assert all(parameter.grad is not None for parameter in given.model.parameters())
