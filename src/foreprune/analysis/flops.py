"""Cost of one forward pass: multiply-adds, FLOPs, parameters and bytes, dense and after pruning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from foreprune.analysis.pruned import Pruned, undisturbed
from foreprune.core.masks import Masks
from foreprune.core.net import scoring


@dataclass(frozen=True)
class LayerCost:
    """Multiply-adds of one weight tensor in one forward pass, over all of its uses."""

    dense_macs: int
    macs: int


@dataclass(frozen=True)
class Cost:
    """Cost of one forward pass of one sample.

    A pruned weight costs nothing: the multiply-adds of each weight tensor shrink with its density, which is what a
    sparse kernel could save at best. FLOPs are two for each multiply-add.

    Attributes:
        dense_macs: multiply-adds of matrix products and convolutions.
        macs: after pruning.
        layers: name of the weight -> its share. What is missing to the total has no weights of its own, such as the
            products of queries and keys.
        parameters: all numbers that are trained, biases and normalization included.
        kept_parameters: without pruned ones.
        dense_bytes: of all parameters.
        bytes: of the kept ones, values only; where they stand is not counted.
    """

    dense_macs: int
    macs: int
    layers: Mapping[str, LayerCost]
    parameters: int
    kept_parameters: int
    dense_bytes: int
    bytes: int

    @property
    def dense_flops(self) -> int:
        """Twice `dense_macs`."""
        return 2 * self.dense_macs

    @property
    def flops(self) -> int:
        """Twice `macs`."""
        return 2 * self.macs


def cost(model: nn.Module, masks: Masks | None = None, *, inputs: Any) -> Cost:
    """Count what one forward pass of one sample costs, with torch's own FLOP counter.

    Matrix products, convolutions and attention are counted; activations, normalization and additions are not, as usual.
    torch does not count its fused recurrent layers either.

    Args:
        model: the network.
        masks: what is kept; None: everything.
        inputs: example inputs of the type the network takes, of which the first sample is run.
    """
    with undisturbed():
        return measure(Pruned.of(model, masks, inputs))


def measure(pruned: Pruned) -> Cost:
    """`cost` of a network that is prepared already."""
    net = pruned.net
    sizes = {name: value.numel() for name, value in net.params.items()}
    # of all weights of a tensor: those that are not prunable are kept
    gone = {name: total - left for name, (left, total) in pruned.masks.layer_counts().items()}
    kept = {name: size - gone.get(name, 0) for name, size in sizes.items()}
    counter = FlopCounterMode(display=False)
    meter = _Meter(net.params, counter)
    inputs = pruned.inputs.map(torch.clone)
    with scoring(net), torch.no_grad(), counter, meter:
        inputs.call(lambda *args, **kwargs: net(net.params, *args, **kwargs))
    total = int(counter.get_total_flops()) // 2
    layers = {}
    for name, flops in meter.flops.items():
        layers[name] = LayerCost(flops // 2, flops // 2 * kept[name] // max(sizes[name], 1))
    saved = sum(layer.dense_macs - layer.macs for layer in layers.values())
    width = {name: value.element_size() for name, value in net.params.items()}
    return Cost(
        dense_macs=total,
        macs=total - saved,
        layers=layers,
        parameters=sum(sizes.values()),
        kept_parameters=sum(kept.values()),
        dense_bytes=sum(sizes[name] * width[name] for name in sizes),
        bytes=sum(kept[name] * width[name] for name in sizes),
    )


class _Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes for each parameter how many FLOPs the operations took that it, or a view of it, was given to."""

    def __init__(self, params: Mapping[str, Tensor], counter: FlopCounterMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counter = counter
        self.spans = {name: (value.data_ptr(), value.data_ptr() + value.nbytes) for name, value in params.items()}
        self.flops: dict[str, int] = {}

    def name(self, value: Tensor) -> str | None:
        """The parameter whose memory `value` lies in."""
        address = value.data_ptr()
        return next((name for name, (start, stop) in self.spans.items() if start <= address < stop), None)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        before = self.counter.get_total_flops()
        result = func(*args, **(kwargs or {}))
        spent = int(self.counter.get_total_flops() - before)
        if spent:
            tensors = [value for value in args if isinstance(value, Tensor)]
            for value in sorted(tensors, key=Tensor.numel, reverse=True):  # the weight before the bias
                if (name := self.name(value)) is not None:
                    self.flops[name] = self.flops.get(name, 0) + spent
                    break
        return result
