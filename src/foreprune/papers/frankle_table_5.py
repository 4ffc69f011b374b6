"""Frankle et al. 2021, table 5 (appendix C.4)."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.frankle import PAPER, grasp_networks


@entry(
    "frankle-table-5",
    paper=PAPER,
    where="appendix C.4, table 5",
    look="The table, against the published numbers: VGG-19 at 90, 95, 98 %, 92.8, 92.5, 91.6; WRN-32-2 92.2, 90.9, "
    "88.3; ResNet-50 at 60, 80, 90 %, 73.4, 71.0, 67.0.",
)
def table_5(scale: Scale) -> Runs:
    """Replication: GraSP in its own paper.

    Five seeds. The hyperparameters of VGG-19 and WRN-32-2 are not printed; here those of VGG-16 and ResNet-20. At
    the scale small both networks train on 5,000 images for 3 epochs, and ResNet-50 is left out.
    """
    return together(setting.runs("grasp") for setting in grasp_networks(scale))
