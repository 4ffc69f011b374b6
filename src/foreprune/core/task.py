"""`Task`: what a score may look at. Data are materialized once, so that every pass sees the same images."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foreprune.core.collective import reduced, together, totals
from foreprune.core.data_forms import Batch, Inputs, as_inputs, map_tensors, materialize
from foreprune.core.derivatives import add_gradients, gradients
from foreprune.core.losses import cross_entropy, own_loss
from foreprune.core.net import Net, Params, primary_output
from foreprune.core.seeds import generator_for

__all__ = [
    "NEEDS",
    "Batch",
    "Inputs",
    "Loss",
    "Need",
    "Task",
    "as_inputs",
    "materialize",
    "one_number",
    "require_grad",
    "task_for",
]

Loss = Callable[[Any, Any], Tensor]
Need = Literal["shape", "images", "labels", "mean image"]
NEEDS: Mapping[Need, str] = {
    "shape": "example inputs (of which only the shape counts)",
    "images": "data (labels are not looked at)",
    "labels": "data with labels",
    "mean image": "the mean image of the data",
}
_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Task:
    """Data, loss and random generator of one pruning call.

    Attributes:
        batches: the scoring batches, on the device of the network; empty for data-free methods.
        example: inputs of which only the shape and type count; None if neither inputs nor data were given.
        loss: callable (output, target) -> scalar, the mean over the batch; None means what the model computes itself
            where its forward takes the labels of a batch, and cross-entropy elsewhere.
        generator: CPU generator seeded from the call.
        mean_image: non-negative, in the shape of one input; None if the method does not need it.
        group: processes that each hold batches of their own; None: this one holds them all.
        everywhere: number of samples of all processes; None: `batches` are all there are.
    """

    batches: tuple[Batch, ...]
    example: Inputs | None
    loss: Loss | None
    generator: torch.Generator
    mean_image: Tensor | None = None
    group: Any = None
    everywhere: int | None = None
    _made: dict[tuple[Any, ...], Any] = field(default_factory=dict, init=False, repr=False)

    def once(self, make: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
        """`make(*args, **kwargs)`, made when it is first asked for and the same object for all rounds of the call."""
        key = (make, *args, *sorted(kwargs.items()))
        if key not in self._made:
            self._made[key] = make(*args, **kwargs)
        made: _T = self._made[key]
        return made

    @property
    def samples(self) -> int:
        """Number of scoring samples, on all processes."""
        return sum(batch.size for batch in self.batches) if self.everywhere is None else self.everywhere

    def summed(self, net: Net, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sum of what the processes hold, in place; all of them have to call. Whatever is summed over batches has
        to come through here."""
        if self.group is not None and not net.sums:
            for value in tensors.values():
                reduced(value, [self.group])
        return tensors

    @property
    def cross_entropy(self) -> bool:
        """Whether the loss is the cross-entropy of logits: the default, unless the model computes its loss itself,
        torch's own, or that with some arguments."""
        loss = self.loss.func if isinstance(self.loss, functools.partial) else self.loss
        if loss is None:
            return all(batch.with_labels is None for batch in self.batches)
        return loss is F.cross_entropy or isinstance(loss, nn.CrossEntropyLoss)

    def loss_of(self, net: Net, params: Params, batch: Batch, *, temperature: float = 1.0) -> Tensor:
        """Loss of one batch, weighted by its share of the samples: summed over batches it is the mean over samples.

        That is `loss`, or what the model computes itself where its forward takes the labels of the batch, or the
        cross-entropy.
        """
        # a forward that works on its inputs in place must not change what the next pass sees
        given = batch.inputs if self.loss is not None or batch.with_labels is None else batch.with_labels
        inputs, target = given.map(torch.clone), map_tensors(batch.target, torch.clone)
        output = inputs.call(lambda *args, **kwargs: net(params, *args, **kwargs))
        value = own_loss(output) if given is batch.with_labels else None
        if value is not None:
            if temperature != 1.0:
                raise ValueError(
                    f"a temperature of {temperature:g} needs logits, and this model computes its loss itself; pass "
                    "temperature=1, or loss="
                )
        elif self.loss is None:
            value = cross_entropy(primary_output(output), target, temperature=temperature)
        else:
            if temperature != 1.0:
                if not isinstance(output, Tensor):
                    raise ValueError(
                        f"a temperature of {temperature:g} needs a model that returns one tensor, and this one returns "
                        f"{type(output).__name__}; pass temperature=1"
                    )
                output = output / temperature
            value = self.loss(output, target)
        return one_number(value) * (batch.size / self.samples)

    def weight_grads(self, net: Net, params: Params) -> dict[str, Tensor]:
        """Gradient of the mean loss over all samples with respect to the prunable tensors of `params`."""
        leaves = require_grad(params, net.prunable)
        total: dict[str, Tensor] = {}
        for batch in self.batches:
            loss = self.loss_of(net, leaves, batch)
            total = add_gradients(loss, leaves, total) if total else gradients(loss, leaves, net.prunable)
        return self.summed(net, total)


