"""One file per paper. A new method is one new file here: whatever it registers is found by itself."""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import pkgutil
import sys
import types
from functools import cache

from foreprune.core.method import Method, registry


@cache
def _discover() -> None:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


def methods(pattern: str = "*") -> tuple[Method, ...]:
    """All pruning methods whose name fits `pattern` (as in file names: "syn*"), sorted by name. Records; print them."""
    _discover()
    return tuple(found for name, found in sorted(registry().items()) if fnmatch.fnmatchcase(name, pattern))


def method(name: str) -> Method:
    """The record of one method.

    Raises:
        TypeError: not a name.
        ValueError: no such method; the message suggests near names.
    """
    if not isinstance(name, str):
        raise TypeError(f"method must be a name such as 'synflow', not {type(name).__name__}")
    _discover()
    if name not in registry():
        near = difflib.get_close_matches(name, registry(), n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {', '.join(sorted(registry()))}"
        raise ValueError(f"unknown method {name!r}; {hint}")
    return registry()[name]


class _Room(types.ModuleType):
    """Importing this package makes it the attribute `foreprune.methods`, the place of the public function of that name;
    so the package can be called like the function."""

    def __call__(self, pattern: str = "*") -> tuple[Method, ...]:
        return methods(pattern)


sys.modules[__name__].__class__ = _Room
