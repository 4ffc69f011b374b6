"""Patil & Dovrolis 2021, figure 11 (appendix B.2)."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.patil import PAPER, TRANSFORMING, transformations


@entry(
    "patil-figure-11",
    paper=PAPER,
    where="appendix B.2, figure 11",
    look="Number of paths against density: most with SynFlow and SynFlow-L2.",
)
def figure_11(scale: Scale) -> Runs:
    """Paths left after pruning for figure 10.

    Pruned and measured, not trained. With figure 10 in the same folder there is nothing to run: its records hold
    the number of paths too.
    """
    return together(setting.runs(*TRANSFORMING, pruning_only=True) for setting in transformations(scale))
