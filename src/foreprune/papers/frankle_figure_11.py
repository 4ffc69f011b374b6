"""Frankle et al. 2021, figure 11 (appendix G)."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.frankle import PAPER, networks


@entry(
    "frankle-figure-11",
    paper=PAPER,
    where="appendix G, figure 11",
    look="Accuracy against density: do 100 rounds help SNIP? The paper sees no difference at these sparsities.",
)
def figure_11(scale: Scale) -> Runs:
    """SNIP in one shot and in 100 rounds."""
    return together(setting.runs("snip", "iterative-snip") for setting in networks(scale))
