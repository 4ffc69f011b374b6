"""NTK-SAP: keep the weights that hold up the spectrum of the tangent kernel, whatever the weights turn out to be."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from foreprune.core.derivatives import gradients
from foreprune.core.init import Init, fresh, normal_
from foreprune.core.masks import Masks
from foreprune.core.method import Scores, scorer
from foreprune.core.net import Net, Params, primary_output, scoring
from foreprune.core.task import Inputs, Task, require_grad
from foreprune.graph import one_sample
from foreprune.methods.drawn_embeddings import DrawnEmbeddings, mark
from foreprune.methods.frozen_statistics import FrozenStatistics

_PERTURBED = "perturbed "


@scorer(
    "ntk-sap",
    paper="Wang, Li & Sun, ICLR 2023, arXiv:2304.02840, eq. 10 and algorithm 1",
    needs={"shape"},
    rounds=20,
    sharded=True,
)
def ntk_sap(
    net: Net,
    task: Task,
    masks: Masks,
    *,
    resamplings: int = 5,
    epsilon: float = 0.01,
    samples: int = 100,
    batch_size: int = 256,
    init: Init = "kaiming",
) -> Scores:
    """Keep the weights with the largest |d/dm E ||f(z; w m) - f(z; (w + D) m)||^2|, m the mask, z and w drawn afresh.

    The expectation is over inputs z ~ N(0, 1) in the shape of one input, weights w from the initial distribution and
    perturbations D ~ N(0, epsilon^2) of the prunable weights; to first order it is epsilon^2 times the trace of the
    tangent kernel. Every mini-batch has new inputs and new weights. Neither the weights of the model nor the data are
    looked at, only their shapes: the model may as well be trained already. What is not drawn afresh (biases, which the
    authors keep too, and parameters that no layer knows how to draw) enters as it is.

    `epsilon` is a standard deviation; the paper's 1e-4 is the variance. A score takes `resamplings` times `samples`
    inputs in batches of at most `batch_size`, as equal as can be. The paper's pruning sets hold ten inputs for each
    class (100 is that of CIFAR-10; pass `samples=10 * classes`), in batches of 256. They prune in 20 rounds with 5
    resamplings on CIFAR-10; other data sets see one resampling in the authors' scripts. `init` says how weights are
    drawn: "kaiming" (the paper's; normal, fan-in) or "own" (each layer's own initializer).

    Inputs that are whole numbers (token ids) and booleans (masks) are those given, over and over. What a network looks
    up by them in a table of parameters is drawn from N(0, 1) in its place, the same in both evaluations: the inputs of
    such a network are its embeddings. Where axis 0 of several inputs is no batch (the nodes of a graph), each
    resampling draws the features of all nodes once, and the adjacency is the one given. The paper has images only.

    Batch normalization uses, in both evaluations and as constants, the statistics of the batch under the unperturbed
    weights, with the unbiased variance. The authors' code finds them in a forward pass of its own, the third of a
    batch; here the first evaluation finds them on its way. In their pass earlier normalizations divide by the biased
    variance, so theirs differ by a relative 1 / (samples times pixels) behind the first one. A normalization that is
    used twice has statistics for each use here, and those of its last use there. That code also draws the new weights
    in the very network it prunes.
    """
    _check(resamplings=resamplings, epsilon=epsilon, samples=samples, batch_size=batch_size)
    assert task.example is not None
    totals = {name: torch.zeros_like(weight) for name, weight in net.weights.items()}
    sizes: Sequence[int | None] = _batch_sizes(samples, batch_size) * resamplings
    constants: frozenset[int] = frozenset()
    if len(task.example.tensors()) > 1:
        found = task.once(one_sample, net, task.example)
        if found.inputs is task.example:
            sizes, constants = [None] * resamplings, found.constants
    generator = device_generator(net, task)
    for draw in draws(net, task.example, generator, sizes=sizes, epsilon=epsilon, init=init, constants=constants):
        for name, part in sensitivity(net, masks, draw)[1].items():
            totals[name].add_(part)
    return {name: total.abs_() for name, total in totals.items()}


@dataclass(frozen=True, eq=False)
class Draw:
    """One mini-batch. Its tensors are overwritten by the next draw.

    Attributes:
        weights: every parameter, drawn afresh.
        perturbed: the prunable ones, each entry moved by a normal perturbation.
        inputs: Gaussian inputs; token ids and masks as they were given.
        generator: draws the embeddings of token ids.
    """

    weights: dict[str, Tensor]
    perturbed: dict[str, Tensor]
    inputs: Inputs
    generator: torch.Generator = field(default_factory=torch.Generator)


def draws(
    net: Net,
    example: Inputs,
    generator: torch.Generator,
    *,
    sizes: Sequence[int | None],
    epsilon: float,
    init: Init,
    constants: frozenset[int] = frozenset(),
) -> Iterator[Draw]:
    """A draw for each mini-batch size in `sizes` (None: that of the example): first the weights, then the perturbation,
    then the inputs but for the `constants` among them, by `id`.

    Raises:
        ValueError: inputs that cannot be Gaussian (complex numbers).
    """
    weights = {
        name: torch.empty_like(value, memory_format=torch.contiguous_format) for name, value in net.params.items()
    }
    perturbed = {name: torch.empty_like(weights[name]) for name in net.prunable}
    example = _in_order(net, example)
    for size in sizes:
        fresh(net, generator, init=init, out=weights)
        for name, tensor in perturbed.items():
            net.fill(name, tensor, partial(normal_, deviation=epsilon, generator=generator)).add_(weights[name])
        yield Draw(weights, perturbed, _gaussian(net, example, size, generator, constants), generator)


def sensitivity(net: Net, masks: Masks, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective ||f(z; w m) - f(z; (w + D) m)||^2, summed over the batch, and m times its gradient in m.

    The masks are applied to the draw in place.

    The mask scales both sets of weights, so m d/dm = (w m) d/d(w m) + ((w + D) m) d/d((w + D) m), and one backward pass
    over both evaluations gives the two terms.

    Raises:
        ValueError: batch normalization over a single value, or two evaluations that take different ways.
    """
    for name, mask in masks.items():
        dead = ~mask
        draw.weights[name].masked_fill_(dead, 0)  # several times as fast as a product with booleans
        draw.perturbed[name].masked_fill_(dead, 0)
    plain = require_grad(draw.weights, net.prunable)
    moved = require_grad({**draw.weights, **draw.perturbed}, net.prunable)

    def output(params: Params, mode: FrozenStatistics, embeddings: DrawnEmbeddings | None) -> Tensor:
        inputs = draw.inputs.map(torch.clone)  # a forward may work on its inputs in place
        if embeddings is not None:
            inputs = inputs.map(lambda tensor: tensor if tensor.is_floating_point() else mark(tensor))
        with embeddings or contextlib.nullcontext(), mode:
            return primary_output(inputs.call(lambda *args, **kwargs: net(params, *args, **kwargs)))

    kinds = {tensor.dtype for tensor in draw.inputs.tensors()}
    real = any(kind.is_floating_point for kind in kinds)
    first = second = None
    if any(not kind.is_floating_point for kind in kinds):
        first = DrawnEmbeddings(plain.values(), draw.generator, place=net.place)
        second = DrawnEmbeddings(moved.values(), draw.generator, first.drawn, place=net.place)
    with scoring(net):
        noted = FrozenStatistics()
        try:
            value = output(plain, noted, first)
        except (RuntimeError, TypeError) as error:
            if not real and first is not None and not first.drawn:
                raise _no_embedding(kinds) from error
            raise
        if not real and first is not None and not first.drawn:
            raise _no_embedding(kinds)
        difference = value - output(moved, FrozenStatistics(noted.statistics), second)
        objective = difference.square().sum()
        both = {**plain, **{_PERTURBED + name: moved[name] for name in net.prunable}}
        grads = gradients(objective, both, [*net.prunable, *(_PERTURBED + name for name in net.prunable)])
    parts = {}
    for name in net.prunable:
        blocks = (block for block in net.blocks if block.parameter == name)
        silent = first is not None and not any(net.any(grads[name], block) for block in blocks)
        if silent and first is not None and first.has(plain[name]):
            raise ValueError(
                f"ntk-sap draws what is looked up in {name!r}, which therefore has no score; leave it out with "
                "prunable="
            )
        parts[name] = grads[name].mul_(draw.weights[name])
        parts[name].addcmul_(grads[_PERTURBED + name], draw.perturbed[name])
    return objective.detach(), parts


