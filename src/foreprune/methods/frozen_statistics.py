"""Batch normalization by the statistics of a first pass, which count as constants in both passes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_FEW_PIXELS = 16  # on a CPU, maps larger than this are convolved faster with their channels last in memory


class FrozenStatistics(TorchFunctionMode):
    """Batch normalization in inference form by the statistics of the batch, which count as constants.

    They are those of the tensors that come by, noted in `statistics`, or those `known` from another pass.
    """

    def __init__(self, known: Iterable[tuple[Tensor, Tensor]] | None = None) -> None:
        super().__init__()
        self.statistics: list[tuple[Tensor, Tensor]] = []  # mean and variance of each normalization in turn
        self.known = None if known is None else iter(known)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            bound = inspect.signature(F.batch_norm).bind(*args, **kwargs)
            bound.apply_defaults()
            given = bound.arguments
            return self._normalize(given["input"], given["weight"], given["bias"], given["eps"])
        if func is F.conv2d and args and args[0].is_cpu and args[0].shape[-2:].numel() <= _FEW_PIXELS:
            args = (args[0].contiguous(), *args[1:])
        elif func is Tensor.view and not args[0].is_contiguous():
            try:
                return func(*args, **kwargs)
            except RuntimeError:  # it may be possible with the channels first, as the user's inputs have them
                args = (args[0].contiguous(), *args[1:])
        return func(*args, **kwargs)

    def _normalize(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        if self.known is None:
            mean, variance = _moments(x.detach())
            self.statistics.append((mean, variance))
        else:
            noted = next(self.known, None)
            if noted is None or noted[0].shape[0] != x.shape[1]:
                raise ValueError(
                    "the network calls its batch normalizations in another order when its weights are perturbed "
                    "(control flow that depends on activations), so their statistics cannot be shared; use 'synflow'"
                )
            mean, variance = noted
        scale = (variance + eps).rsqrt()
        scale = scale if weight is None else scale * weight
        shift = -mean * scale
        shift = shift if bias is None else shift + bias
        shape = (1, -1) + (1,) * (x.dim() - 2)
        # one pass, of which the backward needs the scale only, so the activations need not be kept
        return torch.addcmul(shift.view(shape).to(x.dtype), x, scale.view(shape).to(x.dtype))


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of each channel."""
    count = math.prod(x.shape) // max(x.shape[1], 1)
    if count < 2:
        raise ValueError(
            "batch normalization cannot take statistics of one value for each channel; use larger "
            "samples= and batch_size="
        )
    if x.device.type == "cpu":  # a tenth of the time of var_mean there
        mean, variance = torch.batch_norm_update_stats(x, None, None, 0.0)
        return mean, variance * (count / (count - 1))
    variance, mean = torch.var_mean(x, [axis for axis in range(x.dim()) if axis != 1])
    return mean, variance
