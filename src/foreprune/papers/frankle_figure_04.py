"""Frankle et al. 2021, figure 4."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.frankle import EARLY, PAPER, RESNET_50, networks
from foreprune.papers.setting import powers


@entry(
    "frankle-figure-4",
    paper=PAPER,
    where="section 5, figure 4",
    look="Ablation panels: original, shuffled, reinitialized and inverted lie together for the early methods, not "
    "for magnitude-after; inverted GraSP loses nothing; unit variance hurts magnitude only.",
)
def figure_4(scale: Scale) -> Runs:
    """Ablations at initialization.

    The early methods also run with weights of variance 1 in every layer (`init constant-variance`), and train from
    them. Magnitude pruning after training (bottom row) is shuffled and reinitialized only.

    ResNet-50 had "limited ablations" that the paper does not list: here shuffle and reinitialize.

    At the scale small, two densities.
    """
    runs = []
    for setting in networks(scale, few=powers(0.8, (6, 14))):
        if setting is RESNET_50:
            runs.append(setting.runs(*EARLY, "magnitude-after", ablations=("shuffle", "reinit")))
            continue
        runs.append(setting.runs(*EARLY, ablations=("shuffle", "reinit", "invert")))
        runs.append(setting.runs(*EARLY, init="constant-variance", dense=False))
        runs.append(setting.runs("magnitude-after", ablations=("shuffle", "reinit")))
    return together(runs)
