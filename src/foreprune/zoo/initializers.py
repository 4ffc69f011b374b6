"""Weight distributions at initialization, drawn from an explicit generator.

Frankle et al. 2021 (section 5) show that magnitude pruning at initialization sees nothing but these per-layer
variances, so the choice is named with every network instead of being a framework's default.
"""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn

from foreprune.core.init import (
    NORMS,
    UNIFORM_SCALE,
    WEIGHTED,
    check_initializer,
    draw_scale_,
    draw_weight_,
    fans,
    own_reset,
    scale_is_drawn,
)


@torch.no_grad()
def initialize_(module: nn.Module, *, init: str = "kaiming-normal-fan-in", generator: torch.Generator) -> nn.Module:
    """Draw every weight of `module` anew, in place, and return it.

    Weights of linear, convolutional and transposed convolutional layers follow `init`; their biases become 0.
    Normalization layers become scale 1, shift 0, running mean 0 and running variance 1. Layers of other kinds that own
    parameters (embeddings, attention projections, recurrent layers) are drawn by their own `reset_parameters()`, under
    a forked global generator.

    Any name followed by `+uniform-scale` draws the scales of batch normalization from U(0, 1), as Frankle et al. 2021
    do (appendix D.4). They are drawn when all weights have been, so that the weights of a seed are the same with it and
    without. Layer, group and instance normalization keep scale 1: no paper here draws theirs, and OpenLTH, the code of
    Frankle et al., draws `BatchNorm2d` only. (That code leaves biases as PyTorch draws them; here they are 0.) SynFlow,
    GraSP and NTK-SAP publish code with scale 1. Patil and Dovrolis 2021, Gebhart et al. 2021 and the text of NTK-SAP
    say nothing of the scale: their entries in `foreprune papers` take 1.

    | init | weights |
    | --- | --- |
    | kaiming-normal-fan-in | N(0, 2 / fan-in), He et al. 2015; the papers' default |
    | kaiming-normal-fan-out | N(0, 2 / fan-out), He et al. 2015 |
    | kaiming-uniform-fan-in | uniform with variance 2 / fan-in; PyTorch's own default layers have a sixth of it |
    | xavier-normal | N(0, 2 / (fan-in + fan-out)), Glorot and Bengio 2010 |
    | xavier-uniform | uniform with variance 2 / (fan-in + fan-out), Glorot and Bengio 2010 |
    | normal-0.1 | standard deviation 0.1 in every layer (Patil and Dovrolis 2021, section 5.2) |
    | normal-variance-0.1 | variance 0.1 in every layer: N(0, 0.1) as the code of the same paper draws it |
    | constant-variance | N(0, 1) in every layer: magnitudes say nothing of layers (Frankle et al. 2021, section 5) |
    | ...+uniform-scale | weights as without; scales of batch normalization U(0, 1) (Frankle et al. 2021, D.4) |

    Fans count true connections: inputs and outputs of the same group, with the two sides of a transposed convolution in
    their places.

    Args:
        module: any module; its device and dtype stay.
        init: one of `foreprune.core.init.initializers()`.
        generator: the only source of randomness. Numbers are drawn on its device and copied, so that a CPU generator
            gives the same weights on every device.

    Warns:
        UserWarning: "+uniform-scale" for a network without scales of batch normalization.

    Raises:
        ValueError: unknown `init`, or a layer with parameters that nothing says how to draw; nothing is changed then.
    """
    check_initializer(init)
    layers = list(module.named_modules())
    for name, layer in layers:
        _require_drawable(name, layer)
    for _, layer in layers:
        if isinstance(layer, WEIGHTED):
            weight = _wide(layer.weight, generator)
            layer.weight.copy_(draw_weight_(weight, init, fans(layer, layer.weight.shape), generator))
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, NORMS):
            _reset_norm_(layer)
        elif _owns_parameters(layer):
            _reset_by_itself_(layer, generator)
    scales = [layer.weight for _, layer in layers if scale_is_drawn(layer, init) and isinstance(layer.weight, Tensor)]
    for scale in scales:
        scale.copy_(draw_scale_(_wide(scale, generator), generator))
    if init.endswith(UNIFORM_SCALE) and not scales:
        warnings.warn(
            f"init {init!r} draws scales of batch normalization, and this network has none; "
            f"write {init.removesuffix(UNIFORM_SCALE)!r} for the same weights",
            stacklevel=2,
        )
    return module


def _require_drawable(name: str, layer: nn.Module) -> None:
    where = f"{name!r} ({type(layer).__name__})" if name else f"the module ({type(layer).__name__})"
    if any(nn.parameter.is_lazy(parameter) for parameter in layer.parameters(recurse=False)):
        raise ValueError(f"cannot initialize {where}: its shape is not known yet; run the model once first")
    if isinstance(layer, WEIGHTED):
        if "weight" not in layer._parameters:
            raise ValueError(
                f"cannot initialize {where}: its weight is computed from other tensors (a parametrization, or "
                "torch.nn.utils.prune); remove those first"
            )
    elif _owns_parameters(layer) and not isinstance(layer, NORMS) and own_reset(layer) is None:
        owned = ", ".join(key for key, _ in layer.named_parameters(recurse=False))
        raise ValueError(
            f"cannot initialize {where}: it owns {owned} and is no linear, convolutional or normalization layer; "
            "give it a reset_parameters() method"
        )


def _wide(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Room for as many numbers on the generator's device, in single precision at least."""
    dtype = tensor.dtype if tensor.dtype in (torch.float32, torch.float64) else torch.float32
    return torch.empty(tensor.shape, dtype=dtype, device=generator.device)


def _reset_by_itself_(layer: nn.Module, generator: torch.Generator) -> None:
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    twin = copy.deepcopy(layer).cpu()  # the same numbers whatever the device
    reset = own_reset(twin)
    assert reset is not None  # _require_drawable
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        reset()
    for old, new in zip(layer.parameters(recurse=False), twin.parameters(recurse=False), strict=True):
        old.copy_(new)


def _reset_norm_(layer: nn.Module) -> None:
    for key, value in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)):
        value.fill_(1 if key in ("weight", "running_var") else 0)


def _owns_parameters(layer: nn.Module) -> bool:
    return next(layer.parameters(recurse=False), None) is not None
