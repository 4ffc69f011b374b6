"""Settings of a method: the keyword-only parameters of its function, checked from their annotations. Torch-free."""

from __future__ import annotations

import difflib
import inspect
import numbers
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from foreprune.core.fields import checked


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Setting -> default."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def types_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Setting -> annotation; `Any` where there is none or its names are not known where the function was written."""
    inner = inspect.unwrap(function)
    found: dict[str, Any] = {}
    for name in defaults_of(function):
        one = types.SimpleNamespace(
            __annotations__={key: kind for key, kind in getattr(inner, "__annotations__", {}).items() if key == name}
        )
        try:
            found[name] = typing.get_type_hints(one, globalns=getattr(inner, "__globals__", {})).get(name, Any)
        except NameError:
            found[name] = Any
    return found


def check_settings(
    owner: str, given: Mapping[str, Any], *, settings: Mapping[str, Any], kinds: Mapping[str, Any]
) -> None:
    """Check names and types of what was given; ranges are the business of whoever uses them.

    Args:
        owner: whose settings they are, such as "method 'grasp'".
        given: setting -> value.
        settings: those there are.
        kinds: setting -> annotation, as for `checked`.

    Raises:
        TypeError: a setting that does not exist, or a value of another kind.
        ValueError: a word that is not one of those allowed, or a number that is infinite or NaN.
    """
    for name, value in given.items():
        if name not in settings:
            near = difflib.get_close_matches(name, settings, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(settings) or 'none'}"
            raise TypeError(f"{owner} has no setting {name!r}; {hint}")
        checked(f"{owner}: {name}", value, kinds.get(name, Any))


def check_scope_and_seed(scope: str, seed: int) -> None:
    """Raise ValueError for a scope or a seed that `foreprune.prune` does not take."""
    if scope not in ("global", "local"):
        raise ValueError(
            f'scope must be "global" (compare over all layers) or "local" (each layer by itself), not {scope!r}'
        )
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be a whole number from 0 to 2**32 - 1 (torch seeds with 32 bits), not {seed!r}")
