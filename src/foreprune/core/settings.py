"""Settings of a method: the keyword-only parameters of its function, checked from their annotations. Torch-free."""

from __future__ import annotations

import difflib
import inspect
import numbers
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union

_WORDS: dict[Any, str] = {bool: "True or False", int: "a whole number", float: "a number", str: "a word"}


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
        kinds: setting -> annotation: numbers (whole ones also for float), words, True and False, `Literal`, None, any
            class, and unions of these.

    Raises:
        TypeError: a setting that does not exist, or a value of another kind.
        ValueError: a word that is not one of those allowed.
    """
    for name, value in given.items():
        if name not in settings:
            near = difflib.get_close_matches(name, settings, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(settings) or 'none'}"
            raise TypeError(f"{owner} has no setting {name!r}; {hint}")
        kind = kinds.get(name, Any)
        if not _fits(value, kind):
            error = ValueError if typing.get_origin(kind) is Literal else TypeError
            raise error(f"{owner}: {name} must be {_words(kind)}, not {value!r}")


def _fits(value: Any, kind: Any) -> bool:
    origin = typing.get_origin(kind)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in typing.get_args(kind))
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in typing.get_args(kind))
    if kind in (int, float):
        number = numbers.Integral if kind is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    try:
        return isinstance(value, origin or kind)
    except TypeError:  # Any, type variables, protocols: nothing to go by
        return True


def _words(kind: Any) -> str:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal or origin in (Union, types.UnionType):
        words = [
            _words(part) if origin is not Literal else f'"{part}"' if isinstance(part, str) else repr(part)
            for part in parts
        ]
        return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    if kind is type(None):
        return "None"
    return _WORDS.get(kind, f"a {getattr(kind, '__name__', kind)}")