def require_grad(params: Params, names: Iterable[str]) -> dict[str, Tensor]:
    """`params` with those of `names` as leaves that record gradients (aliases: no data is copied)."""
    leaves = dict(params)
    for name in names:
        leaves[name] = params[name].detach().requires_grad_()
    return leaves


def one_number(loss: Any) -> Tensor:
    """What a loss function has returned, as a scalar tensor.

    Raises:
        ValueError: it is not one number.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"loss must return one number (the mean over the batch), got {found}; use reduction='mean'")
    return loss.reshape(())


def task_for(
    net: Net,
    needs: frozenset[Need],
    *,
    asking: str,
    optional: frozenset[Need] = frozenset(),
    inputs: Any = None,
    data: Any = None,
    mean_image: Tensor | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    group: Any = None,
) -> Task:
    """What a method may look at, of what was given; arguments as in `foreprune.prune`.

    Args:
        net: the network; data are moved to its device.
        needs: what the method needs; only that is read.
        asking: the method's name, for messages.
        optional: what is read besides, where it was given.
        group: processes that each give data of their own.

    Raises:
        TypeError, ValueError: something that it needs is missing, or what was given cannot be that.
    """
    if loss is not None and not callable(loss):
        raise TypeError(f"loss must be callable as loss(output, target), not {type(loss).__name__}")
    wanted = needs | optional
    if mean_image is not None and "mean image" not in wanted:
        raise TypeError(f"method {asking!r} takes no mean_image; leave it out, or use 'synflow-dist'")
    averaged = "mean image" in needs and mean_image is None
    used = wanted & {"images", "labels"} or averaged or ("shape" in wanted and inputs is None)

    def read() -> tuple[Batch, ...]:
        if used and data is not None:
            return materialize(data, net.device, labeled="labels" in needs, module=net.module)
        if needs & {"images", "labels"}:
            raise ValueError(
                f"method {asking!r} needs data: pass data={'(x, y)' if 'labels' in needs else 'x'} or an iterable of "
                "such batches (data-free methods: 'synflow', 'magnitude', 'erk', 'random')"
            )
        return ()

    batches = read() if group is None else together(read, [group], net.device, what="reading its data")
    example = as_inputs(inputs, module=net.module) if inputs is not None else batches[0].inputs if batches else None
    if averaged:
        mean_image = _mean_image(batches, asking, group)
    if "shape" in needs and example is None:
        raise ValueError(
            f"method {asking!r} needs example inputs, of which only the shape counts: pass inputs=x, "
            "e.g. inputs=torch.zeros(1, 3, 32, 32)"
        )
    if mean_image is not None:
        _check_mean_image(mean_image)
    samples = None if group is None else totals([sum(batch.size for batch in batches)], [group], net.device)[0]
    return Task(batches, example, loss, generator_for("prune", seed), mean_image, group, samples)


def _mean_image(batches: tuple[Batch, ...], asking: str, group: Any) -> Tensor:
    if not batches:
        raise ValueError(
            f"method {asking!r} needs the mean image of the data: pass mean_image= (non-negative, one input's shape) "
            "and inputs=x, or data="
        )
    sums = [batch.inputs.tensors()[0].double().sum(0) for batch in batches]
    total, count = torch.stack(sums).sum(0), sum(batch.size for batch in batches)
    if group is not None:
        total, count = reduced(total, [group]), totals([count], [group], total.device)[0]
    return total / count


def _check_mean_image(image: Tensor) -> None:
    if not isinstance(image, Tensor) or not torch.isfinite(image).all():
        raise ValueError("mean_image must be a tensor of finite numbers, of the shape of one input")
    if (image < 0).any():
        raise ValueError(
            f"the mean image has negative entries (smallest {float(image.min()):.3g}), so it does not measure paths; "
            "pass mean_image= of raw pixels in [0, 1], from before normalization"
        )
