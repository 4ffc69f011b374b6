"""What to answer to a name that does not exist. Nothing here imports torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(what: str, name: object, known: Iterable[str], *, see: str = "") -> ValueError:
    """The error for `name`, which is none of `known`: it says which are near, and which there are.

    Args:
        see: where they are listed, said in place of the whole list.
    """
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return ValueError(f"unknown {what} {name!r}; {hint}{see or 'known: ' + ', '.join(known)}")
