"""Drawing weights: the distributions by name, and fresh parameters for a network, never on the user's tensors."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from foreprune.core.layer_units import is_conv1d, is_stack, owner_of, stack_is_transposed
from foreprune.core.names import unknown
from foreprune.core.net import Net, isolated_randomness
from foreprune.core.sharding import unsharded_copy

Init = Literal["kaiming", "own"]

WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd)
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)

# (fan-in, fan-out) -> standard deviation of the weights; the gain of ReLU is sqrt(2)
_DEVIATIONS: dict[str, Callable[[int, int], float]] = {
    "kaiming-normal-fan-in": lambda fan_in, fan_out: math.sqrt(2 / fan_in),
    "kaiming-normal-fan-out": lambda fan_in, fan_out: math.sqrt(2 / fan_out),
    "kaiming-uniform-fan-in": lambda fan_in, fan_out: math.sqrt(2 / fan_in),
    "xavier-normal": lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out)),
    "xavier-uniform": lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out)),
    "normal-0.1": lambda fan_in, fan_out: 0.1,
    "normal-variance-0.1": lambda fan_in, fan_out: math.sqrt(0.1),
    "constant-variance": lambda fan_in, fan_out: 1.0,
}
UNIFORM_SCALE = "+uniform-scale"


def initializers() -> tuple[str, ...]:
    """The names that `check_initializer` lets pass: a distribution of the weights, or one of them followed by
    "+uniform-scale", which draws the scales of batch normalization from U(0, 1)."""
    return (*_DEVIATIONS, *(name + UNIFORM_SCALE for name in _DEVIATIONS))


def check_initializer(init: str, *, also: tuple[str, ...] = ()) -> None:
    """Refuse a name that is neither in `initializers()` nor in `also`.

    Raises:
        ValueError: unknown name, with near ones.
    """
    if init not in (known := (*initializers(), *also)):
        see = ", ".join((f"known: {', '.join(_DEVIATIONS)}, each also with {UNIFORM_SCALE}", *also))
        raise unknown("init", init, known, see=see)


@torch.no_grad()
def fresh(
    net: Net, generator: torch.Generator, *, init: str = "kaiming", out: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """A new draw of every parameter of `net`; the module's own tensors are not touched.

    With one of `initializers()`, weights of linear and convolution layers follow that distribution, their biases become
    0, normalizations scale 1 (or what the name says) and shift 0, and any other layer (attention, embeddings,
    recurrent) is drawn by its own `reset_parameters`. `init="kaiming"` is "kaiming-normal-fan-in" with biases left as
    they are. With `init="own"` every layer is drawn by its own. What no layer knows how to draw follows the
    distribution (Kaiming normal for "own") if it is prunable and a matrix or more, and stays as it is otherwise, of
    which one of `initializers()` warns.

    Args:
        net: the network.
        generator: the only source of randomness, on any device. Layers' own initializers draw from the global
            generators, which are seeded from it and put back afterwards.
        init: one of `initializers()`, "kaiming" or "own".
        out: tensors of an earlier call to write into, so that drawing again and again allocates nothing.

    Returns:
        name -> tensor, for every entry of `net.params`, in memory of its own.

    Raises:
        ValueError: unknown `init`.
    """
    check_initializer(init, also=("kaiming", "own"))
    special = init in ("kaiming", "own")
    weights = "kaiming-normal-fan-in" if special else init
    drawn = {name: torch.empty_like(value) for name, value in net.params.items()} if out is None else dict(out)
    by_themselves: list[nn.Module] = []
    scales: list[str] = []
    left: list[str] = []
    for prefix, layer in net.module.named_modules():
        own = {key: f"{prefix}.{key}".lstrip(".") for key, value in layer._parameters.items() if value is not None}
        simple = init != "own" and isinstance(layer, WEIGHTED + NORMS)
        itself = own_reset(layer) is not None
        if own and not simple and itself:
            by_themselves.append(layer)
        for key, name in own.items():
            if net._slots[name] != name:  # a tied tensor is drawn where it is met first
                continue
            if simple and isinstance(layer, NORMS):
                drawn[name].fill_(1.0 if key == "weight" else 0.0)
                scales += [name] if key == "weight" and scale_is_drawn(layer, init) else []
            elif (simple and key == "weight") or ((simple or not itself) and _is_weight(net, name)):
                fan = fans(owner_of(net.module, name), net.shapes[name])
                net.fill(name, drawn[name], partial(draw_weight_, init=weights, fan=fan, generator=generator))
            elif not special and key == "bias" and (simple or is_conv1d(layer)):
                drawn[name].zero_()
            else:
                drawn[name].copy_(net.params[name])
                left += [name] if simple or not itself else []
    if by_themselves:
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        with isolated_randomness(seed):
            _reset(by_themselves, net, drawn)
    for name in scales:
        net.fill(name, drawn[name], partial(draw_scale_, generator=generator))
    if left and not special:
        warnings.warn(
            f"no layer knows how to draw {', '.join(left)}: left as they are; give the layer a reset_parameters()",
            stacklevel=3,
        )
    return drawn


def fresh_statistics(net: Net) -> dict[str, Tensor]:
    """Running mean 0, variance 1 and a count of 0 for every normalization that keeps them: name -> tensor."""
    return {
        f"{prefix}.{key}".lstrip("."): torch.full_like(value, 1 if key == "running_var" else 0)
        for prefix, layer in net.module.named_modules()
        if isinstance(layer, NORMS)
        for key, value in layer._buffers.items()
        if value is not None and key in ("running_mean", "running_var", "num_batches_tracked")
    }


def draw_weight_(weight: Tensor, init: str, fan: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Fill `weight` in place from the distribution called `init` for a layer of that (fan-in, fan-out)."""
    name = init.removesuffix(UNIFORM_SCALE)
    deviation = _DEVIATIONS[name](max(fan[0], 1), max(fan[1], 1))
    if "uniform" in name:
        return _uniform_(weight, -math.sqrt(3) * deviation, math.sqrt(3) * deviation, generator)
    return normal_(weight, deviation, generator)


