"""Gebhart, Saxena & Schrater 2021: section 5 and appendix A.4.

Compression ratios are powers of ten, from 10^0.5 to 10^3 in half steps, as on the axes of figure 3. Three seeds.
"""

from __future__ import annotations

from dataclasses import replace

from foreprune.papers.entry import Scale
from foreprune.papers.setting import Setting, powers, smoke
from foreprune.training.recipes import recipe

PAPER = "Gebhart, Saxena & Schrater 2021, arXiv:2101.10552"

VARIANTS = ("synflow", "synflow-l2", "synflow-dist", "synflow-l2-dist")
PRUNERS = ("snip", "grasp", *VARIANTS)
RATIOS = powers(10, (-0.5, -1, -1.5, -2, -2.5, -3))

FC_100 = Setting(data="mnist", model="fc-100", recipe=recipe("gebhart-fc-mnist"), densities=RATIOS, images=60_000)
FC = tuple(replace(FC_100, model=f"fc-{width}") for width in (100, 500, 1000, 2000))
_RESNET = Setting(
    data="cifar-10", model="resnet-20", recipe=recipe("gebhart-resnet-20-cifar"), densities=RATIOS, images=50_000
)
RESNETS = tuple(
    replace(_RESNET, data=data, model=model)
    for data in ("cifar-10", "cifar-100")
    for model in ("resnet-20", "wide-resnet-20")
)
VGGS = tuple(
    replace(_RESNET, data=data, model=model, recipe=recipe(f"gebhart-vgg-{data}"))
    for data in ("cifar-10", "cifar-100")
    for model in ("vgg-11", "vgg-16")
)


def networks(scale: Scale, *, vgg: bool) -> tuple[Setting, ...]:
    """Fully connected networks on MNIST and convolutional ones on CIFAR-10/100.

    At the scale `small` FC-100 and FC-500 alone, all of MNIST, 10 epochs.
    """
    if scale == "smoke":
        return (smoke("fc-32"),)
    if scale == "small":
        return tuple(setting.shrunk(epochs=10, densities=RATIOS) for setting in FC[:2])
    return (*FC, *(VGGS if vgg else ()), *RESNETS)
