"""Lee, Ajanthan & Torr 2019 (SNIP): table 1.

Errors are printed with one digit, from 20 seeds; five are run here. The setting is that of section 5 and of the
authors' code; what differs is said with the table.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.setting import Setting, smoke
from foreprune.training.recipes import recipe

PAPER = "Lee, Ajanthan & Torr, ICLR 2019, arXiv:1810.02340"
figure = partial(entry, "snip", PAPER)

LENET_300_100 = Setting(
    data="mnist",
    model="lenet-300-100",
    recipe=recipe("snip-lenet-mnist"),
    densities=(0.05, 0.02),
    images=54_000,
    limited=True,
    seeds=5,
)
LENET_5 = replace(
    LENET_300_100,
    model="lenet-5",
    recipe=replace(LENET_300_100.recipe, warmup_epochs=1.0),
    densities=(0.02, 0.01),
)


@figure(
    "section 5.2, table 1",
    "Error in percent, against the published numbers: LeNet-300-100 1.7 dense, 1.6 at 95 % and 2.4 at 98 % sparsity; "
    "LeNet-5-Caffe 0.9 dense, 0.8 at 98 % and 1.1 at 99 %.",
)
def table_1(scale: Scale) -> Runs:
    """SNIP on the two LeNets.

    As there: scores from one batch of 100 images, one shot over all layers, new weights after pruning (the authors'
    code draws a second set; here the ablation "reinit"), 90 % of the training images. The paper prints no length of
    training, the code runs 10,000 steps by default: here 99,900, four phases of the rate.

    Not as there: the batch is balanced, ten images of each class; biases are not pruned; weights are Kaiming normal,
    with the ratios between layers of the authors' truncated normal of variance 1 / fan-in; the error is that after the
    last epoch, where their code takes the best of its last checkpoints on the test images.

    LeNet-5-Caffe has ReLU after its convolutions too, where their code has it after the hidden linear layer only, and
    one epoch of warm-up. At the printed rate of 0.1 with momentum 0.9 the dense network diverges here within ten steps
    without both, for weights of variance 1 / fan-in as well, and the pruned ones diverge without the ReLUs.

    At the scale small LeNet-300-100 alone, with the whole schedule and all five seeds.
    """
    networks = {"smoke": (smoke("lenet-300-100"),), "small": (LENET_300_100,), "paper": (LENET_300_100, LENET_5)}
    return together(setting.runs("snip", ablations=("reinit",), plain=False) for setting in networks[scale])
