"""Fresh parameters for a network, drawn as its layers draw them, never on the user's tensors; the kinds of layers and
their fans, for whoever draws weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from foreprune.core.layer_units import is_conv1d
from foreprune.core.net import Net, isolated_randomness

Init = Literal["kaiming", "own"]

WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd)
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


@torch.no_grad()
def fresh(
    net: Net, generator: torch.Generator, *, init: Init = "kaiming", out: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """A new draw of every parameter of `net`; the module's own tensors are not touched.

    With `init="kaiming"` weights of linear and convolution layers are N(0, 2 / fan-in) (He et al. 2015), their biases
    stay as they are, normalizations become scale 1 and shift 0, and any other layer (attention, embeddings, recurrent)
    is drawn by its own `reset_parameters`. With `init="own"` every layer is drawn by its own. What no layer knows how
    to draw is Kaiming normal if it is prunable and a matrix or more, and stays as it is otherwise.

    Args:
        net: the network.
        generator: the only source of randomness, on any device. Layers' own initializers draw from the global
            generators, which are seeded from it and put back afterwards.
        init: "kaiming" or "own".
        out: tensors of an earlier call to write into, so that drawing again and again allocates nothing.

    Returns:
        name -> tensor, for every entry of `net.params`, in memory of its own.

    Raises:
        ValueError: unknown `init`.
    """
    if init not in ("kaiming", "own"):
        raise ValueError(
            f'init must be "kaiming" (normal, variance 2 / fan-in) or "own" (each layer\'s own reset_parameters), '
            f"not {init!r}"
        )
    drawn = {name: torch.empty_like(value) for name, value in net.params.items()} if out is None else dict(out)
    by_themselves: list[nn.Module] = []
    for prefix, layer in net.module.named_modules():
        own = {key: f"{prefix}.{key}".lstrip(".") for key, value in layer._parameters.items() if value is not None}
        simple = init == "kaiming" and isinstance(layer, WEIGHTED + NORMS)
        if own and not simple and own_reset(layer) is not None:
            by_themselves.append(layer)
        for key, name in own.items():
            if net._slots[name] != name:  # a tied tensor is drawn where it is met first
                continue
            if simple and isinstance(layer, NORMS):
                drawn[name].fill_(1.0 if key == "weight" else 0.0)
            elif (simple and key == "weight") or (own_reset(layer) is None and _is_weight(net, name)):
                normal_(drawn[name], math.sqrt(2 / max(fans(layer, net.params[name])[0], 1)), generator)
            else:
                drawn[name].copy_(net.params[name])
    if by_themselves:
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        with isolated_randomness(seed):
            _reset(by_themselves, net, drawn)
    return drawn


def normal_(tensor: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Fill `tensor` with N(0, deviation^2) in place, drawn on the generator's device."""
    if tensor.device == generator.device and tensor.is_contiguous():
        return tensor.normal_(0.0, deviation, generator=generator)
    drawn = torch.empty(tensor.shape, dtype=tensor.dtype, device=generator.device)
    return tensor.copy_(drawn.normal_(0.0, deviation, generator=generator))


def _is_weight(net: Net, name: str) -> bool:
    return name in net.prunable and net.params[name].dim() > 1


def fans(layer: nn.Module, weight: Tensor) -> tuple[int, int]:
    """True connections of one output unit and of one input unit: those inside its group. A transposed convolution keeps
    its input channels on axis 0, GPT-2's Conv1D too."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        field = math.prod(layer.kernel_size)
        return layer.in_channels // layer.groups * field, layer.out_channels // layer.groups * field
    if is_conv1d(layer):
        return weight.shape[0], weight.shape[1]
    return math.prod(weight.shape[1:]), weight.shape[0]


def own_reset(layer: nn.Module) -> Callable[[], None] | None:
    """The layer's own initializer, if it has one."""
    # attention spells it with an underscore
    reset = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
    return reset if callable(reset) else None


def _reset(layers: list[nn.Module], net: Net, drawn: Mapping[str, Tensor]) -> None:
    """Run the layers' own initializers on copies of them whose parameters are the tensors of `drawn`."""
    parts: dict[int, object] = {}  # the copies share nothing with the user's module, not even by way of attributes
    for prefix, owner in net.module.named_modules():
        for key, parameter in owner._parameters.items():
            if parameter is not None:
                slot = f"{prefix}.{key}" if prefix else key
                parts[id(parameter)] = nn.Parameter(drawn[net._slots[slot]], requires_grad=False)
    for layer in layers:
        reset = own_reset(copy.deepcopy(layer, parts))
        assert reset is not None
        reset()
