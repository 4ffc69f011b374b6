"""Frankle et al. 2021, figure 3."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.frankle import EARLY, PAPER, networks


@entry(
    "frankle-figure-3",
    paper=PAPER,
    where="section 4, figure 3",
    look="Accuracy against density: which early method leads at which sparsity, and the gap to magnitude-after.",
)
def figure_3(scale: Scale) -> Runs:
    """Early methods at initialization.

    The paper scores in one shot (SynFlow in 100 rounds) on ten images of each class, without new weights
    afterwards.
    """
    methods = ("random", *EARLY, "magnitude-after")
    return together(setting.runs(*methods) for setting in networks(scale))
