"""Frankle et al. 2021, figure 12 (appendix G)."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.frankle import PAPER, networks
from foreprune.papers.setting import powers


@entry(
    "frankle-figure-12",
    paper=PAPER,
    where="appendix G, figure 12",
    look="Ablation panels of snip and iterative-snip: neither suffers.",
)
def figure_12(scale: Scale) -> Runs:
    """Ablations of iterative SNIP.

    ResNet-50 was left out in the paper. At the scale small, two densities.
    """
    settings = networks(scale, imagenet=False, few=powers(0.8, (6, 14)))
    return together(setting.runs("snip", "iterative-snip", ablations=("shuffle", "reinit")) for setting in settings)
