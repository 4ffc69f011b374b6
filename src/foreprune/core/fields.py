"""The values of a frozen dataclass, checked against its annotations. Nothing here imports torch."""

from __future__ import annotations

import math
import numbers
from dataclasses import fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

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
    other class, or one of these or None.

    Raises:
        TypeError: a value of another type; the message has `name`, what is allowed and what was given.
        ValueError: none of the choices of a `Literal`, or a number that is infinite or NaN.
    """
    origin, choices = get_origin(kind), get_args(kind)
    if origin is Literal:
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
        return value
    if origin is UnionType:
        (rest,) = (choice for choice in choices if choice is not NoneType)
        return None if value is None else checked(name, value, rest)
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
    if kind not in (int, float) and isinstance(value, kind):
        return value
    raise TypeError(f"{name} must be {_WORDS.get(kind, kind.__name__)}, not {value!r}")
