"""Where q, k and v lie in a fused projection, read from the libraries' sources: what warnings must speak of."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

# the parameter's name ends like this -> the axis of its output units, and what is in it
ENDINGS = {
    "qkv.weight": (0, "qkv"),
    "qkv.linear.weight": (0, "qkv"),
    "in_proj_weight": (0, "qkv"),
    "c_attn.weight": (1, "qkv"),
    "query_key_value.weight": (0, "qkv"),
    ".kv.weight": (0, "kv"),
    ".kv.linear.weight": (0, "kv"),
}
PER_HEAD = ("GPTNeoXAttention", "BloomAttention")  # q, k and v of the first head, then those of the second, ...


def parts(model: nn.Module, name: str, mask: Tensor) -> dict[str, Tensor]:
    """{"q": ..., "k": ..., "v": ...} of the mask of a fused projection; {} of any other weight."""
    ending = next((ending for ending in ENDINGS if name.endswith(ending)), None)
    if ending is None:
        return {}
    axis, letters = ENDINGS[ending]
    owner: Any = dict(model.named_modules()).get(name.removesuffix(ending).rstrip("."))
    rows = mask.movedim(axis, 0)
    if hasattr(owner, "key_dim") and hasattr(owner, "val_dim"):
        sizes = [owner.val_dim if letter == "v" else owner.key_dim for letter in letters]
        split = rows.unflatten(0, (owner.num_heads, -1)).split(sizes, dim=1)
    elif type(owner).__name__ in PER_HEAD or getattr(owner, "head_first", False):
        heads = getattr(owner, "num_heads", None) or owner.config.num_attention_heads
        split = rows.unflatten(0, (heads, -1)).chunk(len(letters), dim=1)
    elif len(rows) % len(letters):  # one key and value for all heads
        return {}
    else:
        split = rows.chunk(len(letters))
    return dict(zip(letters, split, strict=True))
