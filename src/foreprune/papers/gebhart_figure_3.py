"""Gebhart et al. 2021, figure 3."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.gebhart import PAPER, VARIANTS, networks


@entry(
    "gebhart-figure-3",
    paper=PAPER,
    where="section 5.2, figure 3",
    look="Accuracy against density: SynFlow-L2 behind on narrow networks, level or ahead on wide ones at high "
    "compression.",
)
def figure_3(scale: Scale) -> Runs:
    """SynFlow and its path-kernel variants.

    The mean image is that of the raw pixels in [0, 1]; the paper does not say whether it is normalized.
    """
    return together(setting.runs(*VARIANTS) for setting in networks(scale, vgg=True))
