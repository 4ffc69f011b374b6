"""Prune any PyTorch network before training it.

masks  = foreprune.prune(model, "synflow", density=0.05, inputs=x)
handle = masks.attach(model, optimizer)      # train as ever; pruned weights stay exactly 0
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.3.0"

if TYPE_CHECKING:
    from foreprune import ablations
    from foreprune.analysis import analyze, effective_masks, linearize, ntk, overlap
    from foreprune.analysis.path_kernel import path_kernel
    from foreprune.api import prune, score
    from foreprune.core.by_score import LayerCollapse
    from foreprune.core.masks import Masks
    from foreprune.core.method import Method, masker, scorer
    from foreprune.graph import PathError
    from foreprune.methods import get_method, list_methods
    from foreprune.records import Experiment, Record
    from foreprune.records import load_frame as load_records
    from foreprune.training.evaluate import evaluate
    from foreprune.training.fit import fit
    from foreprune.training.recipes import Recipe

# Looked up at first use, so that `import foreprune` (and the command line's --help) does not import torch.
_PUBLIC = {
    "ablations": "ablations",
    "analyze": "analysis",
    "effective_masks": "analysis",
    "linearize": "analysis",
    "ntk": "analysis",
    "overlap": "analysis",
    "path_kernel": "analysis.path_kernel",
    "prune": "api",
    "score": "api",
    "LayerCollapse": "core.by_score",
    "Masks": "core.masks",
    "Method": "core.method",
    "masker": "core.method",
    "scorer": "core.method",
    "PathError": "graph",
    "get_method": "methods",
    "list_methods": "methods",
    "evaluate": "training.evaluate",
    "fit": "training.fit",
    "Recipe": "training.recipes",
    "Experiment": "records",
    "Record": "records",
    "load_records": "records",
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
    "ablations",
    "analyze",
    "effective_masks",
    "evaluate",
    "fit",
    "get_method",
    "linearize",
    "list_methods",
    "load_records",
    "masker",
    "ntk",
    "overlap",
    "path_kernel",
    "prune",
    "score",
    "scorer",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'foreprune' has no attribute {name!r}; it has {', '.join(__all__)}")
    module = importlib.import_module(f"foreprune.{_PUBLIC[name]}")
    # `ablations` is a package
    value = module if _PUBLIC[name] == name else getattr(module, _RENAMED.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
