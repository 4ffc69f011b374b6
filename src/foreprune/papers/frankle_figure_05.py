"""Frankle et al. 2021, figure 5."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.frankle import EARLY, PAPER, at_matching, networks


@entry(
    "frankle-figure-5",
    paper=PAPER,
    where="section 5, figure 5",
    look="Neuron-collapse histogram: SynFlow removes whole channels (31 % of ResNet-20's), shuffled SynFlow hardly "
    "any.",
)
def figure_5(scale: Scale) -> Runs:
    """Neuron collapse.

    Pruned and measured, not trained. The other methods are shuffled too, which the paper does for SynFlow only.
    """
    settings = map(at_matching, networks(scale))
    return together(setting.runs(*EARLY, ablations=("shuffle",), pruning_only=True) for setting in settings)
