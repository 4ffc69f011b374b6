"""Gebhart et al. 2021, figure 2."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.gebhart import PAPER, PRUNERS, networks


@entry(
    "gebhart-figure-2",
    paper=PAPER,
    where="section 5.1, figure 2",
    look="Trace against convergence, with a line and R squared for each network: similar slopes, different intercepts.",
)
def figure_2(scale: Scale) -> Runs:
    """Convergence against the log trace.

    The runs are those of figure 1, with the same reservations.
    """
    return together(setting.runs(*PRUNERS) for setting in networks(scale, vgg=False))
