"""Patil & Dovrolis 2021 (PHEW): sections 3-5 and appendices B-D.

The text gives no densities: the axes of the figures are not printed as numbers, only the rule that magnitude pruning
after training must stay comparable to the dense network. The ones here cover that range. Three seeds (section 5.1).
"""

from __future__ import annotations

from dataclasses import replace

from foreprune.papers.entry import Scale
from foreprune.papers.setting import Setting, smoke
from foreprune.training.recipes import recipe

PAPER = "Patil & Dovrolis, ICML 2021, arXiv:2010.11354"

METHODS = ("random", "magnitude", "snip", "grasp", "synflow", "synflow-l2", "phew")
TRANSFORMING = ("snip", "grasp", "synflow", "synflow-l2", "phew")
_RESNET_DENSITIES = (0.5, 0.2, 0.1, 0.05, 0.02)
_VGG_DENSITIES = (0.2, 0.1, 0.05, 0.02, 0.01)

RESNET_20 = Setting(
    data="cifar-10",
    model="resnet-20",
    recipe=recipe("patil-resnet-20-cifar"),
    densities=_RESNET_DENSITIES,
    images=50_000,
)
RESNET_20_100 = replace(RESNET_20, data="cifar-100")
VGG_19 = replace(RESNET_20, model="vgg-19", recipe=recipe("patil-vgg-19-cifar"), densities=_VGG_DENSITIES)
VGG_19_100 = replace(VGG_19, data="cifar-100")
RESNET_18 = Setting(
    data="tiny-imagenet",
    model="resnet-18",
    recipe=recipe("patil-tiny-imagenet"),
    densities=_VGG_DENSITIES,
    images=100_000,
)
VGG_19_TINY = replace(RESNET_18, model="vgg-19")

CIFAR = (RESNET_20, RESNET_20_100, VGG_19, VGG_19_100)


def networks(scale: Scale, *, tiny: bool = True) -> tuple[Setting, ...]:
    """The combinations of network and data of section 5.1, those on TinyImageNet unless it was left out.

    At the scale `small` ResNet-20 on CIFAR-10 alone: 5,000 images, 10 epochs, three densities.
    """
    if scale == "smoke":
        return (smoke("resnet-8"),)
    if scale == "small":
        return (RESNET_20.shrunk(epochs=10, images=5000, densities=(0.1, 0.05, 0.02)),)
    return (*CIFAR, *((RESNET_18, VGG_19_TINY) if tiny else ()))


def structures(scale: Scale) -> tuple[Setting, ...]:
    """The two networks of figures 1 and 2; at the scale `small` all images too, since nothing is trained."""
    if scale == "smoke":
        return (smoke("resnet-8"),)
    return (RESNET_20, VGG_19)


def gradual(setting: Setting) -> str:
    """The upper bound of figures 4 and 5: gradual magnitude pruning, in at least forty cuts."""
    every = max(1, min(100, setting.steps // 50))
    return "gmp" if every == 100 else f"gmp:every={every}"


def transformations(scale: Scale) -> tuple[Setting, ...]:
    """The image transformation task of appendix B, one setting for each width."""
    if scale == "smoke":
        return (smoke("mlp-bn-16", data="digits-transformation"),)
    widths = (100, 200, 300, 400) if scale == "paper" else (100, 400)
    densities = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01) if scale == "paper" else (0.2, 0.1, 0.05, 0.02, 0.01)
    return tuple(
        Setting(
            data="mnist-transformation",
            model=f"mlp-bn-{width}",
            recipe=recipe("patil-transformation"),
            densities=densities,
            images=10_000,
        )
        for width in widths
    )
