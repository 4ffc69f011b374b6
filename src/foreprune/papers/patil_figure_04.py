"""Patil & Dovrolis 2021, figure 4."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.patil import PAPER, gradual, networks


@entry(
    "patil-figure-4",
    paper=PAPER,
    where="section 5.1, figure 4",
    look="Accuracy against density: PHEW above SynFlow and SynFlow-L2, more so with more classes.",
)
def figure_4(scale: Scale) -> Runs:
    """PHEW and the methods without data.

    Densities are not printed. The paper's upper bound prunes a trained network on a cubic schedule, with an epoch
    between the cuts, and trains it whole again; here it is gradual magnitude pruning within one training, over its
    first three quarters.
    """
    methods = ("random", "magnitude", "synflow", "synflow-l2", "phew")
    return together(setting.runs(*methods, gradual(setting)) for setting in networks(scale))
