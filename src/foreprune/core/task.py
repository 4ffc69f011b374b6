"""`Task`: what a score may look at. Data are materialized once, so that every pass sees the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from foreprune.core.collective import reduced, together, totals
from foreprune.core.net import Net, Params, gradients, primary_output
from foreprune.core.seeds import generator_for

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
class Inputs:
    """Arguments of one forward call."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None

    def call(self, function: Callable[..., Any]) -> Any:
        """`function(*args, **kwargs)`."""
        return function(*self.args, **(self.kwargs or {}))

    def map(self, function: Callable[[Tensor], Tensor]) -> Inputs:
        """The same arguments with `function` applied to every tensor in them, also inside lists and mappings."""
        mapped = _map_tensors(self.args, function)
        return Inputs(mapped, _map_tensors(self.kwargs, function))

    def tensors(self) -> list[Tensor]:
        """Every tensor in the arguments."""
        found: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        self.map(note)
        return found


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs, their targets and how many samples they are."""

    inputs: Inputs
    target: Any
    size: int


@dataclass(frozen=True, eq=False)
class Task:
    """Data, loss and random generator of one pruning call.

    Attributes:
        batches: the scoring batches, on the device of the network; empty for data-free methods.
        example: inputs of which only the shape and type count; None if neither inputs nor data were given.
        loss: callable (output, target) -> scalar, the mean over the batch; None means cross-entropy.
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

    def loss_of(self, net: Net, params: Params, batch: Batch, *, temperature: float = 1.0) -> Tensor:
        """Loss of one batch, weighted by its share of the samples: summed over batches it is the mean over samples."""
        # a forward that works on its inputs in place must not change what the next pass sees
        inputs, target = batch.inputs.map(torch.clone), _map_tensors(batch.target, torch.clone)
        output = inputs.call(lambda *args, **kwargs: net(params, *args, **kwargs))
        if self.loss is None:
            value = F.cross_entropy(primary_output(output) / temperature, target)
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
            grads = gradients(self.loss_of(net, leaves, batch), leaves, net.prunable)
            total = grads if not total else {name: total[name].add_(grad) for name, grad in grads.items()}
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
            return materialize(data, net.device, labeled="labels" in needs)
        if needs & {"images", "labels"}:
            raise ValueError(
                f"method {asking!r} needs data: pass data={'(x, y)' if 'labels' in needs else 'x'} or an iterable of "
                "such batches (data-free methods: 'synflow', 'magnitude', 'erk', 'random')"
            )
        return ()

    batches = read() if group is None else together(read, [group], net.device, what="reading its data")
    example = as_inputs(inputs) if inputs is not None else batches[0].inputs if batches else None
    if "shape" in needs and example is None:
        raise ValueError(
            f"method {asking!r} needs example inputs, of which only the shape counts: pass inputs=x, "
            "e.g. inputs=torch.zeros(1, 3, 32, 32)"
        )
    if averaged:
        mean_image = _mean_image(batches, asking, group)
    if mean_image is not None:
        _check_mean_image(mean_image)
    samples = None if group is None else totals([sum(batch.size for batch in batches)], [group], net.device)[0]
    return Task(batches, example, loss, generator_for("prune", seed), mean_image, group, samples)


