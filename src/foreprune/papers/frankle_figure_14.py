"""Frankle et al. 2021, figure 14 (appendix I)."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.frankle import PAPER, networks


@entry(
    "frankle-figure-14",
    paper=PAPER,
    where="appendix I, figure 14",
    look="Accuracy against density: with GraSP by magnitude and SynFlow shuffled the early methods draw closer.",
)
def figure_14(scale: Scale) -> Runs:
    """Early methods with better GraSP, SynFlow.

    Otherwise figure 3, with which it shares all other runs.
    """
    methods = ("random", "magnitude", "snip", "grasp:keep=magnitude", "magnitude-after")
    return together(
        group
        for setting in networks(scale)
        for group in (setting.runs(*methods), setting.runs("synflow", ablations=("shuffle",), plain=False))
    )
