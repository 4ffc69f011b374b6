"""Pruning methods, one file per paper. A new method is one new file, here or in another package.

Whatever a file here registers (`@scorer`, `@masker`) is found by itself. Another package names a module that registers
methods, or a `Method`, as an entry point of the group "foreprune.methods".
"""

from __future__ import annotations

import fnmatch
import importlib
import importlib.metadata
import inspect
import pkgutil
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from torch import Tensor

from foreprune.core.method import Method, Scores, register, registry
from foreprune.core.names import unknown
from foreprune.core.task import NEEDS

GROUP = "foreprune.methods"

__all__ = ["GROUP", "MethodLike", "as_method", "get_method", "list_methods"]

MethodLike = str | Method | Callable[..., Scores] | Mapping[str, Tensor]


def list_methods(pattern: str = "*") -> tuple[Method, ...]:
    """All pruning methods whose name fits `pattern` (as in file names: "syn*"), sorted by name. Records; print them."""
    _discover()
    return tuple(found for name, found in sorted(registry().items()) if fnmatch.fnmatchcase(name, pattern))


def get_method(name: str) -> Method | Any:
    """The record of one method, or of a procedure that trains in order to prune ("imp", "ltr"): print it.

    Raises:
        TypeError: not a name.
        ValueError: no such method; the message suggests near names.
    """
    if not isinstance(name, str):
        raise TypeError(
            "method must be a name such as 'synflow', a Method, a function (net, task, masks) -> scores or scores "
            f"{{name: tensor}}, not {type(name).__name__}"
        )
    _discover()
    if name in registry():
        return registry()[name]
    procedures = _procedures()
    if name in procedures:
        return procedures[name]
    raise unknown("method", name, [*sorted(registry()), *sorted(procedures)])


def as_method(what: MethodLike) -> Method:
    """The `Method` that a name, a method, a score or ready scores stand for.

    A function (net, task, masks, **settings) -> scores that is not registered may look at whatever inputs and data are
    given, and takes the settings `rounds` (1) and `schedule` besides its own. Ready scores are a tensor for each
    prunable weight.

    Raises:
        TypeError: none of these.
        ValueError: unknown name, or that of a procedure.
    """
    if isinstance(what, Method):
        return what
    if isinstance(what, Mapping):
        return Method("scores", "", "Keep the largest of the scores given.", score=_ready(what))
    if callable(what):
        _discover()
        known = [method for method in registry().values() if method.function is what]
        return known[0] if known else _unregistered(what)
    procedures: list[Any] = [] if isinstance(what, str) else list(_procedures().values())
    found: Any = what if any(one is what for one in procedures) else get_method(what)
    if not isinstance(found, Method):
        raise ValueError(
            f"{found.name!r} trains the network in order to prune it, which this call does not do; run it with "
            f"`foreprune compare --methods {found.name}`, or prune with a method from foreprune.list_methods()"
        )
    return found


def _ready(scores: Mapping[str, Tensor]) -> Callable[..., Scores]:
    def ready(net: Any, task: Any, masks: Any) -> Scores:
        return {
            name: score.detach().to(net.device) if isinstance(score, Tensor) else score
            for name, score in scores.items()
        }

    return ready


def _unregistered(score: Callable[..., Scores]) -> Method:
    name = getattr(score, "__name__", type(score).__name__)
    return Method(name, "", inspect.getdoc(score) or "", score=score, rounds=1, optional=frozenset(NEEDS))


@cache
def _discover() -> None:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            loaded = entry.load()
            if isinstance(loaded, Method):
                register(loaded)
        except Exception as error:
            owner = entry.dist.name if entry.dist is not None else entry.value.partition(".")[0]
            warnings.warn(
                f"the methods {entry.name!r} of the package {owner!r} are left out, because {entry.value} cannot be "
                f"loaded ({type(error).__name__}: {error}); update that package or uninstall it",
                RuntimeWarning,
                stacklevel=3,
            )


def _procedures() -> Mapping[str, Any]:
    """name -> procedure: a later room, which may be left out of an installation."""
    try:
        room: Any = importlib.import_module("foreprune.procedures")
    except ImportError:
        return {}
    return {found.name: found for found in room.list_procedures()}
