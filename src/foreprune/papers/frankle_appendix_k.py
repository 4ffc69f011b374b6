"""Frankle et al. 2021, appendix K."""

from __future__ import annotations

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.papers.frankle import EARLY, LENET, PAPER, at_the_end
from foreprune.papers.setting import Setting, powers, smoke


@entry(
    "frankle-appendix-k",
    paper=PAPER,
    where="appendix K (figures 3, 4, 5, 8, 9, 11, 13, 15)",
    look="Accuracy against density (K.1, K.4), ablation panels (K.2, K.5), layer densities (K.8): on a fully "
    "connected network shuffling hurts at the highest sparsities only.",
)
def appendix_k(scale: Scale) -> Runs:
    """Everything on LeNet-300-100, MNIST.

    The appendix does not name its seeds (here five) nor a highest matching sparsity, so all sparsities are run.
    Unit variance is left out: the appendix says nothing about it.

    At the scale small: all images and the paper's 40 epochs, six densities, three seeds, ablations at three
    densities; ntk-sap and phew join in; pruning at the end of training is left to magnitude-after.
    """
    if scale == "paper":
        return _whole(LENET)
    if scale == "smoke":
        return _whole(smoke("lenet-300-100"))
    few = LENET.shrunk(epochs=40, densities=powers(0.8, (3, 6, 9, 12, 15, 18)))
    ablated = powers(0.8, (6, 12, 18))
    early = (*EARLY, "ntk-sap")
    others = ("random", "phew", "iterative-snip", "grasp:keep=magnitude", "magnitude-after", "ltr:rewind_to=0")
    return together(
        [
            few.runs(*early, *others),
            few.runs(*early, densities=ablated, ablations=("shuffle", "reinit", "invert")),
            few.runs("phew", "magnitude-after", densities=ablated, ablations=("shuffle", "reinit")),
        ]
    )


def _whole(setting: Setting) -> Runs:
    others = ("random", "iterative-snip", "grasp:keep=magnitude", "ltr:rewind_to=0")
    return together(
        [
            setting.runs(*EARLY, ablations=("shuffle", "reinit", "invert")),
            setting.runs(*others),
            setting.runs(*at_the_end(setting), ablations=("shuffle", "reinit")),
        ]
    )
