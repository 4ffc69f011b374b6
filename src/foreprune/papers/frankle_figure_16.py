"""Frankle et al. 2021, figure 16 (appendix M)."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.frankle import EARLY, PAPER, networks


@entry(
    "frankle-figure-16",
    paper=PAPER,
    where="appendix M, figure 16",
    look="Effective against actual density: the ratio of shuffled to original stays within 0.992 and 1.035.",
)
def figure_16(scale: Scale) -> Runs:
    """Effective sparsity, shuffled and not.

    Pruned and measured, not trained.
    """
    return together(setting.runs(*EARLY, ablations=("shuffle",), pruning_only=True) for setting in networks(scale))
