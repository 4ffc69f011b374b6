"""Patil & Dovrolis 2021, figure 10 (appendix B.1)."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.patil import PAPER, TRANSFORMING, transformations


@entry(
    "patil-figure-10",
    paper=PAPER,
    where="appendix B.1, figure 10",
    look="Test loss against density: PHEW lowest; SNIP and GraSP behind the methods without data.",
)
def figure_10(scale: Scale) -> Runs:
    """MNIST images rotated and sheared by class.

    Neither the densities nor the depth of the networks are printed: here six hidden layers.
    """
    return together(setting.runs(*TRANSFORMING) for setting in transformations(scale))
