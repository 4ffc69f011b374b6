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

from foreprune.graph.tape import Program, Ref

_aten = torch.ops.aten
_PIXELS = 16  # of the output, at most: with more of them, arithmetic outweighs memory


def unfolded(program: Program, shapes: Sequence[tuple[int, ...]]) -> Program:
    """The same program with such convolutions; `shapes` are those of the values. Only for one image on the CPU."""
    found: dict[tuple[Any, Any], _Convolution] = {}
    steps = []
    for step in program.steps:
        if step.func is _aten.convolution.default and _fits(step.args, shapes, step.made[0]):
            image, weight, _, stride, padding, dilation, *_ = step.args
            kernel, size = shapes[weight.number], shapes[image.number]
            convolution = _Convolution(kernel, size, shapes[step.made[0]], (dilation, padding, stride))  # type: ignore[index]
            found[image, weight] = convolution
            step = replace(step, func=convolution.forward)
        elif step.func is _aten.convolution_backward.default and tuple(step.args[1:3]) in found:
            step = replace(step, func=found[step.args[1], step.args[2]].backward)
        steps.append(step)
    return replace(program, steps=tuple(steps))


def _fits(args: tuple[Any, ...], shapes: Sequence[tuple[int, ...]], made: int | None) -> bool:
    image, weight, bias, _, _, _, transposed, _, groups = args
    if not isinstance(image, Ref) or not isinstance(weight, Ref) or bias is not None or transposed or groups != 1:
        return False
    assert made is not None
    size, out = shapes[image.number], shapes[made]
    return len(size) == 4 and size[0] == 1 and out[2] * out[3] <= _PIXELS


class _Convolution:
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
