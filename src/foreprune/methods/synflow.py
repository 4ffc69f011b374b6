"""SynFlow: keep the weights that carry most of the sum over all paths, without any data."""

from __future__ import annotations

import torch

from foreprune.core.masks import Masks
from foreprune.core.method import Scores, scorer
from foreprune.core.net import Net
from foreprune.core.task import Task
from foreprune.graph import Normalization, Precision, path_graph


@scorer(
    "synflow",
    paper="Tanaka, Kunin, Yamins & Ganguli, NeurIPS 2020, arXiv:2006.05467, eq. 3 and algorithm 1",
    needs={"shape"},
    rounds=100,
    sharded=True,
)
def synflow(
    net: Net, task: Task, masks: Masks, *, batchnorm: Normalization = "scale", precision: Precision = "double"
) -> Scores:
    """Keep the weights with the largest |w| dR/d|w|, where R = 1^T (prod_l |W_l m_l|) 1 is the sum over all paths.

    100 rounds, exponential schedule. Scores are defined up to one common factor, the same for all layers.

    The authors' code makes every entry of the state dict positive and runs the network in inference mode; with
    non-zero biases or running means that is no longer a sum over paths. Here gates are open and biases and running
    means drop out. The scale of a normalization is an edge weight that is not pruned, as in that code:
    |gamma| / sqrt(running variance + eps) of batch normalization, |gamma| of those without running statistics (layer,
    group, RMS), and the factors of layer scales. A scale that is zero everywhere, as in residual branches that begin
    as nothing, counts as one. `batchnorm="identity"` lets all normalizations pass their input on; layer scales stay.

    Paths on token ids begin at the outputs of the embedding, all ones; its table has no score. What attention, gates,
    graphs and two towers are on paths: docs/paths.md.

    Sums are computed in double. The authors' code takes single precision, which overflows on deep networks (and then
    keeps no weight) and leaves part of the mask to rounding: weights in series carry the same flow, in float32 their
    scores tie or fall in any order, and a hundred rounds amplify it. `precision="single"` takes half the time and
    memory, and is what a device without float64 computes in, with a warning; activations carry powers of two of their
    own, so nothing overflows there either. Rounds before the last keep the number of weights that the authors' code
    keeps, in effect rounded up.
    """
    paths = task.once(path_graph, net, task.example, batchnorm=batchnorm, precision=precision)
    weights = paths.masked(torch.abs, masks)  # |w| m
    # |w| m dR / d(|w| m), where R sums over all paths the product of their |w| m
    return paths.gradients(weights, times=weights)
