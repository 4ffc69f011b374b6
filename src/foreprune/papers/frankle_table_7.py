"""Frankle et al. 2021, table 7 (appendix D.3)."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.frankle import PAPER, synflow_networks


@entry(
    "frankle-table-7",
    paper=PAPER,
    where="appendix D.3, table 7",
    look="The table, against the published numbers: VGG-11 92.0, VGG-16 93.5, ResNet-18 93.7 and 94.6 on CIFAR-10, "
    "58.8 and 64 on TinyImageNet.",
)
def table_7(scale: Scale) -> Runs:
    """Replication: SynFlow's unpruned networks.

    ResNet-18 has a 3x3 stem, and trains with the rates of SynFlow's authors and with those of this paper. Where the
    rate drops with the former is not printed: here at the same fractions of training. Nor is the number of seeds:
    here five on CIFAR-10, three on TinyImageNet. At the scale small VGG-11 and VGG-16 alone, on 5,000 images for 3
    epochs.
    """
    return together(setting.runs() for setting in synflow_networks(scale))
