"""What masks leave of a network, and what theory says of its training: one file for each quantity.

Names are looked up at first use, because `foreprune.analysis.statistics` is shared with the report, which runs without
torch. `path_kernel` has the name of its file: `from foreprune.analysis.path_kernel import path_kernel`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foreprune.analysis.agreement import overlap
    from foreprune.analysis.analyzed import Analysis, analyze
    from foreprune.analysis.effective import effective_masks
    from foreprune.analysis.eigen import Spectrum
    from foreprune.analysis.flops import Cost, cost
    from foreprune.analysis.linearized import Linearized, linearize
    from foreprune.analysis.path_sums import path_count, path_kernel_trace, path_norm, synflow_objective
    from foreprune.analysis.statistics import MaskOverlap, Overlap
    from foreprune.analysis.tangent_kernel import ntk
    from foreprune.analysis.widths import Width, layer_widths, unit_histograms, units_by_sparsity

_FILES = {
    "agreement": ("overlap",),
    "effective": ("effective_masks",),
    "eigen": ("Spectrum",),
    "flops": ("Cost", "cost"),
    "linearized": ("Linearized", "linearize"),
    "path_sums": ("path_count", "path_kernel_trace", "path_norm", "synflow_objective"),
    "statistics": ("MaskOverlap", "Overlap"),
    "analyzed": ("Analysis", "analyze"),
    "tangent_kernel": ("ntk",),
    "widths": ("Width", "layer_widths", "unit_histograms", "units_by_sparsity"),
}
_HOME = {name: file for file, names in _FILES.items() for name in names}

__all__ = [
    "Analysis",
    "Cost",
    "Linearized",
    "MaskOverlap",
    "Overlap",
    "Spectrum",
    "Width",
    "analyze",
    "cost",
    "effective_masks",
    "layer_widths",
    "linearize",
    "ntk",
    "overlap",
    "path_count",
    "path_kernel_trace",
    "path_norm",
    "synflow_objective",
    "unit_histograms",
    "units_by_sparsity",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'foreprune.analysis' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"foreprune.analysis.{_HOME[name]}"), name)
    globals()[name] = value
    return value
