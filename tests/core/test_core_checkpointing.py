"""Activation checkpointing does not change what a method sees, and torch's own is back after every call."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from contract.nets import example
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import checkpoint as torch_checkpoint
from torch.utils.checkpoint import CheckpointFunction, checkpoint, checkpoint_sequential

import foreprune
from foreprune.core.checkpointing import without_checkpointing

ORIGINAL = torch_checkpoint._checkpoint_without_reentrant_generator  # type: ignore[attr-defined]
METHODS = [method.name for method in foreprune.list_methods()]


class Checkpointed(nn.Module):
    """Both halves in checkpoints of one kind: None, "reentrant", "hooks", "sequential" or "direct"."""

    def __init__(self, kind: str | None) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8))
        self.second = nn.Linear(8, 3)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor
        if self.kind is None:
            output = self.second(F.relu(self.first(x)))
        elif self.kind == "sequential":
            output = self.second(F.relu(checkpoint_sequential(self.first, 2, x, use_reentrant=False)))
        elif self.kind == "direct":
            output = self.second(CheckpointFunction.apply(lambda y: F.relu(self.first(y)), True, x))
        else:
            output = checkpoint(lambda y: self.second(F.relu(self.first(y))), x, use_reentrant=self.kind == "reentrant")
        return output


def _net(kind: str | None) -> Checkpointed:
    torch.manual_seed(0)
    return Checkpointed(kind).double()


def _untouched() -> bool:
    return (
        torch_checkpoint._checkpoint_without_reentrant_generator is ORIGINAL  # type: ignore[attr-defined]
        and "apply" not in vars(CheckpointFunction)
    )


@pytest.mark.parametrize("kind", ["reentrant", "hooks", "sequential", "direct"])
@pytest.mark.parametrize("method", METHODS)
def test_masks_are_those_without_checkpoints(method: str, kind: str) -> None:
    given, record = example("mlp"), foreprune.get_method(method)
    arguments: dict[str, Any] = {**given.arguments(record), "density": 0.4, "seed": 3}
    if "mean image" in record.needs:
        arguments["mean_image"] = given.x.mean(0)
    if record.score is not None:
        parts = {key: value for key, value in arguments.items() if key not in ("density", "rounds")}
        plain, same = (foreprune.score(_net(one), method, **parts) for one in (None, kind))
        assert all(torch.equal(plain[name], same[name]) for name in plain)
    assert foreprune.prune(_net(kind), method, **arguments) == foreprune.prune(_net(None), method, **arguments)
    assert _untouched()


def _switched_on() -> Checkpointed:
    """With the hook that transformers sets for checkpointing: it makes gradients begin at the embeddings."""
    model = _net(None)
    model.first[0].register_forward_hook(lambda module, args, output: output.requires_grad_(True))
    return model


@pytest.mark.parametrize("method", METHODS)
def test_masks_are_those_without_a_hook_that_switches_gradients_on(method: str) -> None:
    given, record = example("mlp"), foreprune.get_method(method)
    arguments: dict[str, Any] = {**given.arguments(record), "density": 0.4, "seed": 3}
    if "mean image" in record.needs:
        arguments["mean_image"] = given.x.mean(0)
    assert foreprune.prune(_switched_on(), method, **arguments) == foreprune.prune(_net(None), method, **arguments)


def test_measures_are_those_without_a_hook_that_switches_gradients_on() -> None:
    x = example("mlp").x
    assert foreprune.analyze(_switched_on().eval(), data=x) == foreprune.analyze(_net(None).eval(), data=x)


@pytest.mark.parametrize("kind", ["reentrant", "hooks"])
def test_measures_are_those_without_checkpoints(kind: str) -> None:
    given = example("mlp")
    plain, same = (foreprune.analyze(_net(one).eval(), data=given.x) for one in (None, kind))
    assert plain == same
    assert plain.ntk_trace is not None
    assert _untouched()


def test_checkpoints_are_back_after_an_error_and_in_nested_passes() -> None:
    with without_checkpointing():
        with pytest.raises(ZeroDivisionError), without_checkpointing():
            raise ZeroDivisionError
        assert not _untouched()
    assert _untouched()


def test_checkpoints_of_other_threads_stay_checkpoints() -> None:
    def calls(use_reentrant: bool) -> int:
        """How often a checkpointed function runs in a forward and a backward pass."""
        ran = []

        def double(x: Tensor) -> Tensor:
            ran.append(1)
            return x * x

        checkpoint(double, torch.ones(2, requires_grad=True), use_reentrant=use_reentrant).sum().backward()
        return len(ran)

    found: list[int] = []
    with without_checkpointing():
        assert [calls(True), calls(False)] == [1, 1]
        thread = threading.Thread(target=lambda: found.extend([calls(True), calls(False)]))
        thread.start()
        thread.join()
    assert found == [2, 2]
    assert [calls(True), calls(False)] == [2, 2]


class OwnCheckpoint(torch.autograd.Function):
    """A checkpoint as other libraries write it: it calls backward itself, which gradients of a few tensors forbid."""

    @staticmethod
    def forward(ctx: Any, function: Any, x: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(x)
        with torch.no_grad():
            result: Tensor = function(x)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        if not torch.autograd._is_checkpoint_valid():  # type: ignore[attr-defined]
            raise RuntimeError("Checkpointing is not compatible with .grad(), please use .backward() if possible")
        raise AssertionError


def test_checkpoints_of_other_libraries_are_refused() -> None:
    class Own(Checkpointed):
        def forward(self, x: Tensor) -> Tensor:
            hidden = F.relu(self.first(x))
            output: Tensor = self.second(OwnCheckpoint.apply(lambda y: y * 2, hidden))
            return output

    given, model = example("mlp"), Own(None).double()
    with pytest.raises(ValueError, match=r"activation checkpointing of its own.*; switch that off while pruning"):
        foreprune.score(model, "snip", data=(given.x, given.y))
    assert all(parameter.grad is None for parameter in model.parameters())
