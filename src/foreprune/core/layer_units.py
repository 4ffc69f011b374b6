"""Units of a layer, its neurons or channels: which of them each entry of a weight feeds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from foreprune.core.blocks import Block
from foreprune.core.targets import unwrapped

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def is_conv1d(layer: nn.Module) -> bool:
    """Whether it is transformers' Conv1D (GPT-2), whose weights are (in, out)."""
    # by name: importing transformers to ask would cost seconds
    return type(layer).__name__ == "Conv1D" and hasattr(layer, "nf")


def is_transposed(layer: nn.Module) -> bool:
    """Whether it is a transposed convolution, whose weights are (in, out / groups, ...)."""
    return isinstance(layer, _TRANSPOSED)


def owner_of(module: nn.Module, name: str) -> nn.Module:
    """The layer that the parameter `name` belongs to, also where a parametrization holds it."""
    layer, parametrized, _ = f".{name}".partition(".parametrizations.")
    return module.get_submodule((layer if parametrized else layer.rpartition(".")[0]).lstrip("."))


def is_stack(layer: nn.Module, shape: Sequence[int]) -> bool:
    """Whether a parameter of `layer` of this shape, (experts, ., .), is the weights of all experts of a mixture: the
    type's name says "expert", or it has as many experts as the tensor has entries on axis 0. A convolution or bilinear
    layer is none, whatever it is called: its three axes are its own."""
    if len(shape) != 3 or min(shape) < 2 or isinstance(layer, (_ConvNd, nn.Bilinear)):
        return False
    counts = [getattr(layer, name, None) for name in ("num_experts", "num_local_experts", "n_experts")]
    return shape[0] in counts or "expert" in type(layer).__name__.lower()


def stack_is_transposed(layer: nn.Module) -> bool:
    """Whether stacked experts hold (experts, in, out), as those of gpt-oss and Llama 4, and not (experts, out, in)."""
    # transformers says so of most of its experts
    return bool(getattr(layer, "is_transposed", type(layer).__name__ == "Llama4TextExperts"))


def unit_index(module: nn.Module | None, name: str, shape: tuple[int, ...]) -> Tensor:
    """Number of the unit that each entry of the weight `name` feeds, int64, in a shape that broadcasts to `shape`.

    Told by the type of the layer, so that it is known for every network: axis 0 counts units, except in transposed
    convolutions, whose weights are (in, out / groups, ...) and whose output channels are numbered group after group,
    and in transformers' Conv1D, whose weights are (in, out). Each of several stacked experts has units of its own.
    Without a module axis 0 counts units.
    """
    owner = None if module is None else owner_of(unwrapped(module), name)
    ones = (1,) * (len(shape) - 2)
    if isinstance(owner, _TRANSPOSED) and len(shape) > 2:
        inputs, outputs = shape[:2]
        group = torch.arange(inputs) // max(inputs // owner.groups, 1)
        return (group[:, None] * outputs + torch.arange(outputs)).view(inputs, outputs, *ones)
    if owner is not None and is_conv1d(owner) and len(shape) == 2:
        return torch.arange(shape[1]).view(1, shape[1])
    if owner is not None and is_stack(owner, shape):
        experts, units = shape[0], shape[2] if stack_is_transposed(owner) else shape[1]
        index = torch.arange(experts * units)
        return index.view(experts, 1, units) if stack_is_transposed(owner) else index.view(experts, units, 1)
    if not shape:
        return torch.zeros((), dtype=torch.int64)
    return torch.arange(shape[0]).view(shape[0], *(1,) * (len(shape) - 1))


def incoming_of(module: nn.Module, block: Block, values: Tensor) -> Tensor:
    """As `incoming`, for the units of one block; `values` are of the shape of the whole tensor."""
    if not block.spans:
        return incoming(module, block.parameter, values)
    axis = block.axis
    if len(block.shape) < len(block.tensor):  # an expert is a layer by itself
        axis = int(stack_is_transposed(owner_of(unwrapped(module), block.parameter)))
    part = values[block.index].reshape(block.shape)
    rest = [other for other in range(part.dim()) if other != axis]
    return part.sum(rest) if rest else part.long()


def incoming(module: nn.Module, name: str, values: Tensor) -> Tensor:
    """Sum of `values`, of the shape of the weight `name`, over the incoming weights of each unit: (units,), int64."""
    index = unit_index(module, name, tuple(values.shape))
    rest = [axis for axis in range(values.dim()) if index.shape[axis] == 1 and values.shape[axis] != 1]
    sums = values.sum(rest, keepdim=True) if rest else values.long()
    total = torch.zeros(int(index.max()) + 1 if index.numel() else 0, dtype=torch.int64, device=values.device)
    return total.index_add_(0, index.flatten().to(values.device), sums.flatten())
