"""`Procedure`: a way to prune that involves training, as a value, and the register of them. Nothing here imports torch.

A procedure stands where a method's name does (`Experiment.method`), but takes more than one look at a network: it needs
weights from a dense training, or changes the masks while it trains. A new one is one new file in this folder with a
function under `@procedure`; checks, costs, runs and the command line find it by itself.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Protocol

from foreprune.ablations import Ablation, Changed, get_ablation, list_ablations
from foreprune.core.names import unknown
from foreprune.core.settings import check_settings, defaults_of, types_of
from foreprune.records import Experiment, Scalar

if TYPE_CHECKING:
    from torch import nn

    from foreprune.core.masks import Masks
    from foreprune.training.fit import MaskMap

END = -1  # stands for the last step of the dense training, whose number only the data can tell


class Schedule(Protocol):
    """Changes the masks while a network trains, as `fit` takes it; `masks` are those in force."""

    masks: Masks

    def __call__(self, step: int, model: nn.Module, masks: MaskMap, /) -> Masks | None: ...


@dataclass(frozen=True, eq=False)
class Start:
    """Where the training that counts begins.

    Attributes:
        model: the network, on its device, with the weights to train from (pruned ones not yet zero).
        masks: what is kept of it, at first.
        order: seed of the order of the data.
        seconds: time it took to choose the masks, trainings not counted; None if they are chosen while it trains.
        schedule: changes the masks in training, or None.
    """

    model: nn.Module
    masks: Masks
    order: int
    seconds: float | None
    schedule: Schedule | None = None


@dataclass(frozen=True, eq=False)
class Procedure:
    """A way to prune that involves training; printing it shows what it is and what it takes.

    Attributes:
        name: what stands in `Experiment.method` and on the command line.
        paper: where it comes from.
        start: (run, **settings) -> Start: finds the masks and weights that the training that counts begins with.
        dense_steps: (**settings) -> the steps of the dense training whose weights it needs; `END` is the last.
        trainings: (density, **settings) -> how many trainings by the whole recipe it takes, without the dense one.
        in_steps: settings that count optimizer steps, with their least values: they move along when a run is given
            another number of epochs.
        ablates: what ablations may change of it: the "method" that chooses, the "masks", the "weights".
        check: (**settings) raises ValueError for values out of range; types are checked from the annotations.
    """

    name: str
    paper: str
    start: Callable[..., Start]
    dense_steps: Callable[..., Iterable[int]]
    trainings: Callable[..., int]
    in_steps: Mapping[str, int]
    ablates: frozenset[Changed]
    check: Callable[..., None]

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={default!r}" for name, default in self.settings.items()) or "none"
        return (
            f"{self.name}: {self.summary}\n  paper: {self.paper}\n  needs: training; "
            f"write foreprune compare --methods {self.name}, or foreprune.Experiment(method={self.name!r}, ...)\n"
            f"  settings: {settings}\n  ablations: {', '.join(self.ablations) or 'none'}"
        )

    @property
    def doc(self) -> str:
        """What it does, where from, and where this differs from the authors' code."""
        return inspect.getdoc(self.start) or ""

    @property
    def summary(self) -> str:
        """First paragraph of the documentation."""
        return " ".join(self.doc.split("\n\n")[0].split())

    @cached_property
    def settings(self) -> Mapping[str, Scalar]:
        """Setting -> default, the paper's: the keyword-only parameters of `start`."""
        return defaults_of(self.start)

    @property
    def ablations(self) -> tuple[str, ...]:
        """Names of the ablations that mean something for it."""
        return tuple(found.name for found in list_ablations() if found.changes in self.ablates)

    def check_settings(self, given: Mapping[str, Any]) -> None:
        """Raise TypeError for a setting it does not have or of another kind, ValueError for one out of range."""
        check_settings(f"procedure {self.name!r}", given, settings=self.settings, kinds=types_of(self.start))
        try:
            self.check(**{**self.settings, **given})
        except ValueError as error:
            raise ValueError(f"procedure {self.name!r}: {error}") from None


_REGISTRY: dict[str, Procedure] = {}


def procedure(
    name: str,
    *,
    paper: str,
    dense_steps: Callable[..., Iterable[int]] = lambda **_: (),
    trainings: Callable[..., int] = lambda density, **_: 1,
    in_steps: Mapping[str, int] | None = None,
    ablates: Iterable[Changed] = (),
    check: Callable[..., None] = lambda **_: None,
) -> Callable[[Callable[..., Start]], Callable[..., Start]]:
    """Register a function (run, **settings) -> Start; its keyword-only parameters are the settings.

    The other arguments are attributes of `Procedure`; `run` is a `foreprune.procedures.shared.RunContext`. Import torch
    in the function, so that the command line can list procedures without it.

    Raises:
        ValueError: the name is taken.
    """

    def register(start: Callable[..., Start]) -> Callable[..., Start]:
        if name in _REGISTRY:
            raise ValueError(f"a procedure named {name!r} is registered already; choose another name")
        _REGISTRY[name] = Procedure(
            name, paper, start, dense_steps, trainings, dict(in_steps or {}), frozenset(ablates), check
        )
        return start

    return register


@cache
def _discover() -> None:
    package = importlib.import_module(__package__ or "")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.ispkg:  # `shared` imports torch
            importlib.import_module(f"{package.__name__}.{module.name}")


def registry() -> dict[str, Procedure]:
    """name -> procedure, those of this folder and whatever else has been registered."""
    _discover()
    return _REGISTRY


def list_procedures() -> tuple[Procedure, ...]:
    """All procedures, sorted by name. Records; print them."""
    return tuple(found for _, found in sorted(registry().items()))


def get_procedure(name: str) -> Procedure:
    """The record of one procedure.

    Raises:
        ValueError: no such procedure; the message suggests near names.
    """
    known = registry()
    if name not in known:
        raise unknown("procedure", name, sorted(known))
    return known[name]


def procedure_of(experiment: Experiment) -> Procedure | None:
    """The procedure by which a run is pruned; None for methods and the dense reference."""
    return registry().get(experiment.method)


def settings_of(experiment: Experiment) -> dict[str, Scalar]:
    """The settings of the procedure of `experiment`, defaults included; nothing for other methods."""
    found = procedure_of(experiment)
    return {**found.settings, **experiment.hyper} if found else {}


def ablation_of(experiment: Experiment) -> Ablation | None:
    """What is changed of a run, or None.

    Raises:
        ValueError: unknown name.
    """
    return None if experiment.ablation == "none" else get_ablation(experiment.ablation)


def check_procedure(experiment: Experiment) -> None:
    """Raise for settings that the procedure of `experiment` cannot follow; other methods pass.

    Raises:
        TypeError: a setting it does not have, or of another kind.
        ValueError: one out of range, an ablation without meaning for it, or a step to prune at.
    """
    found = procedure_of(experiment)
    if found is None:
        return
    found.check_settings(experiment.hyper)
    if experiment.prune_at:
        raise ValueError(
            f"procedure {found.name!r} says itself when to prune: prune_at must be 0, not {experiment.prune_at}"
        )
    if experiment.ablation not in ("none", *found.ablations):
        allowed = ", ".join(("none", *found.ablations))
        raise ValueError(f"procedure {found.name!r} takes no ablation {experiment.ablation!r}; allowed: {allowed}")
