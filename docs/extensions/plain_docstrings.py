"""Sphinx extension: docstrings are plain text, so signs that mean something in reStructuredText are escaped.

Sections (Args, Returns, Raises, ...) and indentation stay; napoleon reads them afterwards.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

_CODE = re.compile(r"(`[^`]+`)")


def escaped(line: str) -> str:
    """`line` with `|`, `*` and trailing underscores escaped outside of `code`."""
    parts = _CODE.split(line)
    for index in range(0, len(parts), 2):
        text = re.sub(r"[\\|*]", r"\\\g<0>", parts[index])
        parts[index] = re.sub(r"(?<=\w)_(?=\W|$)", r"\\_", text)
    return "".join(parts)


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape every line of a docstring, in place."""
    lines[:] = [escaped(line) for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", process, priority=100)  # before napoleon
    return {"parallel_read_safe": True}
