"""`PathGraph`: a network as a graph of paths, evaluated by its own forward with the gates open.

The sum over input-output paths of the product of their weights is what a network computes once every gate is open:
activations and dropout pass their input on, normalizations multiply by their scale, attention is uniform, biases and
other additive constants drop out, and the weights are the tensors one passes in (|w|, w^2, ones, ...). The user's own
`forward` runs under a `TorchFunctionMode` that replaces exactly those operations, so any eager model works and nothing
is traced ahead.

Sums are computed in float64, whatever the precision of the network: iterative methods rank scores that agree in many
digits, and in float32 rounding decides between them. Products over many layers leave the range of float32 (on ResNet-50
at 224 px, say), and of float64 on deeper networks. Every flow therefore carries an exponent of two of its own; scaling
by a power of two is exact, so scores are bit for bit those of an unscaled run wherever that one stays in range, up to
one common power of two.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor

from foreprune.core.derivatives import gradients
from foreprune.core.masks import Masks
from foreprune.core.net import Net, Params
from foreprune.core.task import Inputs
from foreprune.graph.sums.gates import Gates, Handlers, PathError, graph_nodes
from foreprune.graph.sums.operations import IDENTITIES
from foreprune.graph.sums.samples import Sample, one_sample
from foreprune.graph.sums.scales import HANDLERS

Precision = Literal["double", "single"]
Normalization = Literal["scale", "identity"]
_ROUNDING = 1e-3  # some convolution algorithms subtract inside and leave a little dust below zero


def path_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """float64 for "double", float32 for "single".

    Warns:
        UserWarning: the device has no float64; then it is float32 too.
    """
    if precision == "double" and not _has_double(device):
        warnings.warn(
            f"device {str(device)!r} has no float64, so sums over paths are computed in float32 there and rounding has "
            'a part in the masks; move the model to the CPU, or write precision="single"',
            stacklevel=2,
        )
        return torch.float32
    return torch.float64 if precision == "double" else torch.float32


def _has_double(device: torch.device) -> bool:
    """Whether float64 can be computed with there; Apple's graphics processors cannot."""
    try:
        torch.ones(1, dtype=torch.float64, device=device).square()
    except (TypeError, RuntimeError):
        return False
    return True


