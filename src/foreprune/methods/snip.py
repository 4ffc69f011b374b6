"""SNIP and its iterative forms: keep the weights whose removal changes the loss most."""

from __future__ import annotations

from foreprune.core.masks import Masks
from foreprune.core.method import Scores, scorer
from foreprune.core.net import BatchNormMode, Net, scoring
from foreprune.core.task import Task


@scorer(
    "snip",
    paper="Lee, Ajanthan & Torr, ICLR 2019, arXiv:1810.02340, eq. 3-5",
    needs={"labels"},
    sharded=True,
    summed=True,
)
def snip(net: Net, task: Task, masks: Masks, *, batchnorm: BatchNormMode = "train") -> Scores:
    """Keep the weights with the largest |dL/dc| = |w dL/dw|, where c multiplies the weight and is 1.

    L is the mean loss over all samples in the data; signed gradients are summed over batches before the absolute
    value. Frankle et al. use ten samples of each class. The authors' code also prunes biases, scores with batch
    normalization in inference mode and draws new weights after pruning; here biases stay, `batchnorm="eval"` asks for
    their mode, and weights are never drawn.
    """
    return _saliency(net, task, masks, batchnorm=batchnorm)


@scorer(
    "iterative-snip",
    paper="de Jorge et al., ICLR 2021, arXiv:2006.09081, section 4; Verdenius et al., 2020, arXiv:2006.00896",
    needs={"labels"},
    rounds=100,
    sharded=True,
    summed=True,
)
def iterative_snip(net: Net, task: Task, masks: Masks, *, batchnorm: BatchNormMode = "train") -> Scores:
    """SNIP again and again on what is left, z = |w m dL/d(w m)|; pruned weights stay pruned.

    100 rounds and the exponential schedule as in Frankle et al., appendix G. One round is SNIP.
    """
    return _saliency(net, task, masks, batchnorm=batchnorm)


@scorer(
    "force",
    paper="de Jorge et al., ICLR 2021, arXiv:2006.09081, eq. 7-8",
    needs={"labels"},
    rounds=60,
    revives=True,
    sharded=True,
    summed=True,
)
def force(net: Net, task: Task, masks: Masks, *, batchnorm: BatchNormMode = "train") -> Scores:
    """Keep the largest |w0 dL/dw(w0 m)|: gradients of the pruned network times the dense initial weights.

    Every round chooses among all weights, so pruned ones may return. 60 rounds are the default of the authors' code.
    There a fresh batch is drawn for every round; here all rounds see the data of the call. One round is SNIP.
    """
    with scoring(net, batchnorm=batchnorm):
        grads = task.weight_grads(net, net.masked(masks))
    return {name: grads[name].mul_(net.params[name]).abs_() for name in net.prunable}


def _saliency(net: Net, task: Task, masks: Masks, *, batchnorm: BatchNormMode) -> Scores:
    params = net.masked(masks)
    with scoring(net, batchnorm=batchnorm):
        grads = task.weight_grads(net, params)
    return {name: grads[name].mul_(params[name]).abs_() for name in net.prunable}
