"""Patil & Dovrolis 2021 (PHEW): sections 3-5 and appendices A-D.

Densities are 0.8^k: the authors' code has k = 3, 4, ..., 18 (48.8 to 98.2 % removed), here every third of them. Figure
3 is at k = 12 (93.1 %). Appendix B names no densities, and neither does that code. Three seeds (section 5.1).

Of batch normalization's initialization the paper says nothing; gamma = 1 and beta = 0 here, as in that code.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.setting import Setting, powers, smoke
from foreprune.training.recipes import recipe

PAPER = "Patil & Dovrolis, ICML 2021, arXiv:2010.11354"
figure = partial(entry, "patil", PAPER)

METHODS = ("random", "magnitude", "snip", "grasp", "synflow", "synflow-l2", "phew")
TRANSFORMING = ("snip", "grasp", "synflow", "synflow-l2", "phew")
WALKS = ("phew", "phew:bias=uniform", "phew:bias=inverse")
LADDER = powers(0.8, (3, 6, 9, 12, 15, 18))

RESNET_20 = Setting(
    data="cifar-10",
    model="resnet-20",
    recipe=recipe("patil-resnet-20-cifar"),
    densities=LADDER,
    images=50_000,
)
RESNET_20_100 = replace(RESNET_20, data="cifar-100")
VGG_19 = replace(RESNET_20, model="vgg-19", recipe=recipe("patil-vgg-19-cifar"))
VGG_19_100 = replace(VGG_19, data="cifar-100")
RESNET_18 = Setting(
    data="tiny-imagenet",
    model="resnet-18",
    recipe=recipe("patil-tiny-imagenet"),
    densities=LADDER,
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
        return (RESNET_20.shrunk(epochs=10, images=5000, densities=LADDER[3:]),)
    return (*CIFAR, *((RESNET_18, VGG_19_TINY) if tiny else ()))


def structures(scale: Scale) -> tuple[Setting, ...]:
    """The two networks of figures 1, 2 and 8; at the scale `small` all images too, since nothing is trained."""
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


@figure(
    "section 3, figure 1",
    "Trace of the path kernel against density: SynFlow-L2 highest; is PHEW close to it, and above SNIP and GraSP?",
)
def figure_1(scale: Scale) -> Runs:
    """Trace of the path kernel after pruning.

    Pruned and measured, not trained. The data set is not printed: here CIFAR-10.
    """
    return together(setting.runs(*METHODS, pruning_only=True) for setting in structures(scale))


@figure(
    "section 3, figure 2",
    "Remaining width of each layer: narrow with SynFlow and SynFlow-L2, full with PHEW and GraSP.",
)
def figure_2(scale: Scale) -> Runs:
    """Units left in each layer.

    Pruned and measured, not trained. The paper takes the lowest density at which magnitude pruning after training
    stays within 5 % of the dense network, and does not print it: here all densities of figure 1, whose runs these
    are.
    """
    return together(setting.runs(*METHODS, pruning_only=True) for setting in structures(scale))


@figure(
    "section 3.1, figure 3",
    "Ablation panels: accuracy rises with the fraction of lost units that come back.",
)
def figure_3(scale: Scale) -> Runs:
    """SynFlow and SynFlow-L2 made wider.

    Width factors 0 (as pruned), 0.25, 0.5, 0.75 and 1, at the density of the authors' code, 0.8^12.
    """
    factors = ("widen:0.25", "widen:0.5", "widen:0.75", "widen:1") if scale != "smoke" else ("widen:0.5", "widen:1")
    return together(
        setting.runs("synflow", "synflow-l2", densities=LADDER[3:4] if scale != "smoke" else None, ablations=factors)
        for setting in networks(scale, tiny=False)
    )


@figure(
    "section 5.1, figure 4",
    "Accuracy against density: PHEW above SynFlow and SynFlow-L2, more so with more classes.",
)
def figure_4(scale: Scale) -> Runs:
    """PHEW and the methods without data.

    The paper's upper bound prunes a trained network on a cubic schedule, with an epoch
    between the cuts, and trains it whole again; here it is gradual magnitude pruning within one training, over its
    first three quarters.
    """
    methods = ("random", "magnitude", "synflow", "synflow-l2", "phew")
    return together(setting.runs(*methods, gradual(setting)) for setting in networks(scale))


@figure(
    "section 5.1, figure 5",
    "Accuracy against density: SNIP falls off at low densities, GraSP stays behind at high ones, PHEW does neither.",
)
def figure_5(scale: Scale) -> Runs:
    """PHEW and the methods with data.

    Densities and upper bound as in figure 4, with which it shares the runs of PHEW.
    """
    return together(setting.runs("snip", "grasp", "phew", gradual(setting)) for setting in networks(scale))


@figure(
    "section 5.2, figure 6",
    "Accuracy against density of the variants: walks and initializations make no difference, whole kernels little.",
)
def figure_6(scale: Scale) -> Runs:
    """PHEW: walks, kernels, initializations.

    N(0, 0.1) is read as a standard deviation of 0.1. The authors' code draws with a variance of 0.1, which is
    `init="normal-variance-0.1"` here: the same walks, since all weights are multiplied by one number. Walks that
    prefer small weights are those of the authors' code; `phew:bias=inverse-weight` gives others.
    """
    walks = (*WALKS, "phew:conserve=kernel")
    settings = networks(scale, tiny=False)
    drawn = [
        setting.runs("phew", init=init, dense=False)
        for setting in settings
        for init in ("normal-0.1", "xavier-uniform")
    ]
    return together([*(setting.runs(*walks) for setting in settings), *drawn])


@figure(
    "section 5.2, figure 7",
    "Ablation panels: new weights cost PHEW nothing and help random pruning a little, which stays below.",
)
def figure_7(scale: Scale) -> Runs:
    """PHEW and random pruning with new weights.

    Drawn as for the dense network, by layer (Liu et al.) and by neuron (Evci et al.).
    """
    schemes = ("reinit", "reinit-layer", "reinit-neuron")
    return together(setting.runs("random", "phew", ablations=schemes) for setting in networks(scale, tiny=False))


@figure(
    "section 5.2, early loss",
    "Curves: in epochs 1 to 20 the training loss of PHEW falls faster than that of uniform and inverse walks.",
)
def early_loss(scale: Scale) -> Runs:
    """Training loss of three kinds of walks.

    The text claims it without a figure, for "say" epochs 1 to 20. These are the first 20 epochs of the recipe, before
    the learning rate changes; a record's curve has the training loss of each. At the scale small ten epochs.
    """
    early = (
        replace(
            setting,
            recipe=replace(setting.recipe, epochs=min(20, setting.recipe.epochs), schedule="constant", milestones=()),
        )
        for setting in networks(scale, tiny=False)
    )
    return together(setting.runs(*WALKS) for setting in early)


@figure(
    "appendix A.4, figure 8",
    "Trace of the path kernel against density: PHEW above uniform walks, which are above inverse ones.",
)
def figure_8(scale: Scale) -> Runs:
    """Trace of three kinds of walks.

    Pruned and measured, not trained. Networks and data sets are not printed: here those of figure 1, with which it
    shares the runs of PHEW. Inverse walks by both rules, that of the authors' code and the sum of 1/|w|.
    """
    walks = (*WALKS, "phew:bias=inverse-weight")
    return together(setting.runs(*walks, pruning_only=True) for setting in structures(scale))


@figure(
    "appendix B.1, figure 10",
    "Test loss against density: PHEW lowest; SNIP and GraSP behind the methods without data.",
)
def figure_10(scale: Scale) -> Runs:
    """MNIST images rotated and sheared by class.

    Neither the densities nor the depth of the networks are printed: here six hidden layers.
    """
    return together(setting.runs(*TRANSFORMING) for setting in transformations(scale))


@figure(
    "appendix B.2, figure 11",
    "Number of paths against density: most with SynFlow and SynFlow-L2.",
)
def figure_11(scale: Scale) -> Runs:
    """Paths left after pruning for figure 10.

    Pruned and measured, not trained. With figure 10 in the same folder there is nothing to run: its records hold
    the number of paths too.
    """
    return together(setting.runs(*TRANSFORMING, pruning_only=True) for setting in transformations(scale))


@figure(
    "appendix C, figure 12",
    "Ablation panel: shuffling helps, more with more classes.",
)
def figure_12(scale: Scale) -> Runs:
    """SynFlow and the same shuffled.

    Which networks is not printed: here those of figure 4.
    """
    return together(setting.runs("synflow", ablations=("shuffle",)) for setting in networks(scale))


@figure(
    "appendix C, figure 13",
    "Ablation panel: shuffling helps, more with more classes.",
)
def figure_13(scale: Scale) -> Runs:
    """SynFlow-L2 and the same shuffled.

    Which networks is not printed: here those of figure 4.
    """
    return together(setting.runs("synflow-l2", ablations=("shuffle",)) for setting in networks(scale))
