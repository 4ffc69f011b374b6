"""Gebhart, Saxena & Schrater 2021: section 5 and appendix A.4.

Compression ratios are powers of ten, from 10^0.5 to 10^3 in half steps, as on the axes of figure 3. Three seeds; five
here for the fully connected networks, whose runs are cheap. Those are trained for 50 epochs (table 2), the others for
100 and 160 (table 1).

The score of SynFlow-L2 has lost its superscripts in the text: |w| dR/d(w^2), as other papers read it, or w^2 dR/d(w^2),
which is `form=theta2`. Both are run.

Of batch normalization's initialization the paper says nothing (weights are Kaiming normal, biases zero; appendix
A.4.2); gamma = 1 and beta = 0 here.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from foreprune.papers.entry import Runs, Scale, entry, together
from foreprune.papers.setting import Setting, powers, smoke
from foreprune.training.recipes import recipe

PAPER = "Gebhart, Saxena & Schrater 2021, arXiv:2101.10552"
figure = partial(entry, "gebhart", PAPER)

VARIANTS = (
    "synflow",
    "synflow-l2",
    "synflow-l2:form=theta2",
    "synflow-dist",
    "synflow-l2-dist",
    "synflow-l2-dist:form=theta2",
)
PRUNERS = ("snip", "grasp", *VARIANTS)
RATIOS = powers(10, (-0.5, -1, -1.5, -2, -2.5, -3))

FC_100 = Setting(
    data="mnist", model="fc-100", recipe=recipe("gebhart-fc-mnist"), densities=RATIOS, images=60_000, seeds=5
)
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

    At the scale `small` 10,000 images of MNIST, all 50 epochs, three seeds, FC-100 at every ratio and FC-500 at three
    of them.
    """
    if scale == "smoke":
        return (smoke("fc-32"),)
    if scale == "small":
        return tuple(
            setting.shrunk(epochs=50, images=10_000, densities=ratios)
            for setting, ratios in zip(FC, (RATIOS, RATIOS[1::2]), strict=False)
        )
    return (*FC, *(VGGS if vgg else ()), *RESNETS)


@figure(
    "section 5.1, figure 1",
    "Trace against convergence: the change of weights and outputs rises with the trace of the path kernel.",
)
def figure_1(scale: Scale) -> Runs:
    """Convergence against the predicted curve.

    The paper takes the trace after the first epoch, which records hold as `log10_path_kernel_trace_1`, and fits its
    curve at epoch 60, where fully connected networks have been trained for 50; records hold both changes at the end
    of training. It names no data for its points: here MNIST for the fully
    connected networks, CIFAR-10 and CIFAR-100 for the ResNets.
    """
    return together(setting.runs(*PRUNERS) for setting in networks(scale, vgg=False))


@figure(
    "section 5.1, figure 2",
    "Trace against convergence, with a line and R squared for each network: similar slopes, different intercepts.",
)
def figure_2(scale: Scale) -> Runs:
    """Convergence against the log trace.

    The runs are those of figure 1; the trace here is that at initialization.
    """
    return together(setting.runs(*PRUNERS) for setting in networks(scale, vgg=False))


@figure(
    "section 5.2, figure 3",
    "Accuracy against density: SynFlow-L2 behind on narrow networks, level or ahead on wide ones at high compression.",
)
def figure_3(scale: Scale) -> Runs:
    """SynFlow and its path-kernel variants.

    The mean image is that of the raw pixels in [0, 1]; the paper does not say whether it is normalized.
    """
    return together(setting.runs(*VARIANTS) for setting in networks(scale, vgg=True))
