"""The weights of a layer, by its type, and the parameters that hold them where a parametrization computes them."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from foreprune.core.layer_units import is_conv1d, is_stack

_WEIGHTED = (
    nn.Linear,
    nn.Bilinear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
# the suffix of the parameter that holds the weight, for the hooks of torch.nn.utils and the parametrizations that
# replaced them: zeros of it are zeros of the weight
_HOOKED = {WeightNorm: "_v", SpectralNorm: "_orig", BasePruningMethod: "_orig"}
_PARAMETRIZED = {"_WeightNorm": "original1", "_SpectralNorm": "original"}


@dataclass(frozen=True)
class LayerWeight:
    """One weight of a layer.

    Attributes:
        layer: name of the layer, "" for the model itself.
        attribute: what the layer calls the weight.
        stored: name of the parameter that a mask is for: the weight itself, or what it is computed from. None if it is
            computed in a way in which zeros of no parameter are zeros of the weight.
        computed_by: what computes it, None for an ordinary parameter.
    """

    layer: str
    attribute: str
    stored: str | None
    computed_by: str | None = None

    @property
    def name(self) -> str:
        """ "layer.attribute"."""
        return f"{self.layer}.{self.attribute}" if self.layer else self.attribute


def layer_weights(module: nn.Module) -> Iterator[LayerWeight]:
    """Weights of linear and convolution layers, of attention's projections, of recurrent layers and of stacked experts,
    in the order of the module; what is computed by a parametrization, with the parameter that holds it."""
    for prefix, layer in module.named_modules():
        for attribute in weight_attributes(layer):
            if layer._parameters.get(attribute) is not None:
                yield LayerWeight(prefix, attribute, f"{prefix}.{attribute}" if prefix else attribute)
            elif attribute not in layer._parameters and attribute not in layer._buffers:
                key, computed_by = _holder(layer, attribute)
                if computed_by is not None:
                    stored = f"{prefix}.{key}" if prefix and key else key
                    yield LayerWeight(prefix, attribute, stored, computed_by)


def weight_attributes(layer: nn.Module) -> tuple[str, ...]:
    """What the weights of a layer of this type are called; nothing for other layers."""
    if isinstance(layer, nn.MultiheadAttention):
        return _ATTENTION
    if isinstance(layer, nn.RNNBase):
        return tuple(name for name in layer._flat_weights_names if name.startswith("weight"))
    if isinstance(layer, nn.RNNCellBase):
        return ("weight_ih", "weight_hh")
    if isinstance(layer, _WEIGHTED) or is_conv1d(layer):
        return ("weight",)
    return tuple(
        name for name, value in layer._parameters.items() if value is not None and is_stack(layer, value.shape)
    )


def computed(module: nn.Module, weight: LayerWeight, value: Tensor | None = None) -> Tensor:
    """A weight that is not stored, as computed in evaluation mode, with `value` in place of the parameter that holds
    it."""
    assert weight.stored is not None
    layer = module.get_submodule(weight.layer)
    if parametrize.is_parametrized(layer, weight.attribute):
        return _of_chain(_chain(layer, weight.attribute), weight.stored.rpartition(".")[2], value)
    key = weight.stored.rpartition(".")[2]
    own = layer._parameters[key]
    assert own is not None
    hook: Any = next(hook for hook in layer._forward_pre_hooks.values() if _made_by(hook, weight.attribute))
    layer._parameters[key] = own if value is None else nn.Parameter(value, requires_grad=False)
    try:
        with torch.no_grad():
            if isinstance(hook, SpectralNorm):
                made = hook.compute_weight(layer, do_power_iteration=False)
            else:
                made = getattr(hook, "apply_mask" if isinstance(hook, BasePruningMethod) else "compute_weight")(layer)
    finally:
        layer._parameters[key] = own
    found: Tensor = made.detach()
    return found


def parts_of(module: nn.Module, weight: LayerWeight) -> Tensor:
    """Number of the part of a computed weight that each entry belongs to, in a shape that broadcasts to it: a weight
    normalization divides each slice along its axis by a norm, others the whole."""
    assert weight.stored is not None
    layer, shape = module.get_submodule(weight.layer), module.get_parameter(weight.stored).shape
    if parametrize.is_parametrized(layer, weight.attribute):
        makers: list[Any] = list(_chain(layer, weight.attribute))
    else:
        makers = [hook for hook in layer._forward_pre_hooks.values() if _made_by(hook, weight.attribute)]
    axis = makers[0].dim if type(makers[0]).__name__.lstrip("_") == "WeightNorm" and len(makers) == 1 else -1
    if axis == -1:
        return torch.zeros((1,) * len(shape), dtype=torch.int64)
    return torch.arange(shape[axis]).view([-1 if at == axis % len(shape) else 1 for at in range(len(shape))])


@contextlib.contextmanager
def passed_in(module: nn.Module, weights: Mapping[LayerWeight, Tensor]) -> Iterator[None]:
    """Layers of `module` use these tensors in place of the weights that they compute.

    Afterwards nothing is left of what forwards have stored in them, nor in recurrent layers, which keep lists of their
    weights.
    """
    with contextlib.ExitStack() as stack:
        for layer in module.modules():
            if isinstance(layer, nn.RNNBase) or any(map(_is_known, layer._forward_pre_hooks.values())):
                stack.callback(_put_back, layer, _stored_tensors(layer), OrderedDict(layer._forward_pre_hooks))
        for weight, tensor in weights.items():
            layer = module.get_submodule(weight.layer)
            if parametrize.is_parametrized(layer, weight.attribute):
                chain = _chain(layer, weight.attribute)
                chain.__dict__["forward"] = partial(_given, tensor)
                stack.callback(chain.__dict__.pop, "forward")
            else:
                for key, hook in list(layer._forward_pre_hooks.items()):
                    if _made_by(hook, weight.attribute):
                        del layer._forward_pre_hooks[key]
                layer.__dict__[weight.attribute] = tensor
        yield


def _given(tensor: Tensor) -> Tensor:
    return tensor


def _stored_tensors(layer: nn.Module) -> dict[str, Any]:
    """What a forward may have left in the attributes of a layer: computed weights, and lists of weights."""
    return {
        name: list(value) if isinstance(value, list) else value
        for name, value in layer.__dict__.items()
        if isinstance(value, Tensor) or name in ("_flat_weights", "_flat_weight_refs")
    }


def _put_back(layer: nn.Module, tensors: Mapping[str, Any], hooks: Mapping[int, Any]) -> None:
    layer.__dict__.update(tensors)
    layer._forward_pre_hooks.clear()
    layer._forward_pre_hooks.update(hooks)


def _is_known(hook: object) -> bool:
    return isinstance(hook, tuple(_HOOKED))


def _made_by(hook: object, attribute: str) -> bool:
    """Whether this hook of torch.nn.utils computes the weight `attribute` before every forward."""
    return _is_known(hook) and getattr(hook, "name", getattr(hook, "_tensor_name", None)) == attribute


def _holder(layer: nn.Module, attribute: str) -> tuple[str | None, str | None]:
    """The parameter of `layer` that holds its weight `attribute`, and what computes the weight from it."""
    if parametrize.is_parametrized(layer, attribute):
        return _original(layer, attribute)
    for hook in layer._forward_pre_hooks.values():
        if _made_by(hook, attribute):
            suffix = next(suffix for kind, suffix in _HOOKED.items() if isinstance(hook, kind))
            return attribute + suffix, type(hook).__name__
    return None, ("a hook" if isinstance(layer.__dict__.get(attribute), Tensor) else None)


def _chain(layer: nn.Module, attribute: str) -> parametrize.ParametrizationList:
    chain = layer.parametrizations[attribute]  # type: ignore[index]
    assert isinstance(chain, parametrize.ParametrizationList)
    return chain


def _original(layer: nn.Module, attribute: str) -> tuple[str | None, str]:
    chain = _chain(layer, attribute)
    names = [type(part).__name__ for part in chain]
    known = _PARAMETRIZED.get(names[0]) if len(chain) == 1 else None
    found = known or next((key for key in chain._parameters if _passes_zeros(chain, key)), None)
    return (None if found is None else f"parametrizations.{attribute}.{found}"), " and ".join(names)


def _of_chain(chain: parametrize.ParametrizationList, key: str, value: Tensor | None) -> Tensor:
    """What the parametrizations make of `value` in place of their original tensor `key`, in evaluation mode; what they
    write to their buffers goes to copies."""
    modes = [(part, part.training) for part in chain.modules()]
    try:
        with torch.no_grad():
            given = {name: buffer.clone() for name, buffer in chain.named_buffers()}
            given |= {} if value is None else {key: value}
            made: Tensor = torch.func.functional_call(chain.eval(), given, ())
    finally:
        for part, training in modes:
            part.training = training
    return made.detach()


def _passes_zeros(chain: parametrize.ParametrizationList, key: str) -> bool:
    """Whether every zero of the original tensor `key` is a zero of the weight, at the same place: tried on one draw."""
    original = chain._parameters[key]
    if original is None or original.numel() < 2:
        return False
    generator = torch.Generator().manual_seed(0)
    kept = torch.randperm(original.numel(), generator=generator).view(original.shape) % 2 == 0
    drawn = torch.rand(original.shape, generator=generator) + 0.5
    try:
        weight = _of_chain(chain, key, torch.where(kept, drawn, 0).to(original.device, original.dtype))
    except Exception:  # whatever a user's parametrization raises for such a tensor
        return False
    if not isinstance(weight, Tensor) or weight.shape != original.shape:
        return False
    lost = weight[~kept.to(weight.device)]
    return bool((lost == 0).all()) and bool(weight.any())
