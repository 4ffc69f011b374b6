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

from foreprune.core.layer_weights import EMBEDDINGS, layer_weights

Predicate = Callable[[str, nn.Parameter], bool]
Prunable = str | Iterable[str] | Predicate | None


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
        return fnmatch.fnmatchcase(name, pattern)
    return name == pattern or name.startswith(pattern + ".")


def select_prunable(module: nn.Module, slots: Mapping[str, str], prunable: Prunable) -> tuple[str, ...]:
    """Names of the prunable tensors, in the order of the module.

    `prunable` is one of:
        None: the default rule (`default_prunable`);
        a predicate `(name, parameter) -> bool` over all parameters;
        names of parameters (exactly those are prunable);
        patterns of parts to *exclude* from the default: a module's name ("fc"), a glob ("layer1.*") or "re:" with a
        regular expression that must match the whole parameter name ("re:.*head.*").

    Raises:
        TypeError: none of the above.
        ValueError: a name or pattern that fits nothing, an invalid expression, names mixed with patterns, nothing left,
            or a layer, not excluded, whose weight is computed so that no mask of a parameter prunes it.
    """
    default = default_prunable(module, slots)
    by_name = dict(module.named_parameters())
    if prunable is None:
        _refuse_computed(module, lambda name: False)
        chosen = default
    elif callable(prunable):
        chosen = tuple(name for name, parameter in by_name.items() if prunable(name, parameter))
    elif isinstance(prunable, (str, Iterable)):
        entries = [prunable] if isinstance(prunable, str) else list(prunable)
        chosen = _by_entries(entries, default, slots, module)
    else:
        raise TypeError(
            "prunable must be a predicate, a list of parameter names, or patterns to exclude, not "
            f"{type(prunable).__name__}"
        )
    not_float = [name for name in chosen if not by_name[name].is_floating_point()]
    if not_float:
        raise ValueError(
            f"parameter {not_float[0]!r} is {by_name[not_float[0]].dtype}: only real floating weights can be pruned"
        )
    if not any(by_name[name].numel() for name in chosen):
        kinds = sorted({type(m).__name__ for m in module.modules() if m._parameters})
        raise ValueError(
            "nothing to prune: "
            + ("prunable leaves no weight" if prunable is not None else "the model has no Linear or convolution weight")
            + f" (modules with parameters: {', '.join(kinds) or 'none'}); name weights with prunable=[...]"
        )
    return chosen


def _by_entries(
    entries: list[str], default: tuple[str, ...], slots: Mapping[str, str], module: nn.Module
) -> tuple[str, ...]:
    bad = [entry for entry in entries if not isinstance(entry, str)]
    if bad:
        raise TypeError(f"prunable holds {bad[0]!r}; entries must be names or patterns (strings)")
    if not entries:
        raise ValueError("prunable is an empty list; give None for the default, or names or patterns")
    named = [entry for entry in entries if entry in slots]
    if named and len(named) == len(entries):
        keys = {slots[entry] for entry in entries}
        return tuple(key for key in dict.fromkeys(slots.values()) if key in keys)
    if named:
        other = next(entry for entry in entries if entry not in slots)
        raise ValueError(
            f"prunable mixes parameter names to prune ({named[0]!r}) with patterns to exclude "
            f"({other!r}); give one kind"
        )
    for entry in entries:
        try:
            fits = any(_matches(slot, entry) for slot in slots)
        except re.error as error:
            raise ValueError(f"prunable pattern {entry!r} is not a regular expression: {error}") from None
        if not fits:
            near = difflib.get_close_matches(entry, [*slots, *{slot.rpartition(".")[0] for slot in slots}], n=3)
            hint = f"; near: {', '.join(near)}" if near else f"; parameters: {', '.join(list(slots)[:6])}, ..."
            raise ValueError(f"prunable pattern {entry!r} fits no parameter{hint}")
    _refuse_computed(module, lambda name: any(_matches(name, entry) for entry in entries))
    excluded = {slots[slot] for slot in slots if any(_matches(slot, entry) for entry in entries)}
    return tuple(name for name in default if name not in excluded)
