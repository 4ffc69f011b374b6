"""What an ablation is, and those there are. Torch-free, as are the files of the ablations until one is applied."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal, TypeVar

from foreprune.core.names import unknown

Changed = Literal["masks", "weights", "method"]
_F = TypeVar("_F", bound=Callable[..., Any])
_ORDER: tuple[Changed, ...] = ("masks", "weights", "method")


@dataclass(frozen=True)
class Ablation:
    """One thing to change about pruned networks while the rest stays.

    Attributes:
        name: what records and the command line call it.
        changes: what it acts on, which says how `apply` is called: "method" as (method) -> Method, "masks" as
            (masks, *, seed) -> Masks, "weights" as (model, masks, *, init, seed) -> {name: tensor of the state dict}.
        words: what a network is after it, for labels: "shuffled".
        paper: where it comes from.
        apply: the function. If there is a `value`, `apply` takes it as the keyword of that name.
        value: name of the number in [0, 1] that it takes, as in widen:0.5; "" if it takes none.
        meaning: what that number is, for messages.
        takes_model: whether `apply`, which acts on masks, takes the network as the keyword `model` besides.
    """

    name: str
    changes: Changed
    words: str
    paper: str
    apply: Callable[..., Any]
    value: str = ""
    meaning: str = ""
    takes_model: bool = False


_REGISTRY: dict[str, Ablation] = {}


def ablation(
    name: str,
    *,
    changes: Changed,
    words: str,
    paper: str,
    value: str = "",
    meaning: str = "",
    takes_model: bool = False,
    **fixed: Any,
) -> Callable[[_F], _F]:
    """Register a function as an ablation; arguments as the attributes of `Ablation`, and `fixed` ones of the function.

    Raises:
        ValueError: the name is taken by another function.
    """

    def wrap(function: _F) -> _F:
        known = _REGISTRY.get(name)
        apply = partial(function, **fixed) if fixed else function
        if known is not None and (place := _place(known.apply)) != _place(apply):
            raise ValueError(f"an ablation named {name!r} is registered already by {place}; choose another name")
        _REGISTRY[name] = Ablation(name, changes, words, paper, apply, value, meaning, takes_model)
        return function

    return wrap


@cache
def _discover() -> None:
    package = importlib.import_module(__package__ or "")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def list_ablations() -> tuple[Ablation, ...]:
    """Every ablation: those of masks, of weights and of the method, and then those that take a value."""
    _discover()
    return tuple(sorted(_REGISTRY.values(), key=lambda one: (bool(one.value), _ORDER.index(one.changes), one.name)))


def get_ablation(name: str) -> Ablation:
    """The ablation of that name.

    Raises:
        ValueError: no such ablation; the message suggests near names.
    """
    _discover()
    if name not in _REGISTRY:
        raise unknown("ablation", name, (one.name for one in list_ablations()))
    return _REGISTRY[name]


def parse_ablation(text: str) -> tuple[Ablation, float]:
    """ "shuffle" -> (shuffle, 1.0); "widen:0.5" -> (widen, 0.5).

    Raises:
        ValueError: unknown ablation, a value for one that takes none, or one outside [0, 1].
    """
    name, colon, value = text.partition(":")
    found = get_ablation(name)
    if not colon:
        return found, 1.0
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not found.value:
        takers = " and ".join(one.name for one in list_ablations() if one.value)
        raise ValueError(f"ablation {text!r}: only {takers} takes a value; write {name}")
    if not 0 <= number <= 1:
        raise ValueError(f"ablation {text!r}: the value is {found.meaning}, from 0 to 1; write e.g. {name}:0.5")
    return found, number


def _place(function: Callable[..., Any]) -> str:
    inner = function.func if isinstance(function, partial) else function
    return f"{inner.__module__}.{inner.__qualname__}"
