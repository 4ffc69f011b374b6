"""Frankle et al. 2021, figure 6."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.frankle import (
    EARLY,
    PAPER,
    RESNET_50,
    along_training,
    at_matching,
    networks,
)


@entry(
    "frankle-figure-6",
    paper=PAPER,
    where="section 6, figure 6",
    look="Accuracy against the step of pruning: magnitude, SNIP and SynFlow improve, random does not, GraSP hardly; "
    "rewinding saturates early.",
)
def figure_6(scale: Scale) -> Runs:
    """Pruning later in training.

    One sparsity for each network, the highest matching one. After pruning at step k the whole recipe runs again.

    The steps are not printed; see `foreprune recipes` for those taken. Appendix E refers to this figure for the
    rewinding step of ResNet-50; the paper does not say that its other methods ran there, so it has rewinding only.
    """
    runs = []
    for setting in map(at_matching, networks(scale)):
        steps = along_training(setting, scale)
        rewound = [f"ltr:rewind_to={step}" for step in steps[:-1]]
        later = [f"{name}@{step}" for step in steps for name in ("random", *EARLY)]
        runs.append(setting.runs(*rewound, *([] if setting.model == RESNET_50.model else later)))
    return together(runs)