def scale_is_drawn(layer: nn.Module, init: str) -> bool:
    """Whether `init` draws the scale of `layer`: that of batch normalization only, as OpenLTH does."""
    return init.endswith(UNIFORM_SCALE) and isinstance(layer, nn.modules.batchnorm._BatchNorm)


def draw_scale_(scale: Tensor, generator: torch.Generator) -> Tensor:
    """Fill the scale of a normalization with U(0, 1) in place. To be called when all weights have been drawn: they are
    then the same numbers with and without "+uniform-scale"."""
    return _uniform_(scale, 0.0, 1.0, generator)


def normal_(tensor: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Fill `tensor` with N(0, deviation^2) in place, drawn on the generator's device."""
    return _in_order(tensor, generator, lambda tensor: tensor.normal_(0.0, deviation, generator=generator))


def _uniform_(tensor: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    return _in_order(tensor, generator, lambda tensor: tensor.uniform_(low, high, generator=generator))


def _in_order(tensor: Tensor, generator: torch.Generator, draw: Callable[[Tensor], Tensor]) -> Tensor:
    """The same numbers whatever the memory order and the device of `tensor`."""
    if tensor.device == generator.device and tensor.is_contiguous():
        return draw(tensor)
    return tensor.copy_(draw(torch.empty(tensor.shape, dtype=tensor.dtype, device=generator.device)))


def _is_weight(net: Net, name: str) -> bool:
    return name in net.prunable and net.params[name].dim() > 1


def fans(layer: nn.Module, shape: Sequence[int]) -> tuple[int, int]:
    """True connections of one output unit and of one input unit: those inside its group. A transposed convolution keeps
    its input channels on axis 0, GPT-2's Conv1D too; stacked experts have connections of their own."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        field = math.prod(layer.kernel_size)
        return layer.in_channels // layer.groups * field, layer.out_channels // layer.groups * field
    if is_conv1d(layer):
        return shape[0], shape[1]
    if is_stack(layer, shape):
        inputs, outputs = (1, 2) if stack_is_transposed(layer) else (2, 1)
        return shape[inputs], shape[outputs]
    return math.prod(shape[1:]), shape[0]


def own_reset(layer: nn.Module) -> Callable[[], None] | None:
    """The layer's own initializer, if it has one."""
    # attention spells it with an underscore
    reset = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
    return reset if callable(reset) else None


def _reset(layers: list[nn.Module], net: Net, drawn: Mapping[str, Tensor]) -> None:
    """Run the layers' own initializers on copies of them whose parameters are the tensors of `drawn`."""
    names = {
        id(parameter): net._slots[f"{prefix}.{key}".lstrip(".")]
        for prefix, owner in net.module.named_modules()
        for key, parameter in owner._parameters.items()
        if parameter is not None
    }
    for layer in layers:
        own = {names[id(parameter)] for parameter in layer.parameters()}
        whole = {name: net.whole(name, value) if name in own else value for name, value in drawn.items()}
        # the copies share nothing with the user's module, not even by way of attributes
        parts: dict[int, object] = {key: nn.Parameter(whole[name], requires_grad=False) for key, name in names.items()}
        reset = own_reset(unsharded_copy(layer, parts))
        assert reset is not None
        reset()
        for name in own:
            net.fill(name, drawn[name], partial(_instead, whole[name]))


def _instead(value: Tensor, _: Tensor) -> Tensor:
    return value
