"""Patil & Dovrolis 2021, figure 1."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.patil import METHODS, PAPER, structures


@entry(
    "patil-figure-1",
    paper=PAPER,
    where="section 3, figure 1",
    look="Trace of the path kernel against density: SynFlow-L2 highest; is PHEW close to it, and above SNIP and GraSP?",
)
def figure_1(scale: Scale) -> Runs:
    """Trace of the path kernel after pruning.

    Pruned and measured, not trained. Neither densities nor data sets are printed: here CIFAR-10.
    """
    return together(setting.runs(*METHODS, pruning_only=True) for setting in structures(scale))