def _no_embedding(kinds: Iterable[torch.dtype]) -> ValueError:
    return ValueError(
        "ntk-sap draws its inputs from a normal distribution, or what is looked up by them in a table of parameters; "
        f"the inputs of this network are {', '.join(sorted(map(str, kinds)))} and nothing is looked up by them; use "
        "'synflow' or a data-driven method such as 'snip'"
    )


def _gaussian(
    net: Net, example: Inputs, size: int | None, generator: torch.Generator, constants: frozenset[int]
) -> Inputs:
    """`size` inputs from N(0, 1), in the weights' type and the shape of `example` after its batch axis; whole numbers
    and booleans are those of `example`, over and over. With no size, in the shape of `example`."""
    dtype = net.params[net.prunable[0]].dtype

    def draw(tensor: Tensor) -> Tensor:
        if id(tensor) in constants:
            return tensor
        if tensor.is_complex():
            raise ValueError(
                f"ntk-sap draws its inputs from a normal distribution, and an input of this network is {tensor.dtype}; "
                "use 'synflow' or a data-driven method such as 'snip'"
            )
        if not tensor.is_floating_point():
            if size is None or not tensor.dim():
                return tensor
            return tensor[torch.arange(size, device=tensor.device) % len(tensor)]
        shape = tensor.shape if size is None or not tensor.dim() else (size, *tensor.shape[1:])
        drawn = normal_(torch.empty(shape, dtype=dtype, device=generator.device), 1.0, generator)
        cpu_images = drawn.dim() == 4 and drawn.device.type == "cpu"
        return drawn.contiguous(memory_format=torch.channels_last) if cpu_images else drawn

    return example.map(draw)


def _in_order(net: Net, example: Inputs) -> Inputs:
    """The arguments in the order of the forward's parameters: by name or by position, they get the same draws."""
    try:
        bound = inspect.signature(net.module.forward).bind(*example.args, **(example.kwargs or {}))
    except (TypeError, ValueError):  # the call itself will say what does not fit
        return example
    return Inputs(bound.args, bound.kwargs)


def device_generator(net: Net, task: Task) -> torch.Generator:
    """The task's own generator on a CPU; on another device one of its own, seeded from it, which is faster there."""
    if net.device.type == "cpu":
        return task.generator
    seed = int(torch.randint(2**62, (), generator=task.generator, device="cpu"))
    return torch.Generator(device=net.device).manual_seed(seed)


def _batch_sizes(samples: int, batch_size: int) -> list[int]:
    """As few batches as fit, as equal as can be: a last batch of one has no statistics."""
    batches = -(-samples // batch_size)
    return [samples * (k + 1) // batches - samples * k // batches for k in range(batches)]


def _check(*, epsilon: float, **counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"method 'ntk-sap': {name} must be at least 1, not {value!r}")
    if not epsilon > 0:
        raise ValueError(
            f"method 'ntk-sap': epsilon must be positive, the standard deviation of the perturbation, not {epsilon!r}"
        )
