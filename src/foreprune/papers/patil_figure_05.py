"""Patil & Dovrolis 2021, figure 5."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.patil import PAPER, gradual, networks


@entry(
    "patil-figure-5",
    paper=PAPER,
    where="section 5.1, figure 5",
    look="Accuracy against density: SNIP falls off at low densities, GraSP stays behind at high ones, PHEW does "
    "neither.",
)
def figure_5(scale: Scale) -> Runs:
    """PHEW and the methods with data.

    Densities and upper bound as in figure 4, with which it shares the runs of PHEW.
    """
    return together(setting.runs("snip", "grasp", "phew", gradual(setting)) for setting in networks(scale))
