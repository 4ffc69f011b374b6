"""GraSP: keep the weights that the gradient flow needs."""

from __future__ import annotations

import math
import re
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.attention import SDPBackend, sdpa_kernel

from foreprune.core.derivatives import add_gradients, gradients, owned
from foreprune.core.masks import Masks
from foreprune.core.method import Scores, scorer
from foreprune.core.net import BatchNormMode, Net, Params, scoring
from foreprune.core.task import Batch, Task, require_grad
from foreprune.graph import graph_nodes
from foreprune.methods.second_order import TwiceDifferentiable

Keep = Literal["signed", "magnitude", "inverted"]
_TEMPERATURE = 200.0  # the paper's
_UNDIFFERENTIABLE = re.compile(r"derivative for '?(?:\w+::)?_?(\w+?)(?:_backward)?'? is not implemented")


@scorer(
    "grasp",
    paper="Wang, Zhang & Grosse, ICLR 2020, arXiv:2002.07376, eq. 8 and algorithm 2",
    needs={"labels"},
    sharded=True,
    summed=True,
)
def grasp(
    net: Net,
    task: Task,
    masks: Masks,
    *,
    keep: Keep = "signed",
    temperature: float | None = None,
    batchnorm: BatchNormMode = "train",
) -> Scores:
    """Remove the weights with the highest -w (H g), those whose removal most raises the gradient norm.

    g is the gradient of the mean loss over all samples and H its Hessian, both over the prunable weights and the same
    materialized batches. Logits of the cross-entropy, the default or one passed as `loss`, are divided by
    `temperature`, 200 as in the paper. Another loss, also one that the model computes itself, sees outputs as they are,
    because 200 fits logits only; a `temperature` given with a `loss` of your own divides its outputs. `keep` chooses
    among the variants of Frankle et al., appendix H: "signed" keeps the largest w (Hg) (the paper), "inverted" the
    smallest, "magnitude" the largest |w (Hg)|.

    The authors' code draws new classifier weights before scoring, and splits the batch into two halves that hold
    different classes, which sets the statistics of batch normalization; here weights are scored as they are, in the
    batches given.

    Second derivatives are those of the real network. Where torch has none they come from the same function composed of
    others (hard sigmoid, CTC, multi-margin and multilabel-margin losses); where a first derivative is a convention, 0
    for the norm of zeros, the second is 0 too. A network or loss that has none at all is refused.
    """
    if temperature is None:
        temperature = _TEMPERATURE if task.cross_entropy else 1.0
    if not temperature > 0:
        raise ValueError(f"method 'grasp': temperature must be positive, not {temperature!r}")
    with scoring(net, batchnorm=batchnorm):
        product = hessian_gradient(net, task, masks, temperature=temperature)
    scores = {name: product[name].mul_(net.params[name]) for name in net.prunable}
    if keep == "magnitude":
        return {name: score.abs_() for name, score in scores.items()}
    return scores if keep == "signed" else {name: score.neg_() for name, score in scores.items()}


def hessian_gradient(net: Net, task: Task, masks: Masks, *, temperature: float) -> dict[str, Tensor]:
    """H g of the mean loss over the masked prunable weights, as sum_b H_b (sum_b' g_b') by double backward.

    The last batch needs one forward: the graph that gives its g is differentiated again. Attention runs on its plain
    implementation, because the fused one cannot be differentiated twice.
    """
    params = require_grad(net.masked(masks), net.prunable)
    *others, last = task.batches
    with sdpa_kernel(SDPBackend.MATH):
        total: dict[str, Tensor] = {}
        for batch in others:
            loss = task.loss_of(net, params, batch, temperature=temperature)
            total = add_gradients(loss, params, total) if total else gradients(loss, params, net.prunable)
        grads, graph = _gradient_graph(net, task, params, last, temperature)
        total = _sum(total, grads)
        del grads
        if task.group is not None and not net.sums:  # not in the memory of what the graph gave
            total = task.summed(net, {name: value.clone() for name, value in total.items()})
        product = _vector_product(net, graph, total, params)
        for batch in others:
            graph = _gradient_graph(net, task, params, batch, temperature)[1]
            product = _sum(product, _vector_product(net, graph, total, params))
        product = task.summed(net, product)
    _check(product, total)
    return product


def _gradient_graph(
    net: Net, task: Task, params: Params, batch: Batch, temperature: float
) -> tuple[dict[str, Tensor], dict[str, GradientEdge]]:
    """The gradient of one batch, and where its graph begins, to be differentiated again: for the tensors that have one.

    The graph needs no values, so those are gone when the gradient is.
    """
    with TwiceDifferentiable():
        loss = task.loss_of(net, params, batch, temperature=temperature)
    grads = gradients(loss, params, net.prunable, create_graph=True)
    graph = {name: get_gradient_edge(grad) for name, grad in grads.items() if grad.requires_grad}
    return dict(zip(grads, owned(grad.detach() for grad in grads.values()), strict=True)), graph


def _vector_product(
    net: Net, graph: dict[str, GradientEdge], vector: dict[str, Tensor], params: Params
) -> dict[str, Tensor]:
    """The derivative of <graph, vector>."""
    nodes = list(graph_nodes(*(edge.node for edge in graph.values())))
    if any(type(node).__name__ == "Error" for node in nodes):
        # torch leaves such a node beside the way that this derivative takes, which would silently lack a term
        raise _no_second_derivative("a custom autograd function marked once_differentiable")
    try:
        with net.parting(nodes) as parts:
            product = torch.autograd.grad(
                list(graph.values()),
                [params[name] for name in net.prunable],
                [vector[name] for name in graph],
                allow_unused=True,
            )
    except RuntimeError as error:
        if found := _UNDIFFERENTIABLE.search(str(error)):
            raise _no_second_derivative(repr(found[1])) from error
        raise
    whole: list[Tensor] = []
    for name, grad in zip(net.prunable, product, strict=True):
        terms = [term for term in (grad, parts(params[name])) if term is not None]
        whole.append(sum(terms[1:], terms[0]) if terms else torch.zeros_like(params[name]))
    return dict(zip(net.prunable, owned(whole), strict=True))


def _sum(total: dict[str, Tensor], part: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: total[name].add_(value) for name, value in part.items()} if total else part


def _no_second_derivative(what: str) -> ValueError:
    return ValueError(
        f"method 'grasp' needs second derivatives, and {what}, which the model or its loss uses, has none in torch; "
        "compose it of other operations, or use 'snip', which needs first derivatives only"
    )


def _finite(tensors: dict[str, Tensor]) -> list[str]:
    """Names of those without NaN and infinity; the sum of finite numbers can overflow, which asks for a closer look."""
    return [name for name, value in tensors.items() if math.isfinite(value.sum()) or bool(torch.isfinite(value).all())]


def _check(product: dict[str, Tensor], gradient: dict[str, Tensor]) -> None:
    """Raise ValueError if only the second derivative is not finite; of a gradient that is not, the ranking speaks."""
    if len(finite := _finite(product)) < len(product) and len(_finite(gradient)) == len(gradient):
        name = next(name for name in product if name not in finite)
        raise ValueError(
            f"method 'grasp': the second derivative of the loss is not finite in {name!r}, though the gradient is: "
            "some function has none where the data put it, such as a square root or a distance of exactly zero; add a "
            "small number inside it (torch.sqrt(x + 1e-12)), leave out the samples that do it (rows of zeros), or use "
            "'snip', which needs first derivatives only"
        )
