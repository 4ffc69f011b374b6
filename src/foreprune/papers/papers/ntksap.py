"""Wang, Li & Sun 2023 (NTK-SAP): tables 1 and 12-14.

The tables give means and standard deviations without a number of seeds; three are run here, and one on ImageNet, where
single numbers are printed.
"""

from __future__ import annotations

from dataclasses import replace

from foreprune.papers.entry import Runs, Scale, together
from foreprune.papers.setting import Setting, powers, smoke
from foreprune.training.recipes import recipe

PAPER = "Wang, Li & Sun, ICLR 2023, arXiv:2304.02840"

LADDER = powers(0.8, range(2, 19, 2))
_FEW = powers(0.8, (6, 10, 14, 18))
# variances 1e-4, 2.5e-5, 1e-5 and 1e-6 of the perturbation, as the standard deviations that the method takes
DEVIATIONS = (0.01, 0.005, 0.00316227766, 0.001)

RESNET_20 = Setting(
    data="cifar-10",
    model="resnet-20",
    recipe=recipe("ntksap-resnet-20-cifar-10"),
    densities=LADDER,
    images=50_000,
)
VGG_16 = replace(RESNET_20, data="cifar-100", model="vgg-16", recipe=recipe("ntksap-vgg-16-cifar-100"))
RESNET_18 = Setting(
    data="tiny-imagenet",
    model="resnet-18-imagenet",
    recipe=recipe("ntksap-resnet-18-tiny-imagenet"),
    densities=LADDER,
    images=100_000,
)
IMAGENET_18 = Setting(
    data="imagenet",
    model="resnet-18-imagenet",
    recipe=recipe("frankle-resnet-50-imagenet"),
    densities=powers(0.8, (10, 14)),
    images=1_281_167,
    seeds=1,
)
IMAGENET_50 = replace(IMAGENET_18, model="resnet-50")


def shrunk(setting: Setting, scale: Scale) -> Setting:
    """The setting at a scale: as it is, ResNet-20's 5,000 images for 10 epochs, or the digits."""
    if scale == "smoke":
        return smoke("resnet-8")
    return setting if scale == "paper" else setting.shrunk(epochs=10, images=5000, densities=_FEW)


def perturbations(setting: Setting, *, rounds: int, resamplings: int, samples: int) -> Runs:
    """NTK-SAP with each size of the perturbation of tables 12-14; the defaults of the method are left unsaid."""
    given = {"rounds": (rounds, 20), "resamplings": (resamplings, 5), "samples": (samples, 100)}
    words = [f"{key}={value}" for key, (value, default) in given.items() if value != default]
    methods = []
    for deviation in DEVIATIONS:
        settings = [*words, *([f"epsilon={deviation}"] if deviation != DEVIATIONS[0] else [])]
        methods.append(f"ntk-sap:{','.join(settings)}" if settings else "ntk-sap")
    return together([setting.runs(*methods)])
