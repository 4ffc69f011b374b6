"""Frankle et al. 2021, table 3 (appendix B.5)."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.frankle import PAPER, grasp_networks


@entry(
    "frankle-table-3",
    paper=PAPER,
    where="appendix B.5, table 3",
    look="The table, against the published numbers: VGG-19 at 90, 95, 98 %, 93.5, 93.4, diverged; WRN-32-2 92.5, "
    "91.0, 87.7; ResNet-50 at 60, 80, 90 %, 73.9, 71.2, 65.7.",
)
def table_3(scale: Scale) -> Runs:
    """Replication: SNIP in GraSP's paper.

    Five seeds. The hyperparameters of VGG-19 and WRN-32-2 are not printed; here those of VGG-16 and ResNet-20. At
    the scale small both networks train on 5,000 images for 3 epochs, and ResNet-50 is left out.
    """
    return together(setting.runs("snip") for setting in grasp_networks(scale))
