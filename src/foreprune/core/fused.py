"""Which weights hold several layers in one tensor, and where: fused projections, gates of recurrent layers, experts.

Told by the type of the layer, or by its name where that is certain enough. Rows that are laid out head by head are
split only for the classes listed here; a layer of unknown layout stays one block.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from torch import nn

from foreprune.core.blocks import Block, Labels, split
from foreprune.core.layer_units import is_conv1d, is_stack

_GATES = {
    nn.LSTM: "ifgo",  # input, forget, cell, output
    nn.GRU: "rzn",  # reset, update, new
    nn.LSTMCell: "ifgo",
    nn.GRUCell: "rzn",
}
_FUSED = {
    **dict.fromkeys(("qkv", "to_qkv", "Wqkv", "c_attn"), "qkv"),  # one after the other, as `chunk(3)` takes them
    **dict.fromkeys(("kv", "to_kv"), "kv"),
}
# query_key_value: q, k and v of one head, then of the next
_BY_HEAD = frozenset(f"{model}Attention" for model in ("GPTNeoX", "GPTNeoXJapanese", "Bloom", "Persimmon"))
# qkv_proj: queries of all heads, then keys and values of perhaps fewer
_GROUPED = frozenset(f"{model}Attention" for model in ("Phi3", "Phi4Multimodal"))
_OTHER_LAYOUT = ("GPTBigCode",)


def fused_blocks(module: nn.Module, slots: Mapping[str, str]) -> dict[str, tuple[Block, ...]]:
    """Parameter -> its blocks, for every tensor of `module` that is known to hold several layers.

    `slots` maps each parameter slot to the first name of its tensor.
    """
    table: dict[str, tuple[Block, ...]] = {}
    parts = dict(module.named_modules())
    for prefix, owner in parts.items():
        before, _, name = prefix.rpartition(".")
        parent = parts.get(before) if prefix else None
        for attribute, parameter in owner._parameters.items():
            slot = f"{prefix}.{attribute}" if prefix else attribute
            if parameter is None or slot not in slots or slots[slot] in table or parameter.dim() < 2:
                continue
            found = _layout(owner, attribute, tuple(parameter.shape), name=name, parent=parent)
            if found is not None:
                axis, labels = found
                table[slots[slot]] = split(slots[slot], parameter.shape, axis, labels)
    return table


def _layout(
    owner: nn.Module, attribute: str, shape: tuple[int, ...], *, name: str, parent: nn.Module | None
) -> tuple[int, Labels] | None:
    """Axis and label -> rows, or None for a tensor that is one layer."""
    if attribute == "in_proj_weight" and len(shape) == 2 and shape[0] == 3 * shape[1]:  # nn.MultiheadAttention's
        return 0, _equal("qkv", shape[0])
    for kind, gates in _GATES.items():
        if isinstance(owner, kind) and attribute.startswith(("weight_ih", "weight_hh")):
            return 0, _equal(gates, shape[0])
    if is_stack(owner, shape):
        return 0, {str(expert): ((expert, expert + 1),) for expert in range(shape[0])}
    if attribute != "weight":
        return None
    if is_conv1d(owner):
        inputs, outputs = shape
        labels = {2: "kv", 3: "qkv"}.get(outputs // inputs if outputs % inputs == 0 else 0)
        return (1, _equal(labels, outputs)) if name == "c_attn" and labels else None
    if not isinstance(owner, (nn.Linear, nn.Conv1d, nn.Conv2d)) or parent is None:
        return None
    return _projection(shape, name=name, parent=parent)


def _projection(shape: tuple[int, ...], *, name: str, parent: nn.Module) -> tuple[int, Labels] | None:
    """Of a linear layer or convolution called `name` in `parent`, by what is known of the layouts in use."""
    kind = type(parent).__name__
    if name in _FUSED and not _head_by_head(parent):
        widths = (shape[1], getattr(parent, "dim_out", None))  # Hiera's attention changes the width
        return (0, _equal(_FUSED[name], shape[0])) if shape[0] in _times(len(_FUSED[name]), widths) else None
    config = getattr(parent, "config", None)
    heads = getattr(config, "num_attention_heads", None) or getattr(parent, "num_heads", None)
    if not isinstance(heads, int) or heads < 1:
        return None
    if (name == "query_key_value" and kind in _BY_HEAD) or (name == "qkv" and getattr(parent, "head_first", False)):
        return _each_head(shape[0], heads, (1, 1, 1))
    if name == "qkv" and hasattr(parent, "key_dim") and hasattr(parent, "val_dim"):  # TinyViT's
        return _each_head(shape[0], heads, (parent.key_dim, parent.key_dim, parent.val_dim))
    if name == "qkv_proj" and kind in _GROUPED:
        shared = getattr(config, "num_key_value_heads", None) or heads
        rows, rest = divmod(shape[0], heads + 2 * shared)
        if not rest:
            ends = (0, heads * rows, (heads + shared) * rows, shape[0])
            return 0, {label: ((ends[at], ends[at + 1]),) for at, label in enumerate("qkv")}
    return None


def _times(parts: int, widths: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(parts * width for width in widths if isinstance(width, int))


def _each_head(rows: int, heads: int, shares: tuple[Any, Any, Any]) -> tuple[int, Labels] | None:
    """Queries, keys and values of one head, then of the next, in these shares; None where they do not fit."""
    if any(not isinstance(share, int) or share < 1 for share in shares) or rows % (heads * sum(shares)):
        return None
    unit = rows // (heads * sum(shares))
    ends = [0, *(unit * share for share in itertools.accumulate(shares))]
    starts = range(0, rows, ends[-1])
    return 0, {
        label: tuple((start + ends[at], start + ends[at + 1]) for start in starts) for at, label in enumerate("qkv")
    }


def _head_by_head(parent: nn.Module) -> bool:
    """Whether attention lays out its fused rows head by head: MaxViT of timm, the LeViT family, GPT-BigCode."""
    return bool(
        getattr(parent, "head_first", False)
        or hasattr(parent, "key_dim")
        or type(parent).__name__.startswith(_OTHER_LAYOUT)
    )


def _equal(labels: str, rows: int) -> Labels:
    """Consecutive parts of the same size; `labels` has one letter for each."""
    size = rows // len(labels)
    return {label: ((at * size, (at + 1) * size),) for at, label in enumerate(labels)}
