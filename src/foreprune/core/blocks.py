"""`Block`: what is pruned as one, a weight or a named range of it, such as the queries of a fused projection. No torch.

Layer budgets, local pruning, warnings and reports count blocks. A tensor that is not split is one block of its name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Spans = tuple[tuple[int, int], ...]
Labels = Mapping[str, Spans]


@dataclass(frozen=True)
class Block:
    """A prunable part of one tensor.

    Attributes:
        name: the parameter's, with the part's label in brackets where it is split: "attn.qkv.weight[q]".
        parameter: the name of the tensor.
        tensor: its shape.
        axis: the axis along which it is split.
        spans: (start, stop) of the rows along `axis` that are the block's, in order; empty: the whole tensor.
    """

    name: str
    parameter: str
    tensor: tuple[int, ...]
    axis: int = 0
    spans: Spans = ()

    @property
    def label(self) -> str:
        """What stands in brackets; empty for a whole tensor."""
        return self.name[len(self.parameter) + 1 : -1]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the layer it stands for: a block of one row of a stack, such as an expert, has one axis less."""
        if not self.spans:
            return self.tensor
        rows = sum(stop - start for start, stop in self.spans)
        before, after = self.tensor[: self.axis], self.tensor[self.axis + 1 :]
        return (*before, *after) if rows == 1 and len(self.tensor) > 2 else (*before, rows, *after)

    @cached_property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @cached_property
    def index(self) -> tuple[Any, ...]:
        """What picks it out of a NumPy array or a torch tensor of the shape `tensor`; a view if it has one span."""
        if not self.spans:
            return (...,)
        before = (slice(None),) * self.axis
        if len(self.spans) == 1:
            return (*before, slice(*self.spans[0]))
        return (*before, np.concatenate([np.arange(*span) for span in self.spans]))


Table = Mapping[str, tuple[Block, ...]]


def split(parameter: str, shape: Sequence[int], axis: int, labels: Labels) -> tuple[Block, ...]:
    """The blocks of one tensor; `labels`: label -> rows along `axis`."""
    tensor = tuple(shape)
    return tuple(Block(f"{parameter}[{label}]", parameter, tensor, axis, spans) for label, spans in labels.items())


def whole(parameter: str, shape: Sequence[int]) -> Block:
    """A tensor that is not split."""
    return Block(parameter, parameter, tuple(shape))


def by_parameter(blocks: Iterable[Block]) -> dict[str, tuple[Block, ...]]:
    """Parameter -> its blocks, in order, of those that are split; whole tensors are left out."""
    table: dict[str, tuple[Block, ...]] = {}
    for block in blocks:
        if block.spans:
            table[block.parameter] = (*table.get(block.parameter, ()), block)
    return table


def check_table(table: Table, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError that names the first tensor whose blocks do not lie in it side by side."""
    for parameter, blocks in table.items():
        if parameter not in shapes:
            raise ValueError(f"there are blocks of {parameter!r}, which has no mask")
        shape = shapes[parameter]
        if len({block.name for block in blocks}) < len(blocks):
            raise ValueError(f"two blocks of {parameter!r} have one name")
        if not blocks or len({block.axis for block in blocks}) > 1 or not 0 <= blocks[0].axis < len(shape):
            raise ValueError(f"the blocks of {parameter!r} are not split along one of its {len(shape)} axes")
        spans = sorted(span for block in blocks for span in block.spans)
        ends = [0, *(stop for _, stop in spans)]
        if (
            any(block.tensor != shape or not block.spans for block in blocks)
            or any(start < end or start >= stop for (start, stop), end in zip(spans, ends, strict=False))
            or ends[-1] > shape[blocks[0].axis]
        ):
            raise ValueError(f"the blocks of {parameter!r} overlap, or do not lie in its shape {shape}")


def covers(blocks: Sequence[Block]) -> bool:
    """Whether the blocks of one tensor leave none of it out."""
    return sum(block.size for block in blocks) == math.prod(blocks[0].tensor)


def to_plain(table: Table) -> dict[str, list[Any]]:
    """A table as plain values for JSON: parameter -> [[label, axis, [[start, stop], ...]], ...]."""
    return {
        name: [[block.label, block.axis, [list(span) for span in block.spans]] for block in blocks]
        for name, blocks in table.items()
    }


def from_plain(plain: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[Block, ...]]:
    """What `to_plain` has written, checked.

    Raises:
        ValueError: it is something else, or the blocks do not lie in tensors of these shapes.
    """
    table: dict[str, tuple[Block, ...]] = {}
    try:
        for name, rows in plain.items():
            blocks = []
            for label, axis, spans in rows:
                numbers = [axis, *(end for span in spans for end in span)]
                if not isinstance(label, str) or any(type(number) is not int or number < 0 for number in numbers):
                    raise ValueError("labels must be strings, and axes and rows whole numbers")
                pairs = tuple((start, stop) for start, stop in spans)
                blocks.append(Block(f"{name}[{label}]", name, shapes[name], axis, pairs))
            table[name] = tuple(blocks)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(str(error)) from None
    check_table(table, shapes)
    return table
