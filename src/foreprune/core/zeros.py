"""What a network draws as zero, and what that does to scores: heads, and scales of normalizations."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import torch
from torch import Tensor, nn

from foreprune.core.init import NORMS, draw_weight_, fans, own_reset
from foreprune.core.layer_weights import layer_weights
from foreprune.core.net import Net, isolated_randomness
from foreprune.core.seeds import generator_for
from foreprune.core.sharding import is_sharded

_HEADS = re.compile(r"(?:(?:\w+_)?(?:heads?|classifier|logits)|fc)(?:_dist)?")


def zero_heads(net: Net) -> tuple[str, ...]:
    """Names of the weights of the last layer if they are all zero, and of siblings like it (a second head).

    The last layer is the last in the order of the module, pruned or not; where that one is not zero, a layer that is
    called a head or classifier may have been defined before others. No gradient and no path passes a head of zeros, so
    scores of everything before it vanish. A network of nothing but zeros has no head of zeros.
    """
    if any(map(is_sharded, net.module.parameters())):  # no process sees the whole
        return ()
    layers = [
        (weight.layer, net._slots[weight.stored])
        for weight in layer_weights(net.module)
        if weight.stored is not None and weight.computed_by is None
    ]
    if not layers or not any(_any(net.params[name]) for _, name in layers):
        return ()
    last, name = layers[-1]
    if _any(net.params[name]):
        return tuple(dict.fromkeys(name for layer, name in layers if _is_head(layer) and not _any(net.params[name])))
    parent, shape = last.rpartition(".")[0], net.params[name].shape
    alike = [name for prefix, name in layers if prefix.rpartition(".")[0] == parent and net.params[name].shape == shape]
    return tuple(name for name in dict.fromkeys(alike) if not _any(net.params[name]))


def _is_head(layer: str) -> bool:
    """Whether it is called one: "head", "lm_head", "classifier.2", ..."""
    called = [part for part in layer.split(".") if not part.isdigit()][-1:]
    return any(_HEADS.fullmatch(part) for part in called)


def zero_scales(net: Net) -> tuple[str, ...]:
    """Names of the normalizations whose scale (gamma) is zero everywhere, as the last ones of residual branches often
    are at first: no gradient reaches the weights of such a branch."""
    if any(map(is_sharded, net.module.parameters())):
        return ()
    return tuple(
        prefix
        for prefix, layer in net.module.named_modules()
        if isinstance(layer, NORMS)
        and isinstance(layer._parameters.get("weight"), nn.Parameter)
        and not _any(net.params[net._slots[f"{prefix}.weight".lstrip(".")]])
    )


def with_drawn_heads(net: Net, *, seed: int) -> Net:
    """`net` with the weights of `zero_heads` drawn by their layer's own initialization, or Kaiming's if it has none.

    The module is not touched, and biases stay as they are.
    """
    drawn = {name: _drawn(net, name, seed) for name in zero_heads(net)}
    return replace(net, params={**net.params, **drawn}) if drawn else net


def _drawn(net: Net, name: str, seed: int) -> Tensor:
    prefix, _, attribute = name.rpartition(".")
    layer, weight = net.module.get_submodule(prefix), net.params[name]
    generator = generator_for(f"repair {name}", seed)
    if own_reset(layer) is None:
        return draw_weight_(torch.empty_like(weight), "kaiming-normal-fan-in", fans(layer, weight.shape), generator)
    parts: dict[int, object] = {id(p): nn.Parameter(torch.empty_like(p)) for p in layer.parameters()}
    twin = copy.deepcopy(layer, parts)
    reset = own_reset(twin)
    assert reset is not None
    with isolated_randomness(int(torch.randint(2**32, (), generator=generator))):
        reset()
    return twin.get_parameter(attribute).detach()


def _any(values: Tensor) -> bool:
    return bool(values.any())
