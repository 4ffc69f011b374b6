"""Convolution and batch normalization whose second derivatives cost what their arithmetic costs.

Differentiated twice, torch's own convolution gets the gradient of its weight from a convolution with a kernel as large
as the image, and its batch normalization is spelled out in a dozen elementwise operations that keep all they touch.
Here both are written by hand from the primitives of the first derivatives. Values and derivatives are those of torch up
to rounding; there are two of them, and asking for a third raises. What torch cannot differentiate twice at all is
composed of what it can (`composed.py`). Whatever is not covered runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from foreprune.methods.composed import composed

_CONVOLUTIONS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
_aten = torch.ops.aten


class _Shape(NamedTuple):
    """Stride, padding and dilation of each axis, and the number of groups."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


class TwiceDifferentiable(TorchFunctionMode):
    """Inside it, convolutions and batch normalizations in training mode are cheap to differentiate twice, and a few
    functions possible."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        found = None
        if torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active():
            if func in _CONVOLUTIONS:
                found = _convolution(*args, axes=_CONVOLUTIONS[func], **kwargs)
            elif func is F.batch_norm:
                found = _batch_norm(*args, **kwargs)
            elif (other := composed(func)) is not None:
                found = other(*args, **kwargs)
        return func(*args, **kwargs) if found is None else found


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    axes: int,
) -> Tensor | None:
    """The convolution, or None if it is not one of those that `_Convolution` covers."""
    if isinstance(padding, str) or input.dim() != axes + 2 or not weight.is_floating_point():
        return None
    if any(type(t) not in (Tensor, torch.nn.Parameter) or t.dtype != weight.dtype for t in (input, weight)):
        return None
    if bias is not None and (bias.requires_grad or bias.dtype != weight.dtype):
        return None
    shape = _Shape(_each(stride, axes), _each(padding, axes), _each(dilation, axes), groups)
    result = _Convolution.apply(input, weight, bias, shape)  # type: ignore[no-untyped-call]
    assert isinstance(result, Tensor)
    return result


def _each(value: Any, axes: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Iterable) else (value,)
    return values * axes if len(values) == 1 else values


def _forward(input: Tensor, weight: Tensor, bias: Tensor | None, shape: _Shape) -> Tensor:
    result: Tensor = _aten.convolution(
        input, weight, bias, shape.stride, shape.padding, shape.dilation, False, [0] * len(shape.stride), shape.groups
    )
    return result


def _backward(
    grad: Tensor, input: Tensor, weight: Tensor, shape: _Shape, *, want: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """What `grad` of the output is for the input and for the weight, as far as wanted. Only the sizes of `input` matter
    for the first, and of `weight` for the second."""
    found = _aten.convolution_backward(
        grad,
        input,
        weight,
        None,
        shape.stride,
        shape.padding,
        shape.dilation,
        False,
        [0] * len(shape.stride),
        shape.groups,
        [*want, False],
    )
    return found[0], found[1]


class _Convolution(Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, shape: _Shape) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.shape = shape
        return _forward(input, weight, bias, shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        want = (ctx.needs_input_grad[0], ctx.needs_input_grad[1])
        found = _ConvolutionBackward.apply(  # type: ignore[no-untyped-call]
            grad, *ctx.saved_tensors, ctx.shape, want
        )
        return found[0], found[1], None, None


class _ConvolutionBackward(Function):
    """(grad, input, weight) -> their convolution backwards; linear in grad and in one of the others each."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, input: Tensor, weight: Tensor, shape: _Shape, want: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.save_for_backward(grad, input, weight)
        ctx.shape = shape
        ctx.set_materialize_grads(False)
        return _backward(grad, input, weight, shape, want=want)

    @staticmethod
    def backward(ctx: Any, to_input: Tensor | None, to_weight: Tensor | None) -> tuple[Tensor | None, ...]:
        _refuse_a_third()
        grad, input, weight = ctx.saved_tensors
        shape: _Shape = ctx.shape
        wants = ctx.needs_input_grad
        for_grad = for_input = for_weight = None
        if wants[0]:
            for to, by in ((to_input, weight), (input, to_weight)):
                if to is not None and by is not None:
                    term = _forward(to, by, None, shape)
                    for_grad = term if for_grad is None else for_grad.add_(term)
        if wants[1] and to_weight is not None:
            for_input, _ = _backward(grad, input, to_weight, shape, want=(True, False))
        if wants[2] and to_input is not None:
            _, for_weight = _backward(grad, to_input, weight, shape, want=(False, True))
        return for_grad, for_input, for_weight, None, None


