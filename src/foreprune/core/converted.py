"""Models that were converted: they have lost the layers, the derivatives or the Python that methods go by."""

from __future__ import annotations

import torch
from torch import nn
from torch._ops import OpOverload
from torch.fx import GraphModule

_QUANTIZED = ("torch.ao.nn.", "torch.nn.quantized", "torch.ao.quantization.", "torchao.")
_FLOAT = frozenset({"QuantStub", "DeQuantStub", "QuantWrapper", "FloatFunctional"})  # do nothing before the conversion


def conversion(model: object) -> str | None:
    """What `model`, or the first part of it that is not eager, was converted to, in words; None for an eager module."""
    if type(model).__name__ == "ExportedProgram":
        return "a program of torch.export"
    if not isinstance(model, nn.Module):
        return None
    for name, part in model.named_modules():
        where = f" in {name!r}" if name else ""
        if isinstance(part, torch.jit.ScriptModule):
            return f"a scripted or traced module{where}"
        if isinstance(part, GraphModule) and any(isinstance(node.target, OpOverload) for node in part.graph.nodes):
            return f"a program of torch.export{where}"
        if type(part).__module__.startswith(_QUANTIZED) and type(part).__name__ not in _FLOAT:
            return f"a quantized module or prepared for it{where}"
    return None


def refuse_converted(model: object) -> None:
    """Raise TypeError for a model that is not eager, and say what to do."""
    if found := conversion(model):
        raise TypeError(
            f"the model is {found}, which has lost the layers or derivatives that methods go by; prune (score, "
            "analyze) the eager module that it was made from, and convert that"
        )


def hint(model: object) -> str:
    """The same as the end of another message; empty for an eager module."""
    found = conversion(model)
    return f"; it is {found}: attach to the eager module that it was made from, and convert that" if found else ""
