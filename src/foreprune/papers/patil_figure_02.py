"""Patil & Dovrolis 2021, figure 2."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.patil import METHODS, PAPER, structures


@entry(
    "patil-figure-2",
    paper=PAPER,
    where="section 3, figure 2",
    look="Remaining width of each layer: narrow with SynFlow and SynFlow-L2, full with PHEW and GraSP.",
)
def figure_2(scale: Scale) -> Runs:
    """Units left in each layer.

    Pruned and measured, not trained. The paper takes the one density at which magnitude pruning after training
    stays within 5 % of the dense network, and does not print it: here all densities of figure 1, whose runs these
    are.
    """
    return together(setting.runs(*METHODS, pruning_only=True) for setting in structures(scale))