def _refuse_a_third() -> None:
    """Called in the second backward, where gradients are recorded only if its result is to be differentiated too."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "TwiceDifferentiable gives first and second derivatives, and this asks for a third; take the second with "
            "create_graph=False, or run the forward outside of TwiceDifferentiable"
        )


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    """Batch normalization with the statistics of the batch, or None if it is not one that `_BatchNorm` covers."""
    scale = [parameter for parameter in (weight, bias) if parameter is not None]
    plain = type(input) is Tensor and all(t.dtype == input.dtype and not t.requires_grad for t in scale)
    if not training or not plain or input.dim() < 2 or input.numel() <= input.shape[1]:
        return None
    found = _BatchNorm.apply(  # type: ignore[no-untyped-call]
        input, weight, bias, running_mean, running_var, momentum, eps
    )
    assert isinstance(found, Tensor)
    return found


class _BatchNorm(Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
    ) -> Tensor:
        result, mean, scale = torch.native_batch_norm(
            input, weight, bias, running_mean, running_var, True, momentum, eps
        )
        ctx.save_for_backward(input, weight, mean, scale)
        ctx.eps = eps
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        found = _BatchNormBackward.apply(grad, *ctx.saved_tensors, ctx.eps)  # type: ignore[no-untyped-call]
        return found, None, None, None, None, None, None


def _normalized_back(
    grad: Tensor, input: Tensor, weight: Tensor | None, mean: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """gamma s P(grad) and, per channel, the mean of grad times the normalized input.

    s is one over the standard deviation, and P takes from a vector its mean and its part along the normalized input.
    """
    found, along, _ = _aten.native_batch_norm_backward(
        grad, input, weight, None, None, mean, scale, True, eps, [True, True, False]
    )
    return found, along * (input.shape[1] / input.numel())


def _mean_product(a: Tensor, b: Tensor, *, like: Tensor) -> Tensor:
    """The mean of a times b per channel, by the kernel that sums it up without holding the products."""
    zeros, ones = torch.zeros_like(like), torch.ones_like(like)
    _, total, _ = _aten.native_batch_norm_backward(a, b, None, None, None, zeros, ones, True, 0.0, [False, True, False])
    means: Tensor = total * (a.shape[1] / a.numel())
    return means


class _BatchNormBackward(Function):
    """(grad, input) -> gamma s P(grad). Its derivative along v is gamma s P(v) for grad, since P is symmetric, and for
    the input, x being the normalized one and means taken per channel,

        -s (mean(v r) x + mean(grad x) gamma s P(v) + mean(v x) r),    r = gamma s P(grad)."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, input: Tensor, weight: Tensor | None, mean: Tensor, scale: Tensor, eps: float
    ) -> Tensor:
        result, along = _normalized_back(grad, input, weight, mean, scale, eps)
        ctx.save_for_backward(input, weight, mean, scale, result, along)
        ctx.eps = eps
        return result

    @staticmethod
    def backward(ctx: Any, vector: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_a_third()
        input, weight, mean, scale, result, along_grad = ctx.saved_tensors
        for_grad, along_vector = _normalized_back(vector, input, weight, mean, scale, ctx.eps)
        if not ctx.needs_input_grad[1]:
            return for_grad, None, None, None, None, None
        each = (1, -1, *[1] * (input.dim() - 2))
        product = _mean_product(vector, result, like=mean) * scale.square()
        for_input = input * -product.view(each)
        for_input += (product * mean).view(each)
        for_input.addcmul_(for_grad, (-scale * along_grad).view(each))
        for_input.addcmul_(result, (-scale * along_vector).view(each))
        return for_grad, for_input, None, None, None, None
