"""Prune any PyTorch network before training it.

masks  = foreprune.prune(model, "synflow", density=0.05, inputs=x)
handle = masks.attach(model, optimizer)      # train as ever; pruned weights stay exactly 0
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from foreprune.analysis.path_kernel import path_kernel
    from foreprune.analysis.summary import analyze
    from foreprune.analysis.tangent_kernel import ntk
    from foreprune.api import prune, score
    from foreprune.core.masks import Masks
    from foreprune.core.method import LayerCollapse, Method
    from foreprune.graph import PathError
    from foreprune.methods import method, methods
    from foreprune.records.spec import Experiment, Record
    from foreprune.records.store import load_frame as load_records
    from foreprune.training.fit import fit
    from foreprune.training.recipes import Recipe

# Looked up at first use, so that `import foreprune` (and the command line's --help) does not import torch.
_PUBLIC = {
    "analyze": "analysis.summary",
    "ntk": "analysis.tangent_kernel",
    "path_kernel": "analysis.path_kernel",
    "prune": "api",
    "score": "api",
    "LayerCollapse": "core.method",
    "Masks": "core.masks",
    "Method": "core.method",
    "PathError": "graph",
    "method": "methods",
    "methods": "methods",
    "fit": "training.fit",
    "Recipe": "training.recipes",
    "Experiment": "records.spec",
    "Record": "records.spec",
    "load_records": "records.store",
}
_RENAMED = {"load_records": "load_frame"}

__all__ = [
    "Experiment",
    "LayerCollapse",
    "Masks",
    "Method",
    "PathError",
    "Recipe",
    "Record",
    "analyze",
    "fit",
    "load_records",
    "method",
    "methods",
    "ntk",
    "path_kernel",
    "prune",
    "score",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'foreprune' has no attribute {name!r}; it has {', '.join(__all__)}")
    module = importlib.import_module(f"foreprune.{_PUBLIC[name]}")
    # the room `methods` has the name of the function in it and can be called like it
    value = module if _PUBLIC[name] == name else getattr(module, _RENAMED.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
