"""Values checked against annotations: the fields of a frozen dataclass, the settings of a method. Torch-free."""

from __future__ import annotations

import math
import numbers
from contextlib import suppress
from dataclasses import fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_hints = cache(get_type_hints)
_WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a string"}


def check_fields(record: Any) -> None:
    """Check every field, for use in `__post_init__`; whole numbers given for a float become floats, lists tuples.

    Raises:
        TypeError, ValueError: as `checked`.
    """
    kinds = _hints(record.__class__)
    for field in fields(record):
        given = getattr(record, field.name)
        taken = checked(field.name, given, kinds[field.name])
        if taken is not given:
            object.__setattr__(record, field.name, taken)


def checked(name: str, value: Any, kind: Any) -> Any:
    """`value`, if it is what the annotation `kind` allows: bool, int, float, str, a `Literal`, `tuple[kind, ...]`, any
    other class, or a union of these. What says nothing, such as `Any` and protocols, allows everything.

    Raises:
        TypeError: a value of another type; the message has `name`, what is allowed and what was given.
        ValueError: none of the choices of a `Literal`, or a number that is infinite or NaN.
    """
    origin, choices = get_origin(kind), get_args(kind)
    if origin is Literal:
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
        return value
    if origin in (UnionType, Union):
        rest = [choice for choice in choices if choice is not NoneType]
        if value is None and len(rest) < len(choices):
            return None
        if len(rest) == 1:
            return checked(name, value, rest[0])
        for choice in rest:
            with suppress(TypeError, ValueError):
                return checked(name, value, choice)
        raise TypeError(f"{name} must be {' or '.join(map(_words, rest))}, not {value!r}")
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            raise TypeError(f"{name} must be a tuple, not {value!r}")
        return tuple(checked(f"{name}[{index}]", item, choices[0]) for index, item in enumerate(value))
    number = kind in (int, float) and not isinstance(value, bool)
    if number and kind is float and isinstance(value, numbers.Real):
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, not {value}")
        return float(value)
    if number and kind is int and isinstance(value, numbers.Integral):
        return int(value)
    plain = origin or kind
    if plain is Any or not isinstance(plain, type) or getattr(plain, "_is_protocol", False):
        return value
    if plain not in (int, float) and isinstance(value, plain):
        return value
    raise TypeError(f"{name} must be {_words(kind)}, not {value!r}")


def _words(kind: Any) -> str:
    return _WORDS.get(kind, getattr(kind, "__name__", str(kind)))
