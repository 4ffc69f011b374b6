"""Frankle et al. 2021, figure 10 (appendix F.2)."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.frankle import EARLY, PAPER, along_training, at_matching, networks


@entry(
    "frankle-figure-10",
    paper=PAPER,
    where="appendix F.2, figure 10",
    look="Ablation panels, step by step: when does each method begin to suffer from shuffling and new weights?",
)
def figure_10(scale: Scale) -> Runs:
    """Ablations when pruning later, step by step.

    The steps are those of figure 6, with the same reservation; ResNet-50 is left out.
    """
    runs = []
    for setting in map(at_matching, networks(scale, imagenet=False)):
        later = [f"{name}@{step}" for step in along_training(setting, scale) for name in EARLY]
        runs.append(setting.runs(*later, ablations=("shuffle", "reinit")))
    return together(runs)
