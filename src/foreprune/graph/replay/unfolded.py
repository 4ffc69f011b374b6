"""Convolutions of one image as matrix products, for programs that run many times.

With batch 1 a convolution costs what reading its weights costs. torch rearranges them, or unfolds the image in every
pass and asks for fresh memory for the gradient; here the unfolded image of the forward serves the backward too, and the
gradient lies in memory that is used again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from foreprune.graph.replay.tape import Program, Ref, Step

_FORWARD, _BACKWARD = torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default
_PIXELS = 16  # of the output, at most: with more of them, arithmetic outweighs memory


def unfolded(program: Program, values: Sequence[Tensor]) -> Program:
    """The same program with such convolutions; `values` are those of the tape. Only for one image on the CPU, where
    everything is contiguous, and where nothing else convolves that image with that weight."""
    places: dict[tuple[Any, Any], list[int]] = {}
    for index, step in enumerate(program.steps):
        if step.func in (_FORWARD, _BACKWARD):
            image, weight = step.args[:2] if step.func is _FORWARD else step.args[1:3]
            places.setdefault((image, weight), []).append(index)
    steps = list(program.steps)
    for (image, weight), indices in places.items():
        pair = [steps[index] for index in indices]
        if [step.func for step in pair] != [_FORWARD, _BACKWARD] or not _fits(pair, values):
            continue
        stride, padding, dilation = pair[0].args[3:6]
        kernel, size, out = (
            tuple(values[number].shape) for number in (weight.number, image.number, pair[0].made[0] or 0)
        )
        convolution = _UnfoldedConvolution(kernel, size, out, (dilation, padding, stride))
        steps[indices[0]] = replace(pair[0], func=convolution.forward)
        steps[indices[1]] = replace(pair[1], func=convolution.backward)
    return replace(program, steps=tuple(steps))


def _fits(pair: Sequence[Step], values: Sequence[Tensor]) -> bool:
    image, weight, bias, _, _, _, transposed, _, groups = pair[0].args
    if not isinstance(image, Ref) or not isinstance(weight, Ref) or bias is not None or transposed or groups != 1:
        return False
    numbers = [image.number, weight.number, *pair[0].made, *pair[1].made]
    tensors = [values[number] for number in numbers if number is not None]
    if not all(tensor.is_contiguous() and tensor.device.type == "cpu" for tensor in tensors):
        return False
    out = tensors[2]
    return out.dim() == 4 and len(out) == 1 and out.shape[2] * out.shape[3] <= _PIXELS


class _UnfoldedConvolution:
    """One convolution, forwards and backwards."""

    def __init__(
        self, kernel: tuple[int, ...], size: tuple[int, ...], out: tuple[int, ...], window: tuple[Any, Any, Any]
    ) -> None:
        self.kernel, self.size, self.out, self.window = kernel, size, out, window
        self.patches: Tensor | None = None
        self.grad: Tensor | None = None

    def forward(self, image: Tensor, weight: Tensor, *_: Any) -> Tensor:
        self.patches = F.unfold(image, self.kernel[2:], *self.window)[0].t().contiguous()
        return (weight.flatten(1) @ self.patches.t()).view(self.out)

    def backward(self, grad: Tensor, image: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor | None, ...]:
        to_image, to_weight, _ = rest[-1]
        patches, self.patches = self.patches, None
        assert patches is not None
        grad = grad[0].flatten(1)
        for_image = for_weight = None
        if to_image:
            columns = (grad.t() @ weight.flatten(1)).t() if grad.shape[1] < 8 else weight.flatten(1).t() @ grad
            for_image = F.fold(columns[None], self.size[2:], self.kernel[2:], *self.window)
        if to_weight:
            if self.grad is None:
                self.grad = torch.empty_like(weight, memory_format=torch.contiguous_format)
            for_weight = self.grad
            torch.mm(grad, patches, out=for_weight.view(len(weight), -1))
        return for_image, for_weight, None
