"""Pieces of Markdown that the pages of records are made of."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any


def text(plain: str) -> str:
    """Plain text as Markdown: what has a meaning there is escaped, outside of `code`; arXiv numbers become links."""
    parts = re.split(r"(`[^`]+`)", plain)
    for index in range(0, len(parts), 2):
        escaped = re.sub(r"[\\*_<>\[\]|#$~]", r"\\\g<0>", parts[index])
        parts[index] = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", escaped)
    return "".join(parts)


def paragraphs(doc: str) -> list[str]:
    """The paragraphs of a docstring, each on one line."""
    return [" ".join(part.split()) for part in inspect.cleandoc(doc).split("\n\n") if part.strip()]


def page(*parts: str) -> str:
    """Paragraphs, tables and headings, one after the other."""
    return "\n\n".join(part for part in parts if part)


def code(language: str, *lines: str) -> str:
    """A block of code."""
    return "\n".join([f"```{language}", *lines, "```"])


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [heading, ["---"] * len(heading), *rows])


def facts(**rows: str) -> str:
    """A table without a heading: name and fact; empty facts are left out."""
    return table(["", ""], [[name.replace("_", " "), fact] for name, fact in rows.items() if fact])


def index(title: str, intro: str, heading: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """A page with a table of other pages; `rows` are their names and what is said of each."""
    linked = [[f"[{name}]({name}.md)", *row] for name, row in rows.items()]
    return page(f"# {title}", intro, table(["name", *heading], linked), code("{toctree}", ":hidden:", "", *rows))


def settings_table(settings: Mapping[str, Any], kinds: Mapping[str, Any]) -> str:
    """Name, default and allowed values of each setting."""
    rows = [[f"`{name}`", f"`{default!r}`", allowed(kinds.get(name, Any))] for name, default in settings.items()]
    return table(["setting", "default", "allowed values"], rows) if rows else "None."


def allowed(kind: Any) -> str:
    """Which values an annotation allows, in words."""
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(f'`"{part}"`' if isinstance(part, str) else f"`{part!r}`" for part in parts)
    if parts:
        return " or ".join(map(allowed, parts))
    words = {bool: "`True` or `False`", int: "a whole number", float: "a number", type(None): "`None`", Any: "anything"}
    return words.get(kind, f"a `{getattr(kind, '__name__', kind)}`")


def source(function: Callable[..., Any]) -> str:
    """A function without its decorators and docstring: what it computes."""
    written = textwrap.dedent(inspect.getsource(function))
    node = typing.cast("ast.FunctionDef", ast.parse(written).body[0])
    lines = written.splitlines()
    if function.__doc__ and node.body[0].end_lineno is not None:
        del lines[node.body[0].lineno - 1 : node.body[0].end_lineno]
    return page(f"`{source_path(function)}`:", code("python", *lines[node.lineno - 1 :]))


def source_path(function: Callable[..., Any]) -> str:
    """The file of a function, from the root of the repository."""
    return "/".join(["src", *function.__module__.split(".")]) + ".py"
