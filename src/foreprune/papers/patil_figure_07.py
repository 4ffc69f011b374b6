"""Patil & Dovrolis 2021, figure 7."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.patil import PAPER, networks


@entry(
    "patil-figure-7",
    paper=PAPER,
    where="section 5.2, figure 7",
    look="Ablation panels: new weights cost PHEW nothing and help random pruning a little, which stays below.",
)
def figure_7(scale: Scale) -> Runs:
    """PHEW and random pruning with new weights.

    Drawn as for the dense network, by layer (Liu et al.) and by neuron (Evci et al.). Densities are not printed.
    """
    schemes = ("reinit", "reinit-layer", "reinit-neuron")
    return together(setting.runs("random", "phew", ablations=schemes) for setting in networks(scale, tiny=False))
