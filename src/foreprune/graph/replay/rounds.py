"""The flow through every weight, round after round: what iterative methods ask of a sum over paths.

The first round runs the network. The second does so too and notes what that comes down to; if the list of operations
agrees with the network on other weights as well, it runs alone from then on, in memory that is used again (asking the
system for fresh memory costs more than the arithmetic). Where it does not, or numbers leave the range for which powers
of two were chosen, the network itself runs again.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from foreprune.core.masks import Masks
from foreprune.core.net import Net, Params, gradients
from foreprune.core.task import Inputs
from foreprune.graph.replay.tape import Tape, program
from foreprune.graph.replay.unfolded import unfolded
from foreprune.graph.sums.gates import Gates, Handler
from foreprune.graph.sums.paths import PathGraph, check_growing

_RANGE = 2.0**30  # of what was within 2**20 when powers of two were chosen; derivatives stay within its square
_ROUNDING = 1e-4
_RECORDINGS = 20  # at most, in one call
_READS = frozenset({"tolist", "item", "numpy", "__array__", "__dlpack__", "data_ptr", "storage", "untyped_storage"})
Power = Literal[1, 2]


def path_flow(
    net: Net, inputs: Inputs, masks: Masks, *, power: Power = 1, factor_power: Power = 1, image: Tensor | None = None
) -> dict[str, Tensor]:
    """|w|^factor_power dR / d|w|^power for each prunable weight, up to one common multiple.

    R is the sum over the paths that `masks` keep of the product of their |w|^power, each times its input's entry of
    `image` (default 1).

    Raises:
        PathError: an operation that has no meaning for paths.
    """
    rounds = _ROUNDS.get(net)
    if rounds is None or not rounds.fits(inputs, power, factor_power, image):
        rounds = _ROUNDS[net] = _Rounds(net, inputs, power, factor_power, image)
    return rounds.flow(net, masks)


class _Rounds:
    """What the rounds of one network share: memory and, from the second on, the program. It does not hold the network,
    which would then never be freed."""

    def __init__(self, net: Net, inputs: Inputs, power: Power, factor_power: Power, image: Tensor | None) -> None:
        self.inputs, self.image, self.powers = inputs, image, (power, factor_power)
        self.dense_weights = {name: net.magnitudes[name] ** power for name in net.prunable}
        self.weights = {name: torch.empty_like(value) for name, value in self.dense_weights.items()}
        self.dense_factors, self.factors = self.dense_weights, self.weights
        if factor_power != power:
            self.dense_factors = {name: net.magnitudes[name] ** factor_power for name in net.prunable}
            self.factors = {name: torch.empty_like(value) for name, value in self.dense_factors.items()}
        self.count = 0
        self.replay: _Replay | None = None
        self.recordings = 0

    def fits(self, inputs: Inputs, power: Power, factor_power: Power, image: Tensor | None) -> bool:
        """Whether the next round is one of these."""
        if inputs is not self.inputs or (power, factor_power) != self.powers:
            return False
        return image is self.image if image is None or self.image is None else torch.equal(image, self.image)

    def flow(self, net: Net, masks: Masks) -> dict[str, Tensor]:
        self.count += 1
        for name in self.weights:
            masks.multiply(name, self.dense_weights[name], out=self.weights[name])
            if self.factors is not self.weights:
                masks.multiply(name, self.dense_factors[name], out=self.factors[name])
        flow = self._replayed()
        if flow is not None:
            return flow
        self.replay = None
        if self.count > 1 and self.recordings < _RECORDINGS:
            self.recordings += 1
            return self._recorded(net)
        return _times(self._gradients(net, self.weights), self.factors)

    def _replayed(self) -> dict[str, Tensor] | None:
        """The flow, by the program; None without one, or if it cannot be had from it."""
        if self.replay is None:
            return None
        with contextlib.suppress(Exception):  # whatever it is, the network shows it, or does without
            return self.replay.flow(self.weights, self.factors)
        self.give_up()
        return None

    def give_up(self) -> None:
        """From now on, run the network."""
        self.replay, self.recordings = None, _RECORDINGS

    def _gradients(self, net: Net, weights: Params) -> dict[str, Tensor]:
        return PathGraph(net, self.inputs).gradients(weights, weights, image=self.image)

    def _recorded(self, net: Net) -> dict[str, Tensor]:
        """A round of the network with a tape running."""
        leaves = {name: value.detach().requires_grad_() for name, value in self.weights.items()}
        tape = Tape(self.weights.values())
        weighed: list[Tensor] = []
        graph = PathGraph(net, self.inputs, gates=partial(_TapedGates, tape=tape, weighed=weighed))
        drawn = _random_states()
        with tape:
            output, _ = graph.outputs(leaves, image=self.image)
            grads = gradients(output.sum(), leaves, leaves)
        check_growing(grads)
        # not in place: the program may keep a gradient as a constant
        flow = {name: _product(grad, self.factors[name]) for name, grad in grads.items()}
        with contextlib.suppress(Exception):  # a short cut must not fail
            self.replay = None if drawn != _random_states() else _Replay(tape, weighed, grads)
        if self.replay is None or not self._agrees(net, self.replay):
            self.give_up()
        return flow

    def _agrees(self, net: Net, replay: _Replay) -> bool:
        """Whether the program gives what the network gives for weights of which each row has changed."""
        other = {name: _rows_scaled(value) for name, value in self.weights.items()}
        found = None
        with contextlib.suppress(Exception):
            found = replay.flow(other, self.factors)
        if found is None:
            return False
        with contextlib.suppress(ValueError):  # of paths through weights that nobody has
            return _same(found, _times(self._gradients(net, other), self.factors))
        return False


_ROUNDS: WeakKeyDictionary[Net, _Rounds] = WeakKeyDictionary()


class _TapedGates(Gates):
    """Open gates that tell which sums they have brought into range, and hide from the tape how."""

    def __init__(self, net: Net, handlers: Mapping[str, Handler], *, tape: Tape, weighed: list[Tensor]) -> None:
        super().__init__(net, handlers)
        self.tape, self.weighed = tape, weighed

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
        self.weighed.append(tensor)


class _Replay:
    """A program for derivatives that watches the range of the sums on the way."""

    def __init__(self, tape: Tape, weighed: list[Tensor], grads: Params) -> None:
        self.program = unfolded(program(tape, [*weighed, *grads.values()]), tape.values)
        self.weighed = {tape.number(tensor) for tensor in weighed}
        self.names: dict[int | None, list[str]] = {}
        for name, grad in grads.items():
            self.names.setdefault(tape.number(grad), []).append(name)

    def flow(self, weights: Params, factors: Params) -> dict[str, Tensor] | None:
        """The flows, or None if their powers of two have to be chosen anew."""
        found: dict[str, Tensor] = {}
        largest: list[Tensor] = []

        def receive(number: int, value: Tensor) -> None:
            if number in self.weighed and value.numel():
                largest.append(value.amax())
            for name in self.names.get(number, ()):
                found[name] = _product(value, factors[name])  # while it is in the cache

        self.program.run(weights.values(), receive)
        values = torch.stack([value.to(largest[0].device) for value in largest]).tolist() if largest else []
        if not all(value == 0 or 1 / _RANGE <= value <= _RANGE for value in values):  # zero where no path is left
            return None
        return {name: found[name] for name in weights}  # the order of the layers decides ties


def _random_states() -> tuple[Any, ...]:
    numpy_state: Any = np.random.get_state()  # noqa: NPY002  (forwards may draw from it)
    return random.getstate(), numpy_state[1].tobytes(), numpy_state[2:]


def _times(grads: Params, factors: Params) -> dict[str, Tensor]:
    return {name: grad.mul_(factors[name]) for name, grad in grads.items()}


def _rows_scaled(value: Tensor) -> Tensor:
    rows = value.shape[0] if value.dim() else 1
    factors = torch.linspace(0.7, 1.4, rows, dtype=torch.float64, device="cpu").to(value)
    return value * factors.view(-1, *[1] * (value.dim() - 1)) if value.dim() else value * factors[0]


def _product(left: Tensor, right: Tensor) -> Tensor:
    """left * right, on the CPU in memory from NumPy, which asks the system for large pages."""
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
