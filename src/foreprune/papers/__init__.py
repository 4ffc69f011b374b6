"""The papers' tables and figures by name, one file per paper: whatever a file here registers is found by itself."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from foreprune.core.names import unknown
from foreprune.papers.entry import SCALES, Entry, Runs, Scale, registry, together

__all__ = ["SCALES", "Entry", "Runs", "Scale", "entries", "find", "together"]


@cache
def _discover() -> None:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


def entries() -> tuple[Entry, ...]:
    """Every entry, paper by paper, in the order of the files."""
    _discover()
    return tuple(sorted(registry().values(), key=lambda entry: entry.make.__module__))


def find(name: str) -> Entry:
    """The entry of that name.

    Raises:
        ValueError: no such entry; the message suggests near names.
    """
    _discover()
    known = registry()
    if name not in known:
        raise unknown("table or figure", name, known, see="`foreprune papers` lists them")
    return known[name]
