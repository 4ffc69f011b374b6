"""SynFlow-L2 and the -Dist variants: scores from the path kernel and from the mean image."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from foreprune.core.masks import Masks
from foreprune.core.method import Scores, scorer
from foreprune.core.net import Net
from foreprune.core.task import Task
from foreprune.graph.replay.rounds import path_flow

Form = Literal["theta", "theta2"]
_PAPER = "Gebhart, Saxena & Schrater, 2021, arXiv:2101.10552"


@scorer(
    "synflow-l2",
    paper=f"{_PAPER}, section 4; Patil & Dovrolis, ICML 2021, arXiv:2010.11354, eq. 7",
    needs={"shape"},
    rounds=100,
)
def synflow_l2(net: Net, task: Task, masks: Masks, *, form: Form = "theta") -> Scores:
    """Keep the weights that carry most of the trace of the path kernel, R = 1^T (prod_l W_l^2 m_l) 1.

    `form="theta"` scores |w| dR/d(w^2), as eq. 7 of PHEW and its code do; `form="theta2"` scores w^2 dR/d(w^2), the
    saliency in the squared weights, which alone is conserved from layer to layer and invariant to rescaling. Which of
    them Gebhart et al. ran cannot be told from their text.
    """
    return _squared(net, task, masks, form=form, image=None)


@scorer("synflow-dist", paper=f"{_PAPER}, section 4", needs={"shape", "mean image"}, rounds=100)
def synflow_dist(net: Net, task: Task, masks: Masks) -> Scores:
    """SynFlow with the data's mean image in place of ones: |w| dR/d|w|, R = 1^T (prod_l |W_l m_l|) mu.

    `mean_image=` is non-negative, of one input's shape. Without it mu is the mean over the data of the call and must be
    non-negative itself: give raw pixels in [0, 1], because after normalization the mean is nearly zero and signed.
    """
    assert task.example is not None
    return path_flow(net, task.example, masks, image=task.mean_image)


@scorer("synflow-l2-dist", paper=f"{_PAPER}, section 4", needs={"shape", "mean image"}, rounds=100)
def synflow_l2_dist(net: Net, task: Task, masks: Masks, *, form: Form = "theta") -> Scores:
    """SynFlow-L2 with the data's mean image in place of ones; `form` as in synflow-l2, the image as in
    synflow-dist."""
    return _squared(net, task, masks, form=form, image=task.mean_image)


def _squared(net: Net, task: Task, masks: Masks, *, form: Form, image: Tensor | None) -> Scores:
    assert task.example is not None
    return path_flow(net, task.example, masks, power=2, factor_power=1 if form == "theta" else 2, image=image)
