"""Patil & Dovrolis 2021, figure 6."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.patil import PAPER, networks


@entry(
    "patil-figure-6",
    paper=PAPER,
    where="section 5.2, figure 6",
    look="Accuracy against density of the variants: walks and initializations make no difference, whole kernels "
    "little.",
)
def figure_6(scale: Scale) -> Runs:
    """PHEW: walks, kernels, initializations.

    N(0, 0.1) is read as a standard deviation of 0.1. Densities are not printed.
    """
    walks = ("phew", "phew:bias=uniform", "phew:bias=inverse", "phew:conserve=kernel")
    settings = networks(scale, tiny=False)
    drawn = [
        setting.runs("phew", init=init, dense=False)
        for setting in settings
        for init in ("normal-0.1", "xavier-uniform")
    ]
    return together([*(setting.runs(*walks) for setting in settings), *drawn])
