"""Patil & Dovrolis 2021, figure 13 (appendix C)."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.patil import PAPER, networks


@entry(
    "patil-figure-13",
    paper=PAPER,
    where="appendix C, figure 13",
    look="Ablation panel: shuffling helps, more with more classes.",
)
def figure_13(scale: Scale) -> Runs:
    """SynFlow-L2 and the same shuffled.

    Which networks and densities is not printed: here those of figure 4.
    """
    return together(setting.runs("synflow-l2", ablations=("shuffle",)) for setting in networks(scale))
