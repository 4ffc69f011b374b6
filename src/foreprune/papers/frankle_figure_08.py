"""Frankle et al. 2021, figure 8 (appendix E)."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.frankle import PAPER, networks


@entry(
    "frankle-figure-8",
    paper=PAPER,
    where="appendix E, figure 8",
    look="Accuracy against density: magnitude-after and ltr together, both far above random and magnitude at "
    "initialization.",
)
def figure_8(scale: Scale) -> Runs:
    """The four baselines.

    Rewinding goes back to steps 1000, 2000, 1000 and 6000 (ResNet-20, VGG-16, ResNet-18, ResNet-50; table A.3 has
    6255 for the last).
    """
    return together(
        setting.runs("random", "magnitude", "magnitude-after", f"ltr:rewind_to={setting.rewind_to}")
        for setting in networks(scale)
    )
