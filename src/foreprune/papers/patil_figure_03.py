"""Patil & Dovrolis 2021, figure 3."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.patil import PAPER, networks


@entry(
    "patil-figure-3",
    paper=PAPER,
    where="section 3.1, figure 3",
    look="Ablation panels: accuracy rises with the fraction of lost units that come back.",
)
def figure_3(scale: Scale) -> Runs:
    """SynFlow and SynFlow-L2 made wider.

    Width factors 0 (as pruned), 0.25, 0.5, 0.75 and 1. The density is not printed: here two, below which layers
    narrow most.
    """
    factors = ("widen:0.25", "widen:0.5", "widen:0.75", "widen:1") if scale != "smoke" else ("widen:0.5", "widen:1")
    return together(
        setting.runs("synflow", "synflow-l2", densities=setting.densities[-2:], ablations=factors)
        for setting in networks(scale, tiny=False)
    )
