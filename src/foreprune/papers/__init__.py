"""The papers' tables and figures by name, one file per paper: whatever a file here registers is found by itself."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import cache

from foreprune.papers.entry import SCALES, Entry, Runs, Scale, registry, together

__all__ = ["SCALES", "Entry", "Runs", "Scale", "entries", "find", "together"]


@cache
def _discover() -> None:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


def entries() -> tuple[Entry, ...]:
    """Every entry, paper by paper, in the order of the files."""
    _discover()
    return tuple(registry().values())


def find(name: str) -> Entry:
    """The entry of that name.

    Raises:
        ValueError: no such entry; the message suggests near names.
    """
    _discover()
    known = registry()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.7)
        hint = f"did you mean {' or '.join(near)}?" if near else "`foreprune papers` lists them"
        raise ValueError(f"there is no table or figure {name!r}; {hint}")
    return known[name]