def _mean_image(batches: tuple[Batch, ...], asking: str, group: Any) -> Tensor:
    if not batches:
        raise ValueError(
            f"method {asking!r} needs the mean image of the data: pass mean_image= (non-negative, one input's shape) "
            "or data="
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


def materialize(data: Any, device: torch.device, *, labeled: bool = True) -> tuple[Batch, ...]:
    """Batches from one batch `(input, target)` or an iterable of them, moved to `device`.

    `input` is a tensor, a tuple of tensors (positional arguments) or a mapping (keyword arguments). A mapping with
    "labels" is a batch by itself. Where labels are not needed, a tensor, a mapping or a list of one tensor is a batch
    of inputs.

    Raises:
        TypeError: something that is neither.
        ValueError: no batch at all.
    """
    if isinstance(data, Mapping) or _is_batch(data, labeled=labeled) or (isinstance(data, Tensor) and not labeled):
        batches: Iterable[Any] = [data]
    elif isinstance(data, Tensor) or not isinstance(data, Iterable):
        raise TypeError(
            f"data must be a batch (input, target) or an iterable of batches, not {type(data).__name__}; "
            + ("for a method without labels pass inputs= instead" if labeled else "e.g. data=x or a DataLoader")
        )
    else:
        batches = data
    found = tuple(_to_batch(batch, device, labeled=labeled) for batch in batches)
    if not found or not sum(batch.size for batch in found):
        raise ValueError("data holds no batch: an empty iterable, or an iterator that was already used up")
    return found


def as_inputs(inputs: Any) -> Inputs:
    """One forward call's arguments from a tensor, a tuple of them or a mapping.

    Raises:
        TypeError: none of these.
    """
    if isinstance(inputs, Inputs):
        return inputs
    if isinstance(inputs, Mapping):
        return Inputs((), dict(inputs))
    if isinstance(inputs, Tensor):
        return Inputs((inputs,))
    if (
        isinstance(inputs, (tuple, list))
        and inputs
        and all(isinstance(item, (Tensor, Mapping, list, tuple)) for item in inputs)
    ):
        return Inputs(tuple(inputs))
    raise TypeError(
        f"inputs must be a tensor, a tuple of tensors (positional arguments) or a mapping (keyword arguments), "
        f"not {type(inputs).__name__}; e.g. inputs=torch.zeros(1, 3, 32, 32)"
    )


def _is_batch(data: Any, *, labeled: bool) -> bool:
    if not isinstance(data, (tuple, list)) or len(data) != 2 or not isinstance(data[1], Tensor):
        return False
    first, second = data
    if not labeled and isinstance(data, list) and isinstance(first, Tensor):  # two batches of inputs look alike
        return (first.shape[1:], first.dtype) != (second.shape[1:], second.dtype)
    return isinstance(first, (Tensor, Mapping)) or (
        isinstance(first, (tuple, list)) and all(isinstance(item, Tensor) for item in first)
    )


def _to_batch(batch: Any, device: torch.device, *, labeled: bool) -> Batch:
    inputs: Any
    target: Any = None
    if isinstance(batch, Mapping):
        if labeled and "labels" not in batch:
            raise TypeError(
                f"a batch that is a mapping needs 'labels'; it has {', '.join(map(str, batch)) or 'nothing'}"
            )
        inputs, target = {key: value for key, value in batch.items() if key != "labels"}, batch.get("labels")
    elif isinstance(batch, Tensor) and not labeled:
        inputs = batch
    elif isinstance(batch, (tuple, list)) and len(batch) == 1 and not labeled:  # as of a TensorDataset of inputs
        inputs = batch[0]
    elif isinstance(batch, (tuple, list)) and len(batch) == 2:
        inputs, target = batch
    else:
        allowed = "a pair (input, target) or a mapping with 'labels'"
        raise TypeError(
            f"each batch must be {allowed if labeled else 'inputs, or (input, target)'}, not {type(batch).__name__}"
            + (f" of {len(batch)}" if isinstance(batch, (tuple, list)) else "")
        )
    moved = as_inputs(inputs).map(lambda tensor: tensor.detach().to(device))
    tensors = moved.tensors()
    if not tensors or not tensors[0].dim():
        raise TypeError(
            f"a batch needs an input tensor with a batch axis, and this one has {'one number' if tensors else 'none'}"
        )
    return Batch(moved, _map_tensors(target, lambda tensor: tensor.to(device)), size=tensors[0].shape[0])


# torch.utils._pytree takes a mapping that it does not know, such as a tokenizer's output, for a leaf
def _map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: _map_tensors(item, function) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [_map_tensors(item, function) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
