"""Frankle, Dziugaite, Roy & Carbin 2021: sections 3-6 and appendices A-M.

Sparsities are powers of 0.8 of the density, up to 98.2 % (94.5 % for ResNet-50), as the axes of the figures and the
percentages of the text have them. Five seeds on CIFAR-10, three on TinyImageNet and ImageNet (section 3). The highest
matching sparsities are those of section 4, the steps of rewinding those of appendix E.

Weights are Kaiming normal by fan-in, and on every network with batch normalization its scales are U(0, 1) and its
shifts 0, for all methods alike: appendix D.4 says so of all that the paper ran, replications and rival hyperparameters
included. OpenLTH, its code, chooses the scales apart from the weights, so that weights of variance 1 have uniform
scales too. LeNet-300-100 has no batch normalization.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from foreprune.experiments import shortened
from foreprune.papers.entry import Scale
from foreprune.papers.setting import Setting, powers, smoke
from foreprune.training.recipes import recipe

PAPER = "Frankle, Dziugaite, Roy & Carbin, ICLR 2021, arXiv:2009.08576"

EARLY = ("magnitude", "snip", "grasp", "synflow")
LADDER = powers(0.8, range(1, 19))
INIT = "kaiming-normal-fan-in+uniform-scale"
UNIT_VARIANCE = "constant-variance+uniform-scale"
_FEW = powers(0.8, (6, 10, 14, 18))

RESNET_20 = Setting(
    data="cifar-10",
    model="resnet-20",
    recipe=recipe("frankle-resnet-20-cifar-10"),
    densities=LADDER,
    images=50_000,
    seeds=5,
    matching=LADDER[5],
    rewind_to=1000,
    init=INIT,
)
VGG_16 = replace(
    RESNET_20, model="vgg-16", recipe=recipe("frankle-vgg-16-cifar-10"), matching=LADDER[11], rewind_to=2000
)
RESNET_18 = Setting(
    data="tiny-imagenet",
    model="resnet-18-imagenet",
    recipe=recipe("frankle-resnet-18-tiny-imagenet"),
    densities=LADDER,
    images=100_000,
    matching=LADDER[14],
    rewind_to=1000,
    init=INIT,
)
RESNET_50 = Setting(
    data="imagenet",
    model="resnet-50",
    recipe=recipe("frankle-resnet-50-imagenet"),
    densities=LADDER[:13],
    images=1_281_167,
    matching=LADDER[4],
    rewind_to=6000,
    init=INIT,
)
# Appendix K and L name no highest matching sparsity; figures that need one use the whole ladder there.
LENET = Setting(
    data="mnist",
    model="lenet-300-100",
    recipe=recipe("frankle-lenet-mnist"),
    densities=LADDER,
    images=60_000,
    seeds=5,
)
MODIFIED_RESNET_18 = replace(RESNET_18, data="modified-tiny-imagenet", model="resnet-18", matching=1.0)
SMOKE = replace(smoke("resnet-8"), init=INIT)


def small_resnet_20(*, densities: tuple[float, ...] = _FEW) -> Setting:
    """ResNet-20 on 5,000 images for 10 epochs: 400 steps, a few minutes on a CPU."""
    return RESNET_20.shrunk(epochs=10, images=5000, densities=densities)


def networks(scale: Scale, *, imagenet: bool = True, few: tuple[float, ...] = _FEW) -> tuple[Setting, ...]:
    """The networks of the main body: ResNet-20, VGG-16, ResNet-18, and ResNet-50 unless it was left out.

    At the scale `small` ResNet-20 alone, with the densities `few`.
    """
    if scale == "smoke":
        return (SMOKE,)
    if scale == "small":
        return (small_resnet_20(densities=few),)
    return (RESNET_20, VGG_16, RESNET_18, *((RESNET_50,) if imagenet else ()))


def at_matching(setting: Setting) -> Setting:
    """The same at its highest matching sparsity only."""
    return replace(setting, densities=(setting.matching,))


def collapsing_networks(scale: Scale) -> tuple[Setting, ...]:
    """The networks of figure 5, each at its highest matching sparsity."""
    settings = (RESNET_20, VGG_16) if scale == "small" else networks(scale)
    return tuple(map(at_matching, settings))


def at_the_end(setting: Setting) -> tuple[str, ...]:
    """The early methods applied to the trained dense network; magnitude under the name of the baseline."""
    return ("magnitude-after", *(f"{name}@{setting.steps}" for name in EARLY if name != "magnitude"))


def along_training(setting: Setting, scale: Scale) -> tuple[int, ...]:
    """Steps to prune at, from initialization to the end of training. Figures 6 and 10 print no list.

    The early ones are where section 6 and appendix F see changes (1,000 to 10,000 steps), the later ones lie around
    those at which magnitude pruning meets lottery-ticket rewinding (25,000 to 36,000) and both drops of the rate.
    """
    steps: tuple[int, ...] = (0, 1000, 2000, 5000, 10_000, 20_000, 30_000, 40_000, 50_000)
    if scale != "paper":
        steps = (0, 5000, 20_000)
    full = setting if scale == "paper" else RESNET_20
    inside = [full.scaled(step, setting) for step in steps if step < full.steps]
    return (*dict.fromkeys(inside), setting.steps)


def _replicated(model: str, densities: tuple[float, ...]) -> Setting:
    """A network of appendices B and C on CIFAR-10."""
    name = "frankle-vgg-16-cifar-10" if model.startswith("vgg") else "frankle-resnet-20-cifar-10"
    return replace(RESNET_20, model=model, recipe=recipe(name), densities=densities, matching=1.0, rewind_to=0)


def _briefly(setting: Setting) -> Setting:
    return setting.shrunk(epochs=3, images=5000, densities=setting.densities)


def snip_networks(scale: Scale) -> tuple[Setting, ...]:
    """The networks of table 2, each at its sparsity."""
    if scale == "smoke":
        return (SMOKE,)
    vgg = _replicated("vgg-16", (0.03,))
    if scale == "small":
        return (_briefly(vgg), _briefly(_replicated("wrn-14-2", (0.05,))))
    others = ("vgg-16-2fc", "wrn-14-8", "wrn-14-10", "wrn-20-8")
    return (vgg, *(_replicated(model, (0.05,)) for model in others))


def grasp_networks(scale: Scale) -> tuple[Setting, ...]:
    """The networks of tables 3 and 5, each at its three sparsities."""
    if scale == "smoke":
        return (SMOKE,)
    cifar = tuple(_replicated(model, (0.1, 0.05, 0.02)) for model in ("vgg-19", "wrn-32-2"))
    if scale == "small":
        return tuple(map(_briefly, cifar))
    return (*cifar, replace(RESNET_50, densities=(0.4, 0.2, 0.1), seeds=5))


def synflow_networks(scale: Scale) -> tuple[Setting, ...]:
    """The unpruned networks of table 7, ResNet-18 with two sets of hyperparameters on each data set."""
    if scale == "smoke":
        return (SMOKE, smoke("lenet-300-100"))
    *vggs, cifar, tiny = _as_synflow((1.0,))
    if scale == "small":
        return tuple(map(_briefly, vggs))
    authors: dict[str, Any] = {"lr": 0.01, "batch_size": 128}
    cifar_authors = replace(cifar, recipe=replace(cifar.recipe, **authors, gamma=0.2))
    tiny_authors = replace(tiny, recipe=shortened(replace(tiny.recipe, **authors), 100))
    return (*vggs, cifar_authors, cifar, tiny_authors, tiny)


def extreme_networks(scale: Scale) -> tuple[Setting, ...]:
    """The networks of figure 7, from half of the weights to a thousandth."""
    halves = powers(0.5, range(1, 11))
    if scale == "smoke":
        return (SMOKE,)
    if scale == "small":
        return tuple(replace(setting, densities=halves, seeds=3) for setting in (VGG_16, RESNET_20))
    return _as_synflow(halves)


def _as_synflow(densities: tuple[float, ...]) -> tuple[Setting, ...]:
    """The networks of appendix D: VGG-11, VGG-16 and ResNet-18 with a 3x3 stem on CIFAR-10, the last on TinyImageNet
    too, with this paper's rates."""
    cifar = [_replicated(model, densities) for model in ("vgg-11", "vgg-16", "resnet-18")]
    cifar[2] = replace(cifar[2], recipe=replace(cifar[2].recipe, lr=0.2, batch_size=256))
    return (*cifar, replace(MODIFIED_RESNET_18, densities=densities))
