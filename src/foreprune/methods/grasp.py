"""GraSP: keep the weights that the gradient flow needs."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from foreprune.core.masks import Masks
from foreprune.core.method import Scores, scorer
from foreprune.core.net import BatchNormMode, Net, gradients, scoring
from foreprune.core.task import Task, require_grad

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
    materialised batches, with logits divided by `temperature`. `keep` chooses among the variants of Frankle et al.,
    appendix H: "signed" keeps the largest w (Hg) (the paper), "inverted" the smallest, "magnitude" the largest |w
    (Hg)|.

    The authors' code draws new classifier weights before scoring, and splits the batch into two halves that hold
    different classes, which sets the statistics of batch normalisation; here weights are scored as they are, in the
    batches given.
    """
    if keep not in ("signed", "magnitude", "inverted"):
        raise ValueError(f'keep must be "signed", "magnitude" or "inverted", not {keep!r}')
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature!r}")
    with scoring(net, batchnorm=batchnorm):
        product = hessian_gradient(net, task, masks, temperature=temperature)
    scores = {name: product[name].mul_(net.params[name]) for name in net.prunable}
    if keep == "magnitude":
        return {name: score.abs_() for name, score in scores.items()}
    return scores if keep == "signed" else {name: score.neg_() for name, score in scores.items()}


def hessian_gradient(net: Net, task: Task, masks: Masks, *, temperature: float) -> dict[str, Tensor]:
    """H g of the mean loss over the masked prunable weights, as sum_b H_b (sum_b' g_b') by double backward.

    A single batch needs one forward: the graph that gives g is differentiated again. Attention runs on its plain
    implementation, because the fused one cannot be differentiated twice.
    """
    params = require_grad(masks(net.params), net.prunable)
    graphs: list[dict[str, Tensor]] = []
    with sdpa_kernel(SDPBackend.MATH):
        if len(task.batches) == 1:
            loss = task.loss_of(net, params, task.batches[0], temperature=temperature)
            graphs = [gradients(loss, params, net.prunable, create_graph=True)]
            return _vector_product(graphs[0], {name: grad.detach() for name, grad in graphs[0].items()}, params)
        total: dict[str, Tensor] = {}
        for batch in task.batches:
            grads = gradients(task.loss_of(net, params, batch, temperature=temperature), params, net.prunable)
            total = {name: total[name].add_(grad) for name, grad in grads.items()} if total else grads
        product: dict[str, Tensor] = {}
        for batch in task.batches:
            loss = task.loss_of(net, params, batch, temperature=temperature)
            part = _vector_product(gradients(loss, params, net.prunable, create_graph=True), total, params)
            product = {name: product[name].add_(value) for name, value in part.items()} if product else part
        return product


def _vector_product(
    grads: dict[str, Tensor], vector: dict[str, Tensor], params: dict[str, Tensor]
) -> dict[str, Tensor]:
    inner = sum((grads[name] * vector[name]).sum() for name in grads)
    assert isinstance(inner, Tensor)
    return gradients(inner, params, list(grads))
