"""Ablations: change one thing about pruned networks and keep the rest, to see what mattered.

One file each, found by itself; none changes what it is given. Importing this loads no torch.
"""

from __future__ import annotations

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

from foreprune.ablations.invert import invert  # noqa: E402  # the functions take the names of their files
from foreprune.ablations.registry import Ablation, get_ablation, list_ablations, parse_ablation  # noqa: E402
from foreprune.ablations.reinitialize import Scheme, reinitialize  # noqa: E402
from foreprune.ablations.shuffle import shuffle  # noqa: E402
from foreprune.ablations.widen import widen  # noqa: E402

__all__ = [
    "Ablation",
    "Scheme",
    "get_ablation",
    "invert",
    "list_ablations",
    "parse_ablation",
    "reinitialize",
    "shuffle",
    "widen",
]
