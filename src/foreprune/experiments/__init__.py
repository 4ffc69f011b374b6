"""A grid of runs, one run, its cost. Torch is imported when a run or an estimate is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from foreprune.experiments.grid import grid, parse_method, parse_timed_method, shortened
from foreprune.experiments.selection import in_epochs, limited

if TYPE_CHECKING:
    from foreprune.experiments.checks import check, check_methods, resolve_device
    from foreprune.experiments.cost import RATE, Estimate, estimate, measured_rate
    from foreprune.experiments.run import load_data, load_model, mean_image, run_experiment, scoring_batches

_LATE = {
    **dict.fromkeys(("check", "check_methods", "resolve_device"), "checks"),
    **dict.fromkeys(("RATE", "Estimate", "estimate", "measured_rate"), "cost"),
    **dict.fromkeys(("load_data", "load_model", "mean_image", "run_experiment", "scoring_batches"), "run"),
}

__all__ = [
    "RATE",
    "Estimate",
    "check",
    "check_methods",
    "estimate",
    "grid",
    "in_epochs",
    "limited",
    "load_data",
    "load_model",
    "mean_image",
    "measured_rate",
    "parse_method",
    "parse_timed_method",
    "resolve_device",
    "run_experiment",
    "scoring_batches",
    "shortened",
]


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATE[name]}"), name)
