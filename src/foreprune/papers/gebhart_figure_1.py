"""Gebhart et al. 2021, figure 1."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.gebhart import PAPER, PRUNERS, networks


@entry(
    "gebhart-figure-1",
    paper=PAPER,
    where="section 5.1, figure 1",
    look="Trace against convergence: the change of weights and outputs rises with the trace of the path kernel.",
)
def figure_1(scale: Scale) -> Runs:
    """Convergence against the predicted curve.

    The paper fits its curve at epoch 60 and takes the trace after the first epoch; records hold both changes at the
    end of training and the trace at initialization. It names no data for its points: here MNIST for the fully
    connected networks, CIFAR-10 and CIFAR-100 for the ResNets.
    """
    return together(setting.runs(*PRUNERS) for setting in networks(scale, vgg=False))
