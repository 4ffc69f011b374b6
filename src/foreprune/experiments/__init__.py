"""A grid of runs, one run, its cost. Torch is imported when a run, a check or an estimate is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from foreprune.experiments.grid import grid, parse_density, parse_method, parse_timed_method, shortened
from foreprune.experiments.selection import in_epochs, limited

if TYPE_CHECKING:
    from foreprune.experiments.checks import check, check_names, resolve_device
    from foreprune.experiments.cost import RATE, estimate, measured_rate
    from foreprune.experiments.run import run_experiment

__all__ = [
    "RATE",
    "check",
    "check_names",
    "estimate",
    "grid",
    "in_epochs",
    "limited",
    "measured_rate",
    "parse_density",
    "parse_method",
    "parse_timed_method",
    "resolve_device",
    "run_experiment",
    "shortened",
]


def __getattr__(name: str) -> Any:
    for part in ("checks", "cost", "run") if name in __all__ else ():
        module = importlib.import_module(f"{__name__}.{part}")
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
