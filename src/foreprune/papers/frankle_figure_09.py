"""Frankle et al. 2021, figure 9 (appendix F.1)."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.frankle import PAPER, at_the_end, networks
from foreprune.papers.setting import powers


@entry(
    "frankle-figure-9",
    paper=PAPER,
    where="appendix F.1, figure 9",
    look="Ablation panels: unlike in figure 4, shuffling and reinitializing cost magnitude accuracy; GraSP hardly "
    "notices.",
)
def figure_9(scale: Scale) -> Runs:
    """Ablations when pruning at the end of training.

    ResNet-50 was left out in the paper. At the scale small, two densities.
    """
    settings = networks(scale, imagenet=False, few=powers(0.8, (6, 14)))
    return together(setting.runs(*at_the_end(setting), ablations=("shuffle", "reinit")) for setting in settings)
