"""SynFlow-L2 and the -Dist variants: scores from the path kernel and from the mean image."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from foreprune.core.masks import Masks
from foreprune.core.method import Scores, scorer
from foreprune.core.net import Net
from foreprune.core.task import Task
from foreprune.graph import Normalization, PathGraph, Precision, path_graph

Form = Literal["theta", "theta2"]
_PAPER = "Gebhart, Saxena & Schrater, 2021, arXiv:2101.10552"


@scorer(
    "synflow-l2",
    paper=f"{_PAPER}, section 4; Patil & Dovrolis, ICML 2021, arXiv:2010.11354, eq. 7",
    needs={"shape"},
    rounds=100,
    sharded=True,
)
def synflow_l2(
    net: Net,
    task: Task,
    masks: Masks,
    *,
    form: Form = "theta",
    batchnorm: Normalization = "scale",
    precision: Precision = "double",
) -> Scores:
    """Keep the weights that carry most of the trace of the path kernel, R = 1^T (prod_l W_l^2 m_l) 1.

    `form="theta"` scores |w| dR/d(w^2), as eq. 7 of PHEW and its code do; `form="theta2"` scores w^2 dR/d(w^2), the
    saliency in the squared weights, which alone is conserved from layer to layer and invariant to rescaling. Which of
    them Gebhart et al. ran cannot be told from their text. `batchnorm` and `precision` as in synflow; here scales enter
    squared, as all weights do.
    """
    paths = task.once(path_graph, net, task.example, batchnorm=batchnorm, precision=precision, power=2)
    return _squared_saliency(paths, masks, form=form, image=None)


def _squared_saliency(paths: PathGraph, masks: Masks, *, form: Form, image: Tensor | None) -> Scores:
    squares = paths.masked(torch.square, masks)  # w^2 m
    factors = squares if form == "theta2" else paths.masked(torch.abs, masks)
    # factor dR / d(w^2 m), where R sums over all paths the product of their w^2 m and the input's entry of the image
    return paths.gradients(squares, times=factors, image=image)


@scorer(
    "synflow-dist", paper=f"{_PAPER}, section 4", needs={"shape", "mean image"}, rounds=100, sharded=True, summed=True
)
def synflow_dist(
    net: Net, task: Task, masks: Masks, *, batchnorm: Normalization = "scale", precision: Precision = "double"
) -> Scores:
    """SynFlow with the data's mean image in place of ones: |w| dR/d|w|, R = 1^T (prod_l |W_l m_l|) mu.

    `mean_image=` is non-negative, of one input's shape. Without it mu is the mean over the data of the call and must be
    non-negative itself: give raw pixels in [0, 1], because after normalization the mean is nearly zero and signed.
    `batchnorm` and `precision` as in synflow.
    """
    paths = task.once(path_graph, net, task.example, batchnorm=batchnorm, precision=precision)
    weights = paths.masked(torch.abs, masks)  # |w| m
    # |w| m dR / d(|w| m), where R sums over all paths the product of their |w| m and the input's entry of the image
    return paths.gradients(weights, times=weights, image=task.mean_image)


@scorer(
    "synflow-l2-dist",
    paper=f"{_PAPER}, section 4",
    needs={"shape", "mean image"},
    rounds=100,
    sharded=True,
    summed=True,
)
def synflow_l2_dist(
    net: Net,
    task: Task,
    masks: Masks,
    *,
    form: Form = "theta",
    batchnorm: Normalization = "scale",
    precision: Precision = "double",
) -> Scores:
    """SynFlow-L2 with the data's mean image in place of ones: R = 1^T (prod_l W_l^2 m_l) mu.

    `form` as in synflow-l2, the image as in synflow-dist, `batchnorm` and `precision` as in synflow.
    """
    paths = task.once(path_graph, net, task.example, batchnorm=batchnorm, precision=precision, power=2)
    return _squared_saliency(paths, masks, form=form, image=task.mean_image)
