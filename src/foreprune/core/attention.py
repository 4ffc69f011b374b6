"""Which blocks only make attention scores: queries and keys. Told by their names. No torch.

At initialization attention is nearly uniform, so their gradients, and with them the scores of data-driven methods, are
small: by these scores attention is the first thing to go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from foreprune.core.blocks import Block

_BEFORE = r"(?:(?:to|w|(?:in_)?proj|project|(?:self_)?attn|mha|fc|lin|linear|conv|pos|relative)_?)?"
_AFTER = (
    r"(?:_?(?:a_|b_|content_|pos_)?(?:proj|projection|lin|linear|layer|net|conv|fc|head|transform|global|proj_weight))?"
)
_NAMES = {
    "q": re.compile(rf"{_BEFORE}(?:qs?|query|queries){_AFTER}", re.IGNORECASE),
    "k": re.compile(rf"{_BEFORE}(?:ks?|keys?){_AFTER}", re.IGNORECASE),
}


def role_of(name: str) -> str | None:
    """ "q" or "k" for what layers that make queries or keys are usually called, else nothing."""
    return next((role for role, names in _NAMES.items() if names.fullmatch(name)), None)


def score_blocks(blocks: Iterable[Block]) -> frozenset[str]:
    """Names of the blocks that are queries or keys.

    Those are the parts "q" and "k" of a fused projection, and separate layers by the usual names ("query" and "key",
    "q_proj" and "k_proj", "to_q" and "to_k", "W_q" and "W_k", ...) where one module has both.
    """
    fused, layers = set[str](), dict[str, dict[str, list[str]]]()
    for block in blocks:
        slot = block.parameter.removesuffix(".weight")
        module, _, name = slot.rpartition(".")
        if block.spans:
            if block.label in _NAMES:
                fused.add(block.name)
                layers.setdefault(module, {}).setdefault(block.label, [])
        elif role := role_of(name):
            layers.setdefault(module, {}).setdefault(role, []).append(block.name)
    found = (names for roles in layers.values() if len(roles) == len(_NAMES) for names in roles.values())
    return frozenset(fused.union(*found))
