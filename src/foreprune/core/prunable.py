"""Which weights may be pruned: the default rule and the ways a user can change it.

Density and sparsity count these "prunable" weights only; what is left out (biases, normalization, embeddings) stays
whole. `foreprune prune` prints their share of all parameters.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping

from torch import nn

from foreprune.core.blocks import Block, Table, whole
from foreprune.core.fused import fused_blocks
from foreprune.core.layer_weights import EMBEDDINGS, layer_weights

Predicate = Callable[[str, nn.Parameter], bool]
Prunable = str | type[nn.Module] | Iterable[str | type[nn.Module]] | Predicate | None


def default_prunable(module: nn.Module, slots: Mapping[str, str]) -> tuple[str, ...]:
    """Weights of linear and convolution layers (bilinear and transposed ones too), MultiheadAttention's projections,
    GPT-2's Conv1D, kernels of recurrent layers and cells, and stacked experts: `layer_weights`.

    Never biases, embeddings or normalization. `slots` maps each parameter slot to the first name of its tensor; a tied
    weight counts once, under that name, and not at all if it is the table of an embedding. Where a parametrization
    computes the weight, the parameter that holds it counts; layers without such a one are left out.
    """
    stored = [weight.stored for weight in layer_weights(module) if weight.stored is not None]
    chosen = {slots[name] for name in stored} - _tables(module, slots)
    return tuple(key for key in dict.fromkeys(slots.values()) if key in chosen)


def _tables(module: nn.Module, slots: Mapping[str, str]) -> set[str]:
    """Tensors that are the table of an embedding, whatever else they are."""
    prefixes = [prefix for prefix, layer in module.named_modules() if isinstance(layer, EMBEDDINGS)]
    return {slots[name] for prefix in prefixes if (name := f"{prefix}.weight".lstrip(".")) in slots}


def _refuse_computed(module: nn.Module, excluded: Callable[[str], bool]) -> None:
    """Raise ValueError for a layer whose weight is computed in such a way that no mask of a parameter prunes it."""
    for weight in layer_weights(module):
        if weight.stored is None and not excluded(weight.name):
            raise ValueError(
                f"the weight {weight.name!r} is computed by {weight.computed_by}, where zeros of no parameter are "
                f"zeros of the weight: exclude it with prunable={weight.layer or weight.name!r}, or make it an "
                "ordinary parameter first (torch.nn.utils.parametrize.remove_parametrizations)"
            )


def _matches(name: str, pattern: str) -> bool:
    if pattern.startswith("re:"):
        return re.fullmatch(pattern[3:], name) is not None
    if any(sign in pattern for sign in "*?["):
        ends = [at for at, sign in enumerate(name) if sign == "."]
        return any(fnmatch.fnmatchcase(part, pattern) for part in (name, *(name[:end] for end in ends)))
    return name == pattern or name.startswith(pattern + ".")


def _stem_and_labels(pattern: str) -> tuple[str, frozenset[str]]:
    """ "*.qkv[q,k]" -> "*.qkv" and its labels; no labels where there are no brackets at the end."""
    stem, bracket, rest = pattern.rpartition("[")
    if not bracket or not rest.endswith("]") or pattern.startswith("re:"):
        return pattern, frozenset()
    return stem, frozenset(label.strip() for label in rest[:-1].split(","))


def fitting(pattern: str, slots: Mapping[str, str], table: Table, *, of: str) -> tuple[Block, ...]:
    """The blocks that a pattern fits: a module's or parameter's name, a glob of one, either with labels of blocks in
    brackets at the end ("*.qkv[q,k]"), or "re:" with an expression for whole names, of parameters or of blocks.

    Args:
        pattern: what fits.
        slots: each parameter slot -> the first name of its tensor.
        table: that name -> its blocks, one if it is whole.
        of: the argument that it was given in, for messages.

    Raises:
        ValueError: an invalid expression.
    """
    stem, labels = _stem_and_labels(pattern)
    try:
        named = [block for slot, key in slots.items() if _matches(slot, stem) for block in table[key]]
        if labels and (found := [block for block in named if block.label in labels]):
            return tuple(dict.fromkeys(found))
        return tuple(
            dict.fromkeys(
                block
                for slot, key in slots.items()
                for block in table[key]
                if _matches(slot, pattern) or (pattern.startswith("re:") and _matches(block.name, pattern))
            )
        )
    except re.error as error:
        raise ValueError(f"{of} pattern {pattern!r} is not a regular expression: {error}") from None


def select_prunable(module: nn.Module, slots: Mapping[str, str], prunable: Prunable) -> tuple[Block, ...]:
    """The prunable blocks, in the order of the module.

    `prunable` is one of:
        None: the default rule (`default_prunable`);
        a predicate `(name, parameter) -> bool` over all parameters;
        names of parameters or of blocks ("attn.qkv.weight[v]"): exactly those are prunable;
        patterns of parts to *exclude* from the default: a module's name ("fc"), a glob ("layer1.*"), either with
        labels of blocks ("*.qkv[q,k]"), "re:" with a regular expression that must match a whole name of a parameter
        or of a block ("re:.*head.*"), or a type of module (nn.Conv2d), which stands for everything in modules of that
        type or of one derived from it.

    Raises:
        TypeError: none of the above.
        ValueError: a name or pattern that fits nothing, an invalid expression, names mixed with patterns, nothing left,
            or a layer, not excluded, whose weight is computed so that no mask of a parameter prunes it.
    """
    default = default_prunable(module, slots)
    by_name = dict(module.named_parameters())
    if isinstance(prunable, type):
        prunable = [prunable]
    split = fused_blocks(module, slots)
    table = {key: split.get(key) or (whole(key, by_name[key].shape),) for key in dict.fromkeys(slots.values())}
    if prunable is None:
        _refuse_computed(module, lambda name: False)
        chosen = _all_of(default, table)
    elif callable(prunable):
        chosen = _all_of([name for name, parameter in by_name.items() if prunable(name, parameter)], table)
    elif isinstance(prunable, (str, Iterable)):
        entries = [prunable] if isinstance(prunable, str) else list(prunable)
        types = [entry for entry in entries if isinstance(entry, type)]
        names = [entry for entry in entries if not isinstance(entry, type)]
        inside = _inside(module, types, slots)
        if types and (named := [entry for entry in names if _stem_and_labels(entry)[0] in slots]):
            raise ValueError(
                f"prunable mixes parameter names to prune ({named[0]!r}) with types to exclude "
                f"({types[0].__name__}); give one kind"
            )
        chosen = _by_entries(names, default, slots, table) if names or not types else _all_of(default, table)
        chosen = tuple(block for block in chosen if block.parameter not in inside)
        if not any(_stem_and_labels(entry)[0] in slots for entry in names):  # patterns and types to exclude
            within = tuple(slot.partition(".parametrizations.")[0] + "." for slot in slots if slots[slot] in inside)
            _refuse_computed(
                module, lambda name: name.startswith(within) or any(_matches(name, entry) for entry in names)
            )
    else:
        raise TypeError(
            "prunable must be a predicate, a list of parameter names, or patterns to exclude, not "
            f"{type(prunable).__name__}"
        )
    not_float = [block.parameter for block in chosen if not by_name[block.parameter].is_floating_point()]
    if not_float:
        raise ValueError(
            f"parameter {not_float[0]!r} is {by_name[not_float[0]].dtype}: only real floating weights can be pruned; "
            "exclude it with prunable="
        )
    if not any(block.size for block in chosen):
        kinds = sorted({type(m).__name__ for m in module.modules() if m._parameters})
        raise ValueError(
            "nothing to prune: "
            + ("prunable leaves no weight" if prunable is not None else "the model has no Linear or convolution weight")
            + f" (modules with parameters: {', '.join(kinds) or 'none'}); name weights with prunable=[...]"
        )
    return chosen


def _inside(module: nn.Module, types: list[type], slots: Mapping[str, str]) -> set[str]:
    """The tensors in modules of these types, whatever the depth."""
    found: set[str] = set()
    for kind in types:
        if not issubclass(kind, nn.Module):
            raise TypeError(f"prunable holds the type {kind.__name__}; types to exclude must be modules (nn.Conv2d)")
        owners = [prefix for prefix, owner in module.named_modules() if isinstance(owner, kind)]
        if not owners:
            there = sorted({type(owner).__name__ for owner in module.modules() if owner._parameters})
            raise ValueError(f"prunable excludes {kind.__name__}, but the model has none; it has {', '.join(there)}")
        found |= {slots[slot] for slot in slots for prefix in owners if not prefix or slot.startswith(prefix + ".")}
    return found


def _all_of(names: Iterable[str], table: Table) -> tuple[Block, ...]:
    return tuple(block for name in names for block in table[name])


def _by_entries(
    entries: list[str], default: tuple[str, ...], slots: Mapping[str, str], table: Table
) -> tuple[Block, ...]:
    bad = [entry for entry in entries if not isinstance(entry, str)]
    if bad:
        raise TypeError(f"prunable holds {bad[0]!r}; entries must be names or patterns (strings), or types of modules")
    if not entries:
        raise ValueError("prunable is an empty list; give None for the default, or names or patterns")
    named = [entry for entry in entries if _stem_and_labels(entry)[0] in slots]
    fits = {entry: fitting(entry, slots, table, of="prunable") for entry in entries}
    for entry, found in fits.items():
        if not found:
            raise ValueError(f"prunable pattern {entry!r} fits no parameter{_hint(entry, slots, table)}")
    if named and len(named) < len(entries):
        other = next(entry for entry in entries if entry not in named)
        raise ValueError(
            f"prunable mixes parameter names to prune ({named[0]!r}) with patterns to exclude "
            f"({other!r}); give one kind"
        )
    meant = {block for found in fits.values() for block in found}
    if named:
        return tuple(block for blocks in table.values() for block in blocks if block in meant)
    return tuple(block for block in _all_of(default, table) if block not in meant)


def _hint(entry: str, slots: Mapping[str, str], table: Table) -> str:
    """What may have been meant by a pattern that fits nothing."""
    stem, labels = _stem_and_labels(entry)
    if labels and (parts := [block for slot, key in slots.items() if _matches(slot, stem) for block in table[key]]):
        known = ", ".join(dict.fromkeys(block.label for block in parts if block.spans))
        return f"; it has the blocks {known}" if known else f"; {parts[0].parameter!r} is not split into blocks"
    near = difflib.get_close_matches(entry, [*slots, *{slot.rpartition(".")[0] for slot in slots}], n=3)
    return f"; near: {', '.join(near)}" if near else f"; parameters: {', '.join(list(slots)[:6])}, ..."
