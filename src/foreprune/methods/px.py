"""PX: keep the weights on the paths that the data use, by a bound on the trace of the tangent kernel."""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from foreprune.core.derivatives import gradients
from foreprune.core.masks import Masks
from foreprune.core.method import Scores, scorer
from foreprune.core.net import BatchNormMode, Net, Params
from foreprune.core.sharding import is_sharded
from foreprune.core.task import Batch, Task, require_grad
from foreprune.graph import (
    IDENTITIES,
    Layer,
    PathGraph,
    Precision,
    active_outputs,
    check_growing,
    path_dtype,
    record_units,
)

LastLayer = Literal["squared", "signed"]


@scorer(
    "px",
    paper="Iurada, Ciccone & Tommasi, CVPR 2024, arXiv:2406.01820, section 4",
    needs={"images"},
    rounds=100,
    sharded=True,
)
def px(
    net: Net,
    task: Task,
    masks: Masks,
    *,
    batchnorm: BatchNormMode = "eval",
    last_layer: LastLayer = "squared",
    precision: Precision = "double",
) -> Scores:
    """Keep the weights with the largest w^2 dR/d(w^2), R = sum_k z1_k z2_k from the bound on the tangent kernel.

    z1_k sums the squared inputs over the active paths to output k: the network with weights of 1, with its gates as the
    real network sets them for each input, on x^2. z2_k sums the squared weights over all paths to k: gates open, inputs
    of 1. In a ReLU network without biases the tangent kernel's diagonal is at most z1_k times the trace of the path
    kernel for k. R is summed over all samples in the data; labels are not looked at. 100 rounds, exponential schedule.
    Scores are defined up to one common factor. Below a dense last layer z1 is the same for all outputs, and PX is
    `synflow-l2` with `form="theta2"` and `batchnorm="identity"`: data matter from the round on in which the last layer
    has lost weights.

    The gates come from a pass of the real masked network on the data, with batch normalization in inference mode, as in
    the authors' code, or with the statistics of the batch (`batchnorm="train"`). A ReLU is 0 or 1. The paper says
    nothing of others; here an activation counts with its squared slope, and max-pooling takes the entry it takes in the
    real network. In z1 and z2 normalizations are identities, as in the paper (synflow takes their scale), where the
    authors' code runs them in training mode, which leaves no sum over paths; that code also squares the statistics of
    shortcuts. `precision` is that of z1 and z2, as in synflow; the gates come from a pass in the network's own.

    That code leaves out parameters with "fc" in their name when it squares the weights of z2 and sets those of z1 to
    one, so that its classifier enters both with its own weights, signs included; they are scored w^2 |dR/dw|.
    `last_layer="signed"` does the same with the layers that make the outputs (biases stay out): z1 then differs
    between outputs from the first round on, R is no sum over paths, and scores of all layers are absolute values. On
    ResNet-20 at a density of 0.05 (20 rounds, 20 images of CIFAR-10, three seeds) the two keep 91 % of the weights in
    common, and theirs fewer in the last layer: 172 of 640 against 427.
    """
    if last_layer == "signed" and any(map(is_sharded, net.module.parameters())):
        raise ValueError(
            "method 'px': last_layer=\"signed\" looks for the last layer in the whole model, and this one is sharded; "
            'leave last_layer="squared", or prune before fully_shard'
        )
    dtype = task.once(path_dtype, precision, net.device)
    signed = _last(net, task) if last_layer == "signed" else ()

    def squared(name: str, weight: Tensor) -> Tensor:
        return masks({name: weight.to(dtype, copy=True) if name in signed else weight.to(dtype).square()})[name]

    squares: Params = {name: net.deferred(name, partial(squared, name), dtype=dtype) for name in net.params}
    squares = require_grad(squares, [*net.prunable, *signed])
    z2, _ = PathGraph(net, task.batches[0].inputs, IDENTITIES, dtype=dtype, power=2).outputs(squares)
    parts = [
        (sign * tensor, exponent)
        for sign in ((1, -1) if signed else (1,))  # z1 is linear in the last layer: positive minus negative weights
        for last in [{name: (sign * net.params[name]).clamp_min(0) for name in signed}]
        for batch in task.batches
        for tensor, exponent in [
            active_energy(net, batch, masks, z2.numel(), batchnorm=batchnorm, dtype=dtype, last=last)
        ]
    ]
    largest = max(exponent for _, exponent in parts)
    z1 = torch.stack([tensor * 2.0 ** (exponent - largest) for tensor, exponent in parts]).sum(0)
    flow = gradients((z2.flatten() * z1).sum(), squares, net.prunable)  # dR / d(w^2)
    if signed:
        real = masks(net.params)
        return {name: flow[name].abs_().mul_(real[name].square()) for name in net.prunable}
    check_growing(flow)
    return {name: flow[name].mul_(squares[name].detach()) for name in net.prunable}


def _last(net: Net, task: Task) -> set[str]:
    """Parameters of the layers that make the outputs."""
    graph = record_units(net, task.batches[0].inputs)
    return {
        node.weight
        for node in graph.nodes
        if isinstance(node, Layer) and node.weight in net.params and np.isin(node.targets, graph.outputs).any()
    }


def active_energy(
    net: Net,
    batch: Batch,
    masks: Masks,
    outputs: int,
    *,
    batchnorm: BatchNormMode,
    dtype: torch.dtype = torch.float64,
    last: Params | None = None,
) -> tuple[Tensor, int]:
    """z1, summed over the samples of a batch, as (tensor with `outputs` entries, exponent): tensor * 2**exponent.
    `last` are non-negative weights that take the place of ones.

    Raises:
        PathError: an operation that has no meaning for paths, or a forward that takes another way without its weights.
        ValueError: not `outputs` numbers for each sample.
    """
    last = last or {}

    def one(name: str, weight: Tensor) -> Tensor:
        return masks({name: last[name].to(dtype) if name in last else torch.ones_like(weight, dtype=dtype)})[name]

    ones = {name: net.deferred(name, partial(one, name), dtype=dtype) for name in net.params}
    found, exponent = active_outputs(net, batch.inputs, ones, real=net.masked(masks), batchnorm=batchnorm)
    if found.numel() != batch.size * outputs:
        raise ValueError(
            f"px needs a network whose outputs belong to samples, and this one gives {outputs} numbers for one sample "
            f"and {found.numel()} for {batch.size}; use 'synflow-l2' or 'snip'"
        )
    total: Tensor = found.reshape(batch.size, outputs).sum(0)
    return total, exponent
