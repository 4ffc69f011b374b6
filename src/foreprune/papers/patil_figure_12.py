"""Patil & Dovrolis 2021, figure 12 (appendix C)."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.patil import PAPER, networks


@entry(
    "patil-figure-12",
    paper=PAPER,
    where="appendix C, figure 12",
    look="Ablation panel: shuffling helps, more with more classes.",
)
def figure_12(scale: Scale) -> Runs:
    """SynFlow and the same shuffled.

    Which networks and densities is not printed: here those of figure 4.
    """
    return together(setting.runs("synflow", ablations=("shuffle",)) for setting in networks(scale))
