"""Frankle et al. 2021, appendix L."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.frankle import EARLY, MODIFIED_RESNET_18, PAPER, at_the_end, small_resnet_20
from foreprune.papers.setting import powers, smoke


@entry(
    "frankle-appendix-l",
    paper=PAPER,
    where="appendix L (figures 3, 4, 5, 8, 9, 13, 15)",
    look="Accuracy against density (L.1): SynFlow no better than random; ablation panels (L.2, L.5): shuffling helps "
    "it much.",
)
def appendix_l(scale: Scale) -> Runs:
    """Everything on modified ResNet-18.

    ResNet-18 with a 3x3 stem and without max pooling, flips and shifts only. The appendix names no highest matching
    sparsity, so all sparsities are run.

    At the scale small ResNet-20 on 5,000 images of CIFAR-10 stands in, for 10 epochs at two densities; pruning at
    the end of training is left to magnitude-after.
    """
    if scale == "paper":
        setting = MODIFIED_RESNET_18
    else:
        setting = smoke("resnet-8") if scale == "smoke" else small_resnet_20(densities=powers(0.8, (6, 14)))
    late = ("magnitude-after",) if scale == "small" else at_the_end(setting)
    return together(
        [
            setting.runs(*EARLY, ablations=("shuffle", "reinit", "invert")),
            setting.runs(*EARLY, init="constant-variance", dense=False),
            setting.runs("random", "grasp:keep=magnitude", f"ltr:rewind_to={setting.rewind_to}"),
            setting.runs(*late, ablations=("shuffle", "reinit")),
        ]
    )
