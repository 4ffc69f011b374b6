"""Frankle et al. 2021, figure 15 (appendix J)."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.frankle import EARLY, PAPER, at_matching, networks


@entry(
    "frankle-figure-15",
    paper=PAPER,
    where="appendix J, figure 15",
    look="Layer densities: SNIP and SynFlow cut late layers most, GraSP evenly; SynFlow starves the shortcuts.",
)
def figure_15(scale: Scale) -> Runs:
    """Layer densities, highest matching sparsity.

    The early methods are pruned and measured, not trained; magnitude pruning after training needs its training.
    """
    return together(
        group
        for setting in map(at_matching, networks(scale))
        for group in (
            setting.runs("random", *EARLY, pruning_only=True),
            setting.runs("magnitude-after", dense=False),
        )
    )
