"""Everything of a model, and of the process, that pruning must leave alone, in a form that can be compared."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def bits(tensor: Tensor) -> bytes:
    if tensor.is_meta or isinstance(tensor, nn.parameter.UninitializedParameter):
        return b""
    # NumPy knows no bfloat16
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def photograph(model: nn.Module) -> dict[str, Any]:
    """Everything of a model, and of the process, that pruning must leave alone."""
    state: dict[str, Any] = {}
    for prefix, module in model.named_modules():
        state[f"{prefix} training"] = module.training
        state[f"{prefix} attributes"] = sorted(vars(module))
        state[f"{prefix} buffers"] = {
            name: None if buffer is None else (id(buffer), bits(buffer)) for name, buffer in module._buffers.items()
        }
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            state[f"{prefix} {kind}"] = dict(getattr(module, kind))
        state[f"{prefix} parameters"] = {
            name: parameter
            if parameter is None
            else (
                id(parameter),
                None if isinstance(parameter, nn.parameter.UninitializedParameter) else parameter.data_ptr(),
                bits(parameter),
                parameter.requires_grad,
                parameter._version,
                None if parameter.grad is None else (id(parameter.grad), bits(parameter.grad)),
            )
            for name, parameter in module._parameters.items()
        }
    state["torch generator"] = bits(torch.random.get_rng_state())
    state["numpy generator"] = repr(np.random.get_state())  # noqa: NPY002
    state["python generator"] = random.getstate()
    state["modes"] = (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        len(torch.overrides._get_current_function_mode_stack()),
    )
    return state


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
