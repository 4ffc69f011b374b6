"""Ablations: change one thing about pruned networks and keep the rest, to see what mattered.

One file each, found by itself; none changes what it is given. Importing this loads no torch.
"""

from foreprune.ablations.invert import invert
from foreprune.ablations.registry import (
    Ablation,
    Changed,
    ablation,
    get_ablation,
    list_ablations,
    parse_ablation,
)
from foreprune.ablations.reinitialize import Scheme, reinitialize
from foreprune.ablations.shuffle import shuffle
from foreprune.ablations.widen import widen

__all__ = [
    "Ablation",
    "Changed",
    "Scheme",
    "ablation",
    "get_ablation",
    "invert",
    "list_ablations",
    "parse_ablation",
    "reinitialize",
    "shuffle",
    "widen",
]
