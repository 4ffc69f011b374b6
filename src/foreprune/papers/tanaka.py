"""Tanaka, Kunin, Yamins & Ganguli 2020 (SynFlow): VGG-16 on CIFAR-10 of figure 6, in the setting of the authors' code.

The figure's numbers lie in the authors' repository: three seeds, the best epoch of each training on the test images.
"""

from __future__ import annotations

from functools import partial

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.setting import Setting, powers, smoke
from foreprune.training.recipes import recipe

PAPER = "Tanaka, Kunin, Yamins & Ganguli, NeurIPS 2020, arXiv:2006.05467"
figure = partial(entry, "synflow", PAPER)

METHODS = ("random", "magnitude", "snip", "grasp", "synflow")
VGG_16 = Setting(
    data="cifar-10",
    model="vgg-16",
    recipe=recipe("synflow-vgg-cifar"),
    densities=powers(10, (-0.5, -1, -1.5, -2, -2.5, -3)),
    images=50_000,
)


@figure(
    "section 6, figure 6",
    "Best accuracy of each training at compressions of 10, 100 and 1,000: SynFlow 93.3, 90.1, 80.4; SNIP 92.3, 89.2, "
    "76.3; GraSP 91.8, 87.5, 70.9; magnitude 93.1, 89.8, 10.0; random 91.2, 79.1, 10.0.",
)
def figure_6(scale: Scale) -> Runs:
    """Five methods on VGG-16 and CIFAR-10.

    One of the figure's twelve pairs of network and data. Rates and decay are those stored with the authors' runs of
    VGG-11 on CIFAR-10 and VGG-16 on CIFAR-100. SNIP and GraSP score 100 images, balanced here; the authors' GraSP and
    SNIP run batch normalization in inference mode, ours as in their papers.

    At the scale small 5,000 images, 3 epochs and compressions of 10 and 100.
    """
    if scale == "smoke":
        return smoke("resnet-8").runs(*METHODS)
    setting = VGG_16 if scale == "paper" else VGG_16.shrunk(epochs=3, images=5000, densities=powers(10, (-1, -2)))
    return together([setting.runs(*METHODS)])
