"""Frankle, Dziugaite, Roy & Carbin 2021, "Pruning Neural Networks at Initialization": tables and figures.

Scales of batch normalization are drawn from U(0, 1) in all of them (appendix D.4; `foreprune.papers.frankle_networks`).
"""

from __future__ import annotations

from functools import partial

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.frankle_networks import (
    EARLY,
    LENET,
    MODIFIED_RESNET_18,
    PAPER,
    RESNET_50,
    SMOKE,
    UNIT_VARIANCE,
    along_training,
    at_matching,
    at_the_end,
    collapsing_networks,
    extreme_networks,
    grasp_networks,
    networks,
    small_resnet_20,
    snip_networks,
    synflow_networks,
)
from foreprune.papers.setting import Setting, powers, smoke

figure = partial(entry, "frankle", PAPER)


@figure(
    "appendix K (figures 3, 4, 5, 8, 9, 11, 13, 15)",
    "Accuracy against density (K.1, K.4; of iterative SNIP K.6, of GraSP's variants K.7), ablation panels (K.2, K.5): "
    "on a fully connected network shuffling hurts at the highest sparsities only. Neuron collapse (K.3), layer "
    "densities (K.8).",
)
def appendix_k(scale: Scale) -> Runs:
    """Everything on LeNet-300-100, MNIST.

    The appendix does not name its seeds (here five) nor a highest matching sparsity, so all sparsities are run.
    Unit variance is left out: the appendix says nothing about it.

    At the scale small: all images, the paper's 40 epochs and five seeds, every second density from 59 % sparsity on,
    ablations at three of them (GraSP inverted at all); ntk-sap and phew join in; pruning at the end of training is left
    to magnitude-after.
    """
    if scale == "paper":
        return _whole(LENET)
    if scale == "smoke":
        return _whole(smoke("lenet-300-100"))
    few = LENET.shrunk(epochs=40, densities=powers(0.8, range(4, 19, 2)), seeds=LENET.seeds)
    ablated = powers(0.8, (6, 12, 18))
    others = ("ntk-sap", "random", "phew", "iterative-snip", "grasp:keep=magnitude", "magnitude-after")
    return together(
        [
            few.runs(*EARLY, *others, "ltr:rewind_to=0"),
            few.runs("grasp", ablations=("invert",)),
            few.runs(*EARLY, densities=ablated, ablations=("shuffle", "reinit", "invert")),
            few.runs("magnitude-after", densities=ablated, ablations=("shuffle", "reinit")),
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


@figure(
    "appendix L (figures 3, 4, 5, 8, 9, 13, 15)",
    "Accuracy against density (L.1): SynFlow no better than random; ablation panels (L.2, L.5): shuffling helps "
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
        setting = SMOKE if scale == "smoke" else small_resnet_20(densities=powers(0.8, (6, 14)))
    late = ("magnitude-after",) if scale == "small" else at_the_end(setting)
    return together(
        [
            setting.runs(*EARLY, ablations=("shuffle", "reinit", "invert")),
            setting.runs(*EARLY, init=UNIT_VARIANCE, dense=False),
            setting.runs("random", "grasp:keep=magnitude", f"ltr:rewind_to={setting.rewind_to}"),
            setting.runs(*late, ablations=("shuffle", "reinit")),
        ]
    )


@figure(
    "section 4, figure 3",
    "Accuracy against density: which early method leads at which sparsity, and the gap to magnitude-after.",
)
def figure_3(scale: Scale) -> Runs:
    """Early methods at initialization.

    The paper scores in one shot (SynFlow in 100 rounds) on ten images of each class, without new weights
    afterwards. Here as in all entries of this paper scales of batch normalization are drawn from U(0, 1), as its
    appendix D.4 says.
    """
    methods = ("random", *EARLY, "magnitude-after")
    return together(setting.runs(*methods) for setting in networks(scale))


@figure(
    "section 5, figure 4",
    "Ablation panels: original, shuffled, reinitialized and inverted lie together for the early methods, not "
    "for magnitude-after; inverted GraSP loses nothing; unit variance hurts magnitude only.",
)
def figure_4(scale: Scale) -> Runs:
    """Ablations at initialization.

    The early methods also run with weights of variance 1 in every layer (`init constant-variance`; scales of batch
    normalization stay uniform), and train from them. Magnitude pruning after training (bottom row) is shuffled and
    reinitialized only.

    ResNet-50 had "limited ablations" that the paper does not list: here shuffle and reinitialize.

    At the scale small, two densities.
    """
    runs = []
    for setting in networks(scale, few=powers(0.8, (6, 14))):
        if setting is RESNET_50:
            runs.append(setting.runs(*EARLY, "magnitude-after", ablations=("shuffle", "reinit")))
            continue
        runs.append(setting.runs(*EARLY, ablations=("shuffle", "reinit", "invert")))
        runs.append(setting.runs(*EARLY, init=UNIT_VARIANCE, dense=False))
        runs.append(setting.runs("magnitude-after", ablations=("shuffle", "reinit")))
    return together(runs)


@figure(
    "section 5, figure 5",
    "Neuron-collapse histogram: SynFlow removes whole channels (31 % of ResNet-20's), shuffled SynFlow hardly any.",
)
def figure_5(scale: Scale) -> Runs:
    """Neuron collapse.

    Pruned and measured, not trained. The other methods are shuffled too, which the paper does for SynFlow only.

    At the scale small ResNet-20 and VGG-16 exactly as in the paper, with all seeds: minutes on a CPU. ResNet-18 is left
    out, for no other images have its shape and 200 classes (with ten, SynFlow empties 63 % of its channels at seed 0
    instead of 67 %). What needs no images can be had by `foreprune prune --model resnet-18-imagenet --input-shape 3 64
    64 --classes 200 --init kaiming-normal-fan-in+uniform-scale`.
    """
    return together(
        setting.runs(*EARLY, ablations=("shuffle",), pruning_only=True) for setting in collapsing_networks(scale)
    )


@figure(
    "section 6, figure 6",
    "Accuracy against the step of pruning: magnitude, SNIP and SynFlow improve, random does not, GraSP hardly; "
    "rewinding saturates early.",
)
def figure_6(scale: Scale) -> Runs:
    """Pruning later in training.

    One sparsity for each network, the highest matching one. After pruning at step k the whole recipe runs again.

    The steps are not printed; see `foreprune papers` for those taken. Appendix E refers to this figure for the
    rewinding step of ResNet-50; the paper does not say that its other methods ran there, so it has rewinding only.
    """
    runs = []
    for setting in map(at_matching, networks(scale)):
        steps = along_training(setting, scale)
        rewound = [f"ltr:rewind_to={step}" for step in steps[:-1]]
        later = [f"{name}@{step}" for step in steps for name in ("random", *EARLY)]
        runs.append(setting.runs(*rewound, *([] if setting.model == RESNET_50.model else later)))
    return together(runs)


@figure(
    "appendix D.4, figure 7",
    "Accuracy against density: when does each method drop to chance? On the VGGs as in SynFlow's own paper, but SNIP "
    "collapses too. Layer densities: where a layer is emptied.",
)
def figure_7(scale: Scale) -> Runs:
    """SynFlow's replication, to 99.9 % sparsity.

    Densities are 0.5, 0.25, ... to 0.00098, "intervals of an additional 50 %". The figure's networks are taken to be
    those of table 7: VGG-11 and VGG-16 on CIFAR-10, ResNet-18 with a 3x3 stem on CIFAR-10 and TinyImageNet, both with
    the rates of this paper, which reach the better accuracy.

    At the scale small VGG-16 and, for ResNet-18, ResNet-20 on CIFAR-10, pruned and measured, not trained.
    """
    pruning_only = scale == "small"
    settings = extreme_networks(scale)
    return together(setting.runs("random", *EARLY, pruning_only=pruning_only) for setting in settings)


@figure(
    "appendix E, figure 8",
    "Accuracy against density: magnitude-after and ltr together, both far above random and magnitude at "
    "initialization.",
)
def figure_8(scale: Scale) -> Runs:
    """The four baselines.

    Rewinding goes back to steps 1000, 2000, 1000 and 6000 (ResNet-20, VGG-16, ResNet-18, ResNet-50; table A.3 has
    6255 for the last).
    """
    return together(
        setting.runs("random", "magnitude", "magnitude-after", f"ltr:rewind_to={setting.rewind_to}")
        for setting in networks(scale)
    )


@figure(
    "appendix F.1, figure 9",
    "Ablation panels: unlike in figure 4, shuffling and reinitializing cost magnitude accuracy; GraSP hardly notices.",
)
def figure_9(scale: Scale) -> Runs:
    """Ablations when pruning at the end of training.

    ResNet-50 was left out in the paper. At the scale small, two densities.
    """
    settings = networks(scale, imagenet=False, few=powers(0.8, (6, 14)))
    return together(setting.runs(*at_the_end(setting), ablations=("shuffle", "reinit")) for setting in settings)


@figure(
    "appendix F.2, figure 10",
    "Ablation panels, step by step: when does each method begin to suffer from shuffling and new weights?",
)
def figure_10(scale: Scale) -> Runs:
    """Ablations when pruning later, step by step.

    The steps are those of figure 6, with the same reservation; ResNet-50 is left out.
    """
    runs = []
    for setting in map(at_matching, networks(scale, imagenet=False)):
        later = [f"{name}@{step}" for step in along_training(setting, scale) for name in EARLY]
        runs.append(setting.runs(*later, ablations=("shuffle", "reinit")))
    return together(runs)


@figure(
    "appendix G, figure 11",
    "Accuracy against density: do 100 rounds help SNIP? The paper sees no difference at these sparsities.",
)
def figure_11(scale: Scale) -> Runs:
    """SNIP in one shot and in 100 rounds."""
    return together(setting.runs("snip", "iterative-snip") for setting in networks(scale))


@figure(
    "appendix G, figure 12",
    "Ablation panels of snip and iterative-snip: neither suffers.",
)
def figure_12(scale: Scale) -> Runs:
    """Ablations of iterative SNIP.

    ResNet-50 was left out in the paper. At the scale small, two densities.
    """
    settings = networks(scale, imagenet=False, few=powers(0.8, (6, 14)))
    return together(setting.runs("snip", "iterative-snip", ablations=("shuffle", "reinit")) for setting in settings)


@figure(
    "appendix H, figure 13",
    "Accuracy against density of the three: inverted GraSP equals GraSP, the magnitude of its score is as good "
    "or better.",
)
def figure_13(scale: Scale) -> Runs:
    """Three variants of GraSP.

    The inverted one is the ablation of figure 4, so that both figures share its runs.
    """
    return together(
        group
        for setting in networks(scale)
        for group in (setting.runs("grasp", ablations=("invert",)), setting.runs("grasp:keep=magnitude"))
    )


@figure(
    "appendix I, figure 14",
    "Accuracy against density: with GraSP by magnitude and SynFlow shuffled the early methods draw closer.",
)
def figure_14(scale: Scale) -> Runs:
    """Early methods with better GraSP, SynFlow.

    Otherwise figure 3, with which it shares all other runs.
    """
    methods = ("random", "magnitude", "snip", "grasp:keep=magnitude", "magnitude-after")
    return together(
        group
        for setting in networks(scale)
        for group in (setting.runs(*methods), setting.runs("synflow", ablations=("shuffle",), plain=False))
    )


@figure(
    "appendix J, figure 15",
    "Layer densities: SNIP and SynFlow cut late layers most, GraSP evenly; SynFlow starves the shortcuts.",
)
def figure_15(scale: Scale) -> Runs:
    """Layer densities, highest matching sparsity.

    The early methods are pruned and measured, not trained; magnitude pruning after training needs its training.
    """
    return together(
        group
        for setting in map(at_matching, networks(scale))
        for group in (
            setting.runs("random", *EARLY, pruning_only=True),
            setting.runs("magnitude-after", dense=False),
        )
    )


@figure(
    "appendix M, figure 16",
    "Effective against actual density: the ratio of shuffled to original stays within 0.992 and 1.035.",
)
def figure_16(scale: Scale) -> Runs:
    """Effective sparsity, shuffled and not.

    Pruned and measured, not trained.
    """
    return together(setting.runs(*EARLY, ablations=("shuffle",), pruning_only=True) for setting in networks(scale))


@figure(
    "appendix B.4, table 2",
    "The table, against the published numbers: VGG-16 at 97 %, 92.1 (dense 93.6); at 95 % VGG2-16 92.3 (93.5), "
    "WRN-14-8 93.4 (95.2), WRN-14-10 93.9 (95.4), WRN-20-8 94.3 (95.6).",
)
def table_2(scale: Scale) -> Runs:
    """Replication: SNIP in its own paper.

    Five seeds. The hyperparameters of VGG2-16 and the wide ResNets are not printed; here those of VGG-16 and
    ResNet-20. At the scale small VGG-16 and a ResNet-14 twice as wide (for the wide ones) train on 5,000 images for
    3 epochs.
    """
    return together(setting.runs("snip") for setting in snip_networks(scale))


@figure(
    "appendix B.5, table 3",
    "The table, against the published numbers: VGG-19 at 90, 95, 98 %, 93.5, 93.4, diverged; WRN-32-2 92.5, "
    "91.0, 87.7; ResNet-50 at 60, 80, 90 %, 73.9, 71.2, 65.7.",
)
def table_3(scale: Scale) -> Runs:
    """Replication: SNIP in GraSP's paper.

    Five seeds. The hyperparameters of VGG-19 and WRN-32-2 are not printed; here those of VGG-16 and ResNet-20. At
    the scale small both networks train on 5,000 images for 3 epochs, and ResNet-50 is left out.
    """
    return together(setting.runs("snip") for setting in grasp_networks(scale))


@figure(
    "appendix C.4, table 5",
    "The table, against the published numbers: VGG-19 at 90, 95, 98 %, 92.8, 92.5, 91.6; WRN-32-2 92.2, 90.9, "
    "88.3; ResNet-50 at 60, 80, 90 %, 73.4, 71.0, 67.0.",
)
def table_5(scale: Scale) -> Runs:
    """Replication: GraSP in its own paper.

    Five seeds. The hyperparameters of VGG-19 and WRN-32-2 are not printed; here those of VGG-16 and ResNet-20. At
    the scale small both networks train on 5,000 images for 3 epochs, and ResNet-50 is left out.
    """
    return together(setting.runs("grasp") for setting in grasp_networks(scale))


@figure(
    "appendix D.3, table 7",
    "The table, against the published numbers: VGG-11 92.0, VGG-16 93.5, ResNet-18 93.7 and 94.6 on CIFAR-10, "
    "58.8 and 64 on TinyImageNet.",
)
def table_7(scale: Scale) -> Runs:
    """Replication: SynFlow's unpruned networks.

    ResNet-18 has a 3x3 stem, and trains with the rates of SynFlow's authors and with those of this paper. Where the
    rate drops with the former is not printed: here at the same fractions of training. Nor is the number of seeds:
    here five on CIFAR-10, three on TinyImageNet. At the scale small VGG-11 and VGG-16 alone, on 5,000 images for 3
    epochs.
    """
    return together(setting.runs() for setting in synflow_networks(scale))
