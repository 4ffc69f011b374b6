"""`Tangent`: the Jacobian J = df/dtheta of a pruned network, by rows and by products with vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.func import vjp, vmap
from torch.overrides import TorchFunctionMode

from foreprune.analysis.pruned import with_masks
from foreprune.core.masks import Masks, unwrapped
from foreprune.core.net import Net, primary_output, scoring
from foreprune.core.task import Inputs, as_inputs

Parameters = Literal["trainable", "prunable"]
Vectors = dict[str, Tensor]  # one tensor for each parameter
_Unit = tuple[int, list[int]]  # a sample and some of its outputs
_T = TypeVar("_T")
_SAMPLES = 64  # in one forward pass


@dataclass(frozen=True, eq=False)
class Tangent:
    """The network as a function of the parameters at which its kernel is taken, on N samples with K outputs each."""

    net: Net
    masks: Masks
    inputs: Inputs
    point: Vectors  # the parameters that derivatives are taken for, pruned

    @classmethod
    def of(cls, model: nn.Module, masks: Masks | None, inputs: Any, *, parameters: Parameters) -> Tangent:
        """Raises: ValueError for unknown `parameters`, or if there are none; TypeError for inputs without a batch."""
        if parameters not in ("trainable", "prunable"):
            raise ValueError(
                'parameters must be "trainable" (all with requires_grad) or "prunable" (the weights that masks are '
                f"for), not {parameters!r}"
            )
        net, masks = with_masks(model, masks)
        given = as_inputs(inputs).map(lambda tensor: tensor.detach().to(net.device))
        if not given.tensors() or not given.tensors()[0].dim():
            raise TypeError("inputs must hold a tensor with a batch axis, e.g. inputs=torch.randn(8, 3, 32, 32)")
        names = list(net.prunable)
        if parameters == "trainable":
            own = dict(net.module.named_parameters(remove_duplicate=False))
            names = [name for name in net.params if own[name].requires_grad]
        if not names:
            raise ValueError('no parameter has requires_grad; use parameters="prunable" or make some trainable')
        pruned = masks(net.params)
        return cls(net, masks, given, {name: pruned[name] for name in names})

    @property
    def samples(self) -> int:
        """N."""
        return self.inputs.tensors()[0].shape[0]

    @cached_property
    def values(self) -> Tensor:
        """f(X), (N, K)."""
        with scoring(self.net):
            return torch.cat([self._function(at)(self.point) for at in self._batches(_SAMPLES)])

    @property
    def outputs(self) -> int:
        """K, the number of outputs of one sample."""
        return self.values.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Of the outputs."""
        return self.values.dtype

    @property
    def size(self) -> int:
        """Number of parameters, pruned ones included."""
        return sum(value.numel() for value in self.point.values())

    def gram(self, chunk: int, *, summed: bool) -> Tensor:
        """J J^T from blocks of at most `chunk` rows, (N K, N K); with `summed` over equal outputs, (N, N)."""
        groups = _split(list(range(self.outputs)), chunk)
        if not summed:
            return self._blocks([(sample, group) for sample in range(self.samples) for group in groups], chunk, False)
        parts = [self._blocks([(sample, group) for sample in range(self.samples)], chunk, True) for group in groups]
        return torch.stack(parts).sum(0)

    def squared_norm(self, chunk: int) -> float:
        """Sum of the squares of all entries of J."""
        groups = _split(list(range(self.outputs)), chunk)
        units = [(sample, group) for sample in range(self.samples) for group in groups]
        return sum(float(part.double().square().sum()) for unit in units for part in self._rows([unit]).values())

    def pull(self, cotangents: Tensor, batch: int) -> Vectors:
        """J^T times (N, K), `batch` samples in one pass."""
        total: Vectors = {}
        cotangents = cotangents.to(self.net.device, self.dtype)
        with scoring(self.net):
            for at in self._batches(batch):
                back = vjp(self._function(at), self.point)[1]
                part = back(cotangents[at])[0]
                total = part if not total else {name: total[name] + part[name] for name in part}
        return self.masks(total)

    def push(self, tangents: Vectors, batch: int) -> Tensor:
        """J times a vector over the parameters, (N, K)."""
        tangents, parts = self.masks(tangents), []
        with scoring(self.net):
            for at in self._batches(batch):
                # J^T v is linear in v, so its own derivative the other way round is J; unlike forward derivatives this
                # works for every operation that has second ones
                back = vjp(self._function(at), self.point)[1]
                zero = torch.zeros(at.stop - at.start, self.outputs, dtype=self.dtype, device=self.net.device)
                parts.append(vjp(lambda v, back=back: back(v)[0], zero)[1](tangents)[0])
        return torch.cat(parts)

    def _blocks(self, units: list[_Unit], chunk: int, summed: bool) -> Tensor:
        """Products of all rows with all rows. Blocks are computed again for each block they meet."""
        blocks = _split(units, max(1, chunk // len(units[0][1])))
        table: list[list[Tensor]] = [[] for _ in blocks]
        for first, upper in enumerate(blocks):
            left = self._rows(upper)
            for second in range(len(blocks)):
                if second < first:
                    table[first].append(table[second][first].T)
                    continue
                right = left if second == first else self._rows(blocks[second])
                heights = (len(upper), len(blocks[second])) if summed else (-1, -1)
                products = [_matrix(left[name], heights[0]) @ _matrix(right[name], heights[1]).T for name in left]
                table[first].append(torch.stack(products).sum(0))
        return torch.cat([torch.cat(row, 1) for row in table])

    def _rows(self, units: list[_Unit]) -> dict[str, Tensor]:
        """Rows of J for some outputs of some samples, (rows, parameters) for each parameter tensor."""
        found: dict[str, list[Tensor]] = {name: [] for name in self.point}
        with scoring(self.net):
            # one sample after the other: convolutions with a weight gradient for each sample are slow
            for sample, outputs in units:
                back = vjp(self._function(slice(sample, sample + 1)), self.point)[1]
                unit = torch.eye(self.outputs, dtype=self.dtype, device=self.net.device)[outputs]
                (grads,) = vmap(back)(unit[:, None])
                for name, grad in self.masks(grads).items():
                    found[name].append(grad.flatten(1))
        return {name: torch.cat(parts) for name, parts in found.items()}

    def _batches(self, batch: int) -> list[slice]:
        return [slice(start, min(start + batch, self.samples)) for start in range(0, self.samples, batch)]

    def _function(self, at: slice) -> Callable[[Vectors], Tensor]:
        """Some samples' outputs as a function of the parameters."""
        pruned, samples = self.masks(self.net.params), at.stop - at.start
        inputs = self.inputs.map(lambda tensor: tensor[at])

        def outputs(point: Vectors) -> Tensor:
            # a forward that works on its inputs in place must not change what the next pass sees
            copies = inputs.map(torch.clone)
            with _Recording():
                result = copies.call(lambda *args, **kwargs: self.net({**pruned, **point}, *args, **kwargs))
            output = primary_output(result)
            if not output.dim() or output.shape[0] != samples:
                raise ValueError(
                    f"the model returned an output of shape {tuple(output.shape)} for {samples} samples; a tangent "
                    "kernel needs the batch axis first, in inputs and output"
                )
            return output.reshape(samples, -1)

        return outputs


class _Recording(TorchFunctionMode):
    """`torch.func` records by itself, and refuses a forward that switches recording on for a tensor."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is Tensor.requires_grad_ or func is Tensor.retain_grad:
            return args[0]
        return func(*args, **(kwargs or {}))


def _split(items: list[_T], size: int) -> list[list[_T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _matrix(rows: Tensor, height: int) -> Tensor:
    return rows if height < 0 else rows.reshape(height, -1)


def check_evaluation(model: nn.Module) -> None:
    """Raise ValueError if batch normalization would let the outputs of one sample depend on the others."""
    for name, module in unwrapped(model).named_modules() if isinstance(model, nn.Module) else ():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        if module.training:
            raise ValueError(
                f"batch normalization {name!r} is in training mode, where each output depends on the whole batch, so "
                "that there is no kernel between samples; call model.eval() first, which uses the running statistics"
            )
        if module.running_mean is None:
            raise ValueError(
                f"batch normalization {name!r} has no running statistics, so that each output depends on the whole "
                "batch and there is no kernel between samples; build it with track_running_stats=True"
            )
