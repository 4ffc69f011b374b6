"""GraSP: keep the weights that the gradient flow needs."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from foreprune.core.masks import Masks
from foreprune.core.method import Scores, scorer
from foreprune.core.net import BatchNormMode, Net, Params, gradients, scoring
from foreprune.core.task import Batch, Task, require_grad
from foreprune.methods.second_order import TwiceDifferentiable

Keep = Literal["signed", "magnitude", "inverted"]


@scorer("grasp", paper="Wang, Zhang & Grosse, ICLR 2020, arXiv:2002.07376, eq. 8 and algorithm 2", needs={"labels"})
def grasp(
    net: Net,
    task: Task,
    masks: Masks,
    *,
    keep: Keep = "signed",
    temperature: float = 200.0,
    batchnorm: BatchNormMode = "train",
) -> Scores:
    """Remove the weights with the highest -w (H g), those whose removal most raises the gradient norm.

    g is the gradient of the mean loss over all samples and H its Hessian, both over the prunable weights and the same
    materialized batches, with logits divided by `temperature`. `keep` chooses among the variants of Frankle et al.,
    appendix H: "signed" keeps the largest w (Hg) (the paper), "inverted" the smallest, "magnitude" the largest |w
    (Hg)|.

    The authors' code draws new classifier weights before scoring, and splits the batch into two halves that hold
    different classes, which sets the statistics of batch normalization; here weights are scored as they are, in the
    batches given.
    """
    if not temperature > 0:
        raise ValueError(f"method 'grasp': temperature must be positive, not {temperature!r}")
    with scoring(net, batchnorm=batchnorm):
        product = hessian_gradient(net, task, masks, temperature=temperature)
    scores = {name: product[name] * net.params[name] for name in net.prunable}
    if keep == "magnitude":
        return {name: score.abs_() for name, score in scores.items()}
    return scores if keep == "signed" else {name: score.neg_() for name, score in scores.items()}


def hessian_gradient(net: Net, task: Task, masks: Masks, *, temperature: float) -> dict[str, Tensor]:
    """H g of the mean loss over the masked prunable weights, as sum_b H_b (sum_b' g_b') by double backward.

    The last batch needs one forward: the graph that gives its g is differentiated again. Attention runs on its plain
    implementation, because the fused one cannot be differentiated twice.
    """
    dense = masks.kept == masks.total  # then no second copy of the weights
    params = require_grad(net.params if dense else masks(net.params), net.prunable)
    *others, last = task.batches
    with sdpa_kernel(SDPBackend.MATH):
        total: dict[str, Tensor] = {}
        for batch in others:
            grads = gradients(task.loss_of(net, params, batch, temperature=temperature), params, net.prunable)
            total = _sum(total, grads)
        graph = _gradient_graph(net, task, params, last, temperature)
        total = _everywhere(net, task, _sum(total, {name: grad.detach() for name, grad in graph.items()}))
        product = _vector_product(graph, total, params)
        del graph
        for batch in others:
            product = _sum(
                product, _vector_product(_gradient_graph(net, task, params, batch, temperature), total, params)
            )
        return _everywhere(net, task, product)


def _everywhere(net: Net, task: Task, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The sum over processes, in memory of its own; `tensors` themselves where there is one process."""
    return tensors if task.group is None else task.summed(net, {name: t.clone() for name, t in tensors.items()})


def _gradient_graph(net: Net, task: Task, params: Params, batch: Batch, temperature: float) -> dict[str, Tensor]:
    """The gradient of one batch, to be differentiated again."""
    with TwiceDifferentiable():
        loss = task.loss_of(net, params, batch, temperature=temperature)
    return gradients(loss, params, net.prunable, create_graph=True)


def _vector_product(graph: dict[str, Tensor], vector: dict[str, Tensor], params: Params) -> dict[str, Tensor]:
    """The derivative of <graph, vector>. Its tensors may share memory."""
    curved = [name for name, grad in graph.items() if grad.requires_grad]
    product = torch.autograd.grad(
        [graph[name] for name in curved],
        [params[name] for name in graph],
        [vector[name] for name in curved],
        materialize_grads=True,
    )
    return dict(zip(graph, product, strict=True))


def _sum(total: dict[str, Tensor], part: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: total[name] + value for name, value in part.items()} if total else part
