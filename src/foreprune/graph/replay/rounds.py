"""The gradients of a sum over paths, round after round, as iterative methods ask for them.

The first round runs the network. The second does so too and notes what that comes down to; if the list of operations
agrees with the network on other weights as well, it runs alone from then on, in memory that is used again (asking the
system for fresh memory costs more than the arithmetic). Where it does not, or numbers leave the range for which powers
of two were chosen, the network itself runs again.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreprune.core.derivatives import gradients
from foreprune.core.masks import Masks
from foreprune.core.net import Net, Params
from foreprune.graph.replay.tape import Tape, program
from foreprune.graph.replay.unfolded import unfolded
from foreprune.graph.sums.gates import Gates, Handlers
from foreprune.graph.sums.paths import PathGraph, check_growing

RANGE = 2.0**30  # of what was within 2**20 when powers of two were chosen; derivatives stay within its square
_ROUNDING = 1e-4
RECORDINGS = 20  # at most, in one call
_READS = frozenset({"tolist", "item", "numpy", "__array__", "__dlpack__", "data_ptr", "storage", "untyped_storage"})


@dataclass(eq=False)
class _State:
    """What the rounds have come to: for each function of `masked` its dense values and memory for the masked ones; then
    how many rounds there were for weights of one layout and one image, and the program, once there is one."""

    memory: dict[Any, tuple[dict[str, Tensor], dict[str, Tensor]]] = field(default_factory=dict)
    weights: Params = field(default_factory=dict)
    image: Tensor | None = None
    count: int = 0
    recordings: int = 0
    replay: Replay | None = None

    def begin_round(self, weights: Params, image: Tensor | None) -> None:
        same = image is self.image if image is None or self.image is None else torch.equal(image, self.image)
        if not same or (weights is not self.weights and _layout(weights) != _layout(self.weights)):
            self.weights, self.image, self.count, self.recordings, self.replay = weights, image, 0, 0, None
        self.count += 1

    def give_up(self) -> None:
        """From now on, run the network."""
        self.replay, self.recordings = None, RECORDINGS


@dataclass(frozen=True, eq=False)
class ReplayedPaths(PathGraph):
    """The same sums; from the third round on a program takes the place of the network."""

    _state: _State = field(default_factory=_State, init=False, repr=False)

    def masked(self, function: Callable[[Tensor], Tensor], masks: Masks) -> dict[str, Tensor]:
        """As in `PathGraph`, always in the same memory."""
        if function not in self._state.memory:
            dense = self.dense(function)
            self._state.memory[function] = dense, {name: torch.empty_like(value) for name, value in dense.items()}
        dense, masked = self._state.memory[function]
        for name, value in dense.items():
            masks.multiply(name, value, out=masked[name])
        return masked

    def gradients(
        self,
        weights: Params,
        names: Iterable[str] | None = None,
        *,
        times: Params | None = None,
        image: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """As in `PathGraph`. Those of some weights only, `names`, always come from the network."""
        if names is not None:
            return super().gradients(weights, names, times=times, image=image)
        state, weights = self._state, self.precise(weights)
        state.begin_round(weights, image)
        if state.replay is not None:
            try:
                found = state.replay.gradients(weights, times)
            except Exception:  # whatever it is, the network shows it, or does without
                found = None
                state.give_up()
            if found is not None:
                return found
            state.replay = None
        if state.count > 1 and state.recordings < RECORDINGS:
            state.recordings += 1
            return self._recorded(weights, times)
        return super().gradients(weights, times=times, image=image)

    def _recorded(self, weights: Params, times: Params | None) -> dict[str, Tensor]:
        """A round of the network with a tape running."""
        state = self._state
        leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
        tape = Tape(weights.values())
        sums: list[Tensor] = []
        gates = partial(_TapedGates, tape=tape, sums=sums)
        graph = PathGraph(self.net, self.inputs, self.handlers, gates, self.dtype, self.power)
        graph.sample  # noqa: B018  (looked for before the tape runs)
        drawn = _random_states()
        with tape:
            output, _ = graph.outputs(leaves, image=state.image)
            grads = gradients(output.sum(), leaves, leaves)
        check_growing(grads)
        # not in place: the program may keep a gradient as a constant
        found = {name: _product(grad, times, name) for name, grad in grads.items()}
        with contextlib.suppress(Exception):  # a short cut must not fail
            state.replay = None if drawn != _random_states() else Replay(tape, sums, grads)
        if state.replay is None or not self._agrees(state.replay, weights, times):
            state.give_up()
        return found

    def _agrees(self, replay: Replay, weights: Params, times: Params | None) -> bool:
        """Whether the program gives what the network gives for weights of which each row has changed."""
        other = {name: _rows_scaled(value) for name, value in weights.items()}
        found = None
        with contextlib.suppress(Exception):
            found = replay.gradients(other, times)
        if found is None:
            return False
        with contextlib.suppress(ValueError):  # of paths through weights that nobody has
            return _same(found, super().gradients(other, times=times, image=self._state.image))
        return False


class _TapedGates(Gates):
    """Open gates that tell which sums they have brought into range, and hide from the tape how."""

    def __init__(self, net: Net, handlers: Handlers, *, tape: Tape, sums: list[Tensor]) -> None:
        super().__init__(net, handlers)
        self.tape, self.sums = tape, sums

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func.__name__ in _READS:
            self.tape.refusal = f"{func.__name__} reads values where the tape does not see what becomes of them"
        return super().__torch_function__(func, types, args, kwargs)

    def largest(self, tensor: Tensor) -> float:
        with self.tape.paused():
            return super().largest(tensor)

    def in_range(self, tensor: Tensor) -> None:
        self.sums.append(tensor)


class Replay:
    """A program for derivatives that watches the range of the sums on the way."""

    def __init__(self, tape: Tape, sums: list[Tensor], grads: Params) -> None:
        self.program = unfolded(program(tape, [*sums, *grads.values()]), tape.values)
        self.sums = {tape.number(tensor) for tensor in sums}
        self.names: dict[int | None, list[str]] = {}
        for name, grad in grads.items():
            self.names.setdefault(tape.number(grad), []).append(name)

    def gradients(self, weights: Params, times: Params | None) -> dict[str, Tensor] | None:
        """The gradients (times `times`), or None if their powers of two have to be chosen anew."""
        found: dict[str, Tensor] = {}
        largest: list[Tensor] = []

        def receive(number: int, value: Tensor) -> None:
            if number in self.sums and value.numel():
                largest.append(value.amax())
            for name in self.names.get(number, ()):
                found[name] = _product(value, times, name)  # while it is in the cache

        self.program.run(weights.values(), receive)
        values = torch.stack([value.to(largest[0].device) for value in largest]).tolist() if largest else []
        if not all(value == 0 or 1 / RANGE <= value <= RANGE for value in values):  # zero where no path is left
            return None
        return {name: found[name] for name in weights}  # the order of the layers decides ties


def _layout(weights: Params) -> list[Any]:
    return [(name, value.dtype, value.device, value.shape, value.stride()) for name, value in weights.items()]


def _random_states() -> tuple[Any, ...]:
    numpy_state: Any = np.random.get_state()  # noqa: NPY002  (forwards may draw from it)
    return random.getstate(), numpy_state[1].tobytes(), numpy_state[2:]


def _rows_scaled(value: Tensor) -> Tensor:
    rows = value.shape[0] if value.dim() else 1
    factors = torch.linspace(0.7, 1.4, rows, dtype=torch.float64, device="cpu").to(value)
    return value * factors.view(-1, *[1] * (value.dim() - 1)) if value.dim() else value * factors[0]


def _product(left: Tensor, times: Params | None, name: str) -> Tensor:
    """A copy of `left`, times `times[name]`; on the CPU in memory from NumPy, which asks the system for large pages."""
    if times is None:
        return left.clone()
    right = times[name]
    if left.device.type == "cpu" and left.dtype == right.dtype and left.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(np.multiply(left.numpy(), right.numpy()))
    return left * right


def _same(found: Params, expected: Params) -> bool:
    """Whether they are the same but for one common power of two and rounding."""
    largest = [
        max(float(scores[name].amax()) for name in expected if scores[name].numel()) for scores in (found, expected)
    ]
    if not all(0 < value < math.inf for value in largest):
        return False
    shift, nothing = 2.0 ** round(math.log2(largest[1] / largest[0])), _ROUNDING**2 * largest[1]
    return all(
        torch.allclose(found[name] * shift, value, rtol=_ROUNDING, atol=nothing) for name, value in expected.items()
    )
