"""Frankle et al. 2021, figure 13 (appendix H)."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.frankle import PAPER, networks


@entry(
    "frankle-figure-13",
    paper=PAPER,
    where="appendix H, figure 13",
    look="Accuracy against density of the three: inverted GraSP equals GraSP, the magnitude of its score is as good "
    "or better.",
)
def figure_13(scale: Scale) -> Runs:
    """Three variants of GraSP.

    The inverted one is the ablation of figure 4, so that both figures share its runs.
    """
    return together(
        group
        for setting in networks(scale)
        for group in (setting.runs("grasp", ablations=("invert",)), setting.runs("grasp:keep=magnitude"))
    )