def path_graph(
    net: Net,
    inputs: Inputs,
    *,
    precision: Precision = "double",
    batchnorm: Normalization = "scale",
    power: int = 1,
) -> PathGraph:
    """The paths of `net`, to be asked for gradients round after round: make one for all rounds of a call.

    With the folder `foreprune/graph/replay` later rounds are faster; without it the results are the same.
    """
    found = importlib.util.find_spec("foreprune.graph.replay")
    handlers: Handlers = HANDLERS if batchnorm == "scale" else IDENTITIES
    dtype = path_dtype(precision, net.device)
    if (
        found is None or found.origin is None or not net.replayable
    ):  # a folder that holds only compiled files has no origin
        return PathGraph(net, inputs, handlers, dtype=dtype, power=power)
    from foreprune.graph.replay import ReplayedPaths

    return ReplayedPaths(net, inputs, handlers, dtype=dtype, power=power)


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
    """The paths of `net` for inputs of the shape of `inputs`.

    `handlers` says what becomes of each family of operations; with others than the default, other sums over the same
    paths. `gates` makes the mode that the forward runs in. Everything is computed in `dtype`. `power` is 1 where the
    weights passed in are |w| and 2 where they are w^2: the scales of normalizations and the parameters that are not
    passed in enter with it. With 0, for counts of paths, nothing but what is passed in enters.
    """

    net: Net
    inputs: Inputs
    handlers: Handlers = field(default_factory=lambda: HANDLERS)
    gates: Callable[[Net, Handlers], Gates] = Gates
    dtype: torch.dtype = torch.float64
    power: int = 1

    @cached_property
    def sample(self) -> Sample:
        """What of the inputs the paths are followed for."""
        return one_sample(self.net, self.inputs)

    def masked(self, function: Callable[[Tensor], Tensor], masks: Masks) -> dict[str, Tensor]:
        """`function` of every prunable weight, zero where pruned. The next call with this function may overwrite it."""

        def value(name: str, weight: Tensor) -> Tensor:
            return masks({name: function(weight.to(self.dtype))})[name]

        return {name: self.net.deferred(name, partial(value, name), dtype=self.dtype) for name in self.net.prunable}

    def dense(self, function: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """`function` of every prunable weight."""
        return {name: function(weight) for name, weight in self.precise(self.net.weights).items()}

    def precise(self, tensors: Params) -> dict[str, Tensor]:
        """The same tensors in the precision of the sums; those that have it already are not copied."""
        return {n: value.to(self.dtype) if value.is_floating_point() else value for n, value in tensors.items()}

    def sum(self, weights: Params, *, image: Tensor | None = None) -> PathSum:
        """Sum over all paths of the product of their `weights`, each path times its input's entry of `image` (default
        1).

        Args:
            weights: non-negative tensors by name; parameters that are missing enter with |w| ** `power`.
            image: non-negative, of the shape of one input without its batch axis. Networks with one input tensor only.

        Raises:
            PathError: an operation that has no meaning for paths.
            ValueError: the result is infinite or NaN.
        """
        output, exponent = self.outputs(weights, image=image)
        value = output.sum()
        if not math.isfinite(float(value.detach())):
            raise ValueError("the sum over paths is not finite: look for NaN or infinite weights")
        # gradients are recorded from the inputs on; nobody needs them unless some weight asked
        tracked = any(tensor.requires_grad for tensor in weights.values())
        return PathSum(value if tracked else value.detach(), exponent)

    def gradients(
        self,
        weights: Params,
        names: Iterable[str] | None = None,
        *,
        times: Params | None = None,
        image: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """d sum / d weights[name] for each of `names` (default: all `weights`), up to one common power of two.

        With `times`, the product with `times[name]`. Other arguments and errors as in `sum`.
        """
        names, weights = list(weights if names is None else names), self.precise(weights)
        leaves = {**weights, **{name: weights[name].detach().requires_grad_() for name in names}}
        grads = gradients(self.sum(leaves, image=image).value, leaves, names)
        check_growing(grads)
        return grads if times is None else {name: grad.mul_(times[name]) for name, grad in grads.items()}

    def outputs(self, weights: Params, *, image: Tensor | None = None) -> tuple[Tensor, int]:
        """The sum over the paths to each output, as (tensor of the output's shape, exponent): tensor * 2**exponent.

        Arguments and PathError as in `sum`.
        """
        if image is not None and len(self.inputs.tensors()) != 1:
            raise ValueError(
                "a mean image needs a network with exactly one input tensor; use 'synflow', which needs none"
            )

        def size(weight: Tensor) -> Tensor:
            precise = weight.abs().to(self.dtype) if weight.is_floating_point() else weight.abs()
            return precise**self.power if self.power > 1 else precise

        missing = {
            name: self.net.deferred(name, size, dtype=self.dtype if value.is_floating_point() else None)
            for name, value in self.net.params.items()
            if name not in weights
        }
        tensors = {**missing, **self.precise(weights)}
        gates = self.gates(self.net, self.handlers)
        gates.power = self.power

        def start(one: Tensor) -> Tensor:
            if id(one) in self.sample.constants:
                return one.to(dtype=self.dtype, device=self.net.device).abs()
            if not one.is_floating_point():
                if image is not None:
                    raise ValueError(
                        f"a mean image needs floating inputs, and this network's are {one.dtype}; use 'synflow', "
                        "which needs none"
                    )
                return gates.ids(one.to(self.net.device, copy=True))
            if image is None:
                return gates.source(torch.ones_like(one, dtype=self.dtype, device=self.net.device))
            if tuple(image.shape) != tuple(one.shape[1:]):
                raise ValueError(
                    f"the mean image must have the shape of one input, {tuple(one.shape[1:])}, not {tuple(image.shape)}"
                )
            return gates.source(image.to(dtype=self.dtype, device=self.net.device)[None])

        output, exponent = gates.forward(tensors, self.sample.inputs, start)
        for node in graph_nodes(output):
            own = getattr(node, "_forward_cls", None)  # of a gathered weight: paths run along
            if isinstance(node, torch.autograd.function.BackwardCFunction) and not hasattr(own, "along_paths"):
                raise PathError(
                    f"the custom autograd function {type(node).__name__.removesuffix('Backward')!r} has a derivative "
                    "of its own, which has no meaning for paths; write it with torch functions, or use a method that "
                    "follows the real network ('snip', 'grasp', ...)"
                )
        return output, exponent


def check_growing(grads: Mapping[str, Tensor]) -> None:
    """Raise PathError for a derivative of a sum over paths that is negative."""
    for name, grad in grads.items():
        # more weight never means less flow, unless something between the weights and the paths subtracts
        least = float(grad.min()) if grad.numel() else 0.0
        if least < 0 and least < -_ROUNDING * float(grad.max()):
            raise PathError(
                f"the sum over paths falls where {name!r} grows, so it is no sum over paths: is that weight "
                "normalized before use (cosine classifier, weight normalization), or is there an operation with "
                "negative coefficients (bicubic interpolation)? Use a method that follows the real network "
                "('snip', 'grasp', 'magnitude', 'erk', ...)"
            )
