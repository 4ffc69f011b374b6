"""What masks are for: the parameters of a module, by name and shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from foreprune.core.converted import hint


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside `DistributedDataParallel`, `DataParallel` and `torch.compile`."""
    while True:
        if isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            module = module.module
        elif isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
            module = inner
        else:
            return module


def parameters_of(module: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, nn.Parameter]:
    """The parameters of `module` that masks of these shapes are for.

    Raises:
        ValueError: a name or a shape does not fit: the masks belong to another model.
    """
    own = dict(unwrapped(module).named_parameters(remove_duplicate=False))
    found = {name: tuple(own[name].shape) for name in shapes if name in own}
    for name, shape in shapes.items():
        if name not in own:
            known = ", ".join(list(own)[:4])
            raise ValueError(
                f"masks belong to another model: it has no parameter {name!r} (it has {known}, ...)"
                + (hint(module) or _hooked_hint(name, own) or _prefix_hint(shapes, own))
            )
        if found[name] != shape:
            raise ValueError(
                f"masks belong to another model: {name!r} has shape {found[name]} there and {shape} in the masks; use "
                "masks made for this one"
            )
    return {name: own[name] for name in shapes}


def _hooked_hint(name: str, own: Mapping[str, object]) -> str:
    """What to write if torch.nn.utils.prune holds the parameter under another name, else nothing."""
    if f"{name}_orig" not in own:
        return ""
    attribute = name.rpartition(".")[2]
    return f"; it has {name + '_orig'!r}: call torch.nn.utils.prune.remove(layer, {attribute!r}) on its layers first"


def _prefix_hint(given: Iterable[str], own: Mapping[str, object]) -> str:
    """What to write if all names fit but for one prefix, else nothing."""
    first = next(iter(given))
    for name in own:
        if name.endswith("." + first) and all((added := name.removesuffix(first)) + other in own for other in given):
            return f"; write masks.renamed(add={added!r})"
    parts = first.split(".")
    for count in range(1, len(parts)):
        prefix = ".".join(parts[:count]) + "."
        if all(name.startswith(prefix) and name.removeprefix(prefix) in own for name in given):
            return f"; write masks.renamed(strip={prefix!r})"
    return ""


def check_same_weights(expected: Mapping[str, Any], given: Mapping[str, Any], *, what: str) -> None:
    """Raise ValueError that names the first difference between two mappings name -> shape."""
    missing = [name for name in expected if name not in given]
    extra = [name for name in given if name not in expected]
    if missing or extra:
        parts = ([f"lack {missing[0]!r}"] if missing else []) + ([f"have {extra[0]!r}"] if extra else [])
        raise ValueError(f"{what} belong to another model: they {' and '.join(parts)}; use masks made for this one")
    for name, shape in expected.items():
        if tuple(given[name]) != tuple(shape):
            raise ValueError(
                f"{what} belong to another model: {name!r} has shape {tuple(given[name])} instead of {tuple(shape)}; "
                "use masks made for this one"
            )
