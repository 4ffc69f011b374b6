"""`PathGraph`: a network as a graph of paths, evaluated by its own forward with the gates open.

The sum over input-output paths of the product of their weights is what a network computes once every gate is open:
activations, dropout and normalisations pass their input on, attention is uniform, biases and other additive constants
drop out, and the weights are the tensors one passes in (|w|, w^2, ones, ...). The user's own `forward` runs under a
`TorchFunctionMode` that replaces exactly those operations, so any eager model works and nothing is traced ahead.

Products over many layers leave the range of float32 (on ResNet-50 at 224 px, say). Every flow therefore carries an
exponent of two of its own; scaling by a power of two is exact, so scores are bit for bit those of an unscaled run
wherever that one stays in range, up to one common power of two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from foreprune.core.net import Net, Params, gradients, primary_output, scoring
from foreprune.core.task import Inputs
from foreprune.graph.gates import Flow, Gates, PathError, flow_of
from foreprune.graph.operations import HANDLERS


@dataclass(frozen=True, eq=False)
class PathSum:
    """A sum over paths: the true value is `value * 2**exponent`.

    Attributes:
        value: scalar, differentiable with respect to the weights.
        exponent: common power of two, so that no intermediate value over- or underflows.
    """

    value: Tensor
    exponent: int

    @property
    def log10(self) -> float:
        """log10 of the true value, -inf if no path is left."""
        value = float(self.value.detach())
        return math.log10(value) + self.exponent * math.log10(2) if value > 0 else -math.inf


@dataclass(frozen=True, eq=False)
class PathGraph:
    """The paths of `net` for inputs of the shape of `inputs`."""

    net: Net
    inputs: Inputs

    def sum(self, weights: Params, *, image: Tensor | None = None) -> PathSum:
        """Sum over all paths of the product of their `weights`, each path times its input's entry of `image` (default
        1).

        Args:
            weights: non-negative tensors by name; parameters that are missing enter with their absolute value.
            image: non-negative, of the shape of one input without its batch axis. Networks with one input tensor only.

        Raises:
            PathError: an operation that has no meaning for paths.
            ValueError: the result is infinite or NaN.
        """
        tensors = {**self.net.magnitudes, **weights}
        with scoring(self.net), Gates(self.net, HANDLERS) as gates:
            start = self._start(gates, tensors, image)
            output = primary_output(start.call(lambda *args, **kwargs: self.net(tensors, *args, **kwargs)))
            output = gates.resolve(output)
        flow = flow_of(output)
        if flow is None or flow.logits:
            raise PathError(
                "the output does not depend on the inputs through operations that paths can follow (it "
                "is computed outside torch "
                "functions, from constants only, or in a scripted module); use a data-driven method such as 'snip'"
            )
        value = output.sum()
        if not math.isfinite(float(value.detach())):
            raise ValueError("the sum over paths is not finite: look for NaN or infinite weights")
        return PathSum(value, flow.exponent)

    def gradients(self, weights: Params, names: Iterable[str], *, image: Tensor | None = None) -> dict[str, Tensor]:
        """d sum / d weights[name], up to the one common factor 2**exponent of `sum`."""
        names = list(names)
        leaves = {**weights, **{name: weights[name].detach().requires_grad_() for name in names}}
        return gradients(self.sum(leaves, image=image).value, leaves, names)

    def _start(self, gates: Gates, tensors: Params, image: Tensor | None) -> Inputs:
        dtype = next(iter(tensors.values())).dtype

        def source(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return gates.mark(tensor[:1].clone() if tensor.dim() else tensor.clone(), Flow())
            if image is None:
                return gates.mark(torch.ones_like(tensor[:1], dtype=dtype, device=self.net.device), Flow())
            if tuple(image.shape) != tuple(tensor.shape[1:]):
                raise ValueError(
                    f"the mean image must have the shape of one input, {tuple(tensor.shape[1:])}, not "
                    f"{tuple(image.shape)}"
                )
            return gates.mark(image.to(dtype=dtype, device=self.net.device)[None].clone(), Flow())

        if image is not None and len(self.inputs.tensors()) != 1:
            raise ValueError("a mean image needs a network with exactly one input tensor")
        return self.inputs.map(source)
