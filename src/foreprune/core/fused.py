"""Which weights hold several layers in one tensor, and where: fused projections, gates of recurrent layers, experts.

Told by the type of the layer, or by its name where that is certain enough. Rows that are laid out head by head are
split only for the classes listed here; a layer of unknown layout stays one block.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from foreprune.core.attention import role_of
from foreprune.core.blocks import Block, Labels, split
from foreprune.core.layer_units import is_conv1d, is_stack

_GATES = {
    nn.LSTM: "ifgo",  # input, forget, cell, output
    nn.GRU: "rzn",  # reset, update, new
    nn.LSTMCell: "ifgo",
    nn.GRUCell: "rzn",
}
# layers called so hold queries, keys and values one after the other, as `chunk(3)` takes them, or keys and values
_FUSED = re.compile(
    r"(?:(?:to|w|in_proj|proj|attn|fc|lin|linear)_?)?(qkv|kv)(?:_?(?:proj|projection|lin|linear|layer|net|conv|fc))?"
    r"|c_attn",
    re.IGNORECASE,
)
# class -> its layer that holds q, k and v of one head, then of the next
_BY_HEAD = {
    **dict.fromkeys(
        (f"{model}Attention" for model in ("GPTNeoX", "GPTNeoXJapanese", "Bloom", "Persimmon")), "query_key_value"
    ),
    "DisentangledSelfAttention": "in_proj",  # DeBERTa's
}
# qkv_proj: queries of all heads, then keys and values of perhaps fewer
_GROUPED = frozenset(f"{model}Attention" for model in ("Phi3", "Phi4Multimodal"))
_OTHER_LAYOUT = ("GPTBigCode", "MiniMax")


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
    return _projection(owner, shape, name=name, parent=parent)


def _projection(layer: nn.Module, shape: tuple[int, ...], *, name: str, parent: nn.Module) -> tuple[int, Labels] | None:
    """Of a linear layer or convolution called `name` in `parent`, by what is known of the layouts in use."""
    kind, rows = type(parent).__name__, shape[0]
    config = getattr(parent, "config", None)
    heads = getattr(config, "num_attention_heads", None) or getattr(parent, "num_heads", None)
    heads = heads or getattr(parent, "num_attention_heads", None)
    if isinstance(heads, int) and heads > 0:
        if _BY_HEAD.get(kind) == name or (name == "qkv" and getattr(parent, "head_first", False)):
            return _in_turns(rows, heads, {"q": 1, "k": 1, "v": 1})
        if name == "qkv" and hasattr(parent, "key_dim") and hasattr(parent, "val_dim"):  # TinyViT's
            return _in_turns(rows, heads, {"q": parent.key_dim, "k": parent.key_dim, "v": parent.val_dim})
        if name == "qkv_proj" and kind in _GROUPED:
            return _grouped(rows, heads, getattr(config, "num_key_value_heads", None) or heads)
        if name == "query_key_value" and kind == "FalconAttention":
            return _falcon(rows, heads, parent)
        if name == "c_attn" and kind == "GPTBigCodeAttention":
            shared = getattr(parent, "multi_query", None)
            return None if shared is None else _one_key_or_each(rows, heads, one=shared)
    if name == "qkv_proj" and kind == "CodeGenAttention":  # laid out for four cores
        return _in_turns(rows, 4, {"q": 1, "v": 1, "k": 1})
    found = _FUSED.fullmatch(name)
    if found is None or _head_by_head(parent):
        return None
    labels = (found[1] or "qkv").lower()
    fits = rows in {len(labels) * width for width in _widths(layer, shape, parent)}
    return (0, _equal(labels, rows)) if fits or (labels == "kv" and _is_shared(rows, parent)) else None


def _widths(layer: nn.Module, shape: tuple[int, ...], parent: nn.Module) -> set[int]:
    """How wide queries, keys and values may be: as the input, or as what another layer of the same attention, such as
    the one behind it, takes."""
    others = [one for one in parent.modules() if one is not layer]
    inputs = (getattr(one, "in_features", getattr(one, "in_channels", None)) for one in others)
    known = (shape[1], getattr(parent, "dim_out", None), *inputs)  # Hiera's attention changes the width
    return {width for width in known if isinstance(width, int)}


def _is_shared(rows: int, parent: nn.Module) -> bool:
    """Whether so many rows are keys and values of fewer heads than the queries, which a layer beside them makes."""
    queries = [layer for name, layer in parent.named_children() if role_of(name) == "q"]
    widths = [getattr(layer, "out_features", getattr(layer, "out_channels", None)) for layer in queries]
    return any(isinstance(width, int) and rows % 2 == 0 and width % (rows // 2) == 0 for width in widths)


def _falcon(rows: int, heads: int, parent: nn.Module) -> tuple[int, Labels] | None:
    """Falcon's: groups of queries with their key and value; all queries, one key and one value; or head by head."""
    if getattr(parent, "new_decoder_architecture", False):
        shared = getattr(parent, "num_kv_heads", None)
        if not isinstance(shared, int) or heads % shared:
            return None
        return _in_turns(rows, shared, {"q": heads // shared, "k": 1, "v": 1})
    return _one_key_or_each(rows, heads, one=bool(getattr(parent, "multi_query", False)))


def _one_key_or_each(rows: int, heads: int, *, one: bool) -> tuple[int, Labels] | None:
    """All queries, then one key and one value; or head by head."""
    return _grouped(rows, heads, 1) if one else _in_turns(rows, heads, {"q": 1, "k": 1, "v": 1})


def _grouped(rows: int, heads: int, shared: int) -> tuple[int, Labels] | None:
    """Queries of all heads, then keys and values of perhaps fewer; None where they do not fit."""
    return _in_turns(rows, 1, {"q": heads, "k": shared, "v": shared})


def _in_turns(rows: int, turns: int, shares: Mapping[str, Any]) -> tuple[int, Labels] | None:
    """Label -> share of the rows of one turn (a head, say), then of the next; None where they do not fit."""
    if any(not isinstance(share, int) or share < 1 for share in shares.values()):
        return None
    unit, rest = divmod(rows, turns * sum(shares.values()))
    if rest or not unit:
        return None
    ends = [0, *(unit * share for share in itertools.accumulate(shares.values()))]
    starts = range(0, rows, ends[-1])
    return 0, {
        label: tuple((start + ends[at], start + ends[at + 1]) for start in starts) for at, label in enumerate(shares)
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
