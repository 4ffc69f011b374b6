"""`Entry`: one table or figure of a paper, and how a function becomes one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from foreprune.records import Experiment

Scale = Literal["smoke", "small", "paper"]
Runs = tuple[Experiment, ...]
SCALES: tuple[Scale, ...] = get_args(Scale)

_REGISTRY: dict[str, Entry] = {}


@dataclass(frozen=True)
class Entry:
    """One table or figure of a paper, as the runs behind it.

    Attributes:
        name: as `foreprune sweep` takes it.
        title: what it shows, in one line.
        paper: authors, place, number.
        where: figure, table or appendix, with its section.
        look: what to look at in the report.
        notes: what the paper leaves open, and what was decided here.
        make: the function from a scale to the runs.
    """

    name: str
    title: str
    paper: str
    where: str
    look: str
    notes: tuple[str, ...]
    make: Callable[[Scale], Runs]

    def experiments(self, scale: Scale = "paper") -> Runs:
        """The runs: as in the paper, in `small` (hours on a CPU), or as a `smoke` test (minutes, no data files).

        Equal runs of different entries have equal ids, so that a folder holds them once.

        Raises:
            ValueError: unknown scale.
        """
        if scale not in SCALES:
            raise ValueError(f"scale must be one of {', '.join(SCALES)}, not {scale!r}")
        return self.make(scale)


def entry(prefix: str, paper: str, where: str, look: str) -> Callable[[Callable[[Scale], Runs]], Entry]:
    """Register a function from a scale to runs. Its docstring is the title, then the notes; `figure_3` of the prefix
    "frankle" is called "frankle-figure-3". The other arguments are attributes of `Entry`.

    Raises:
        ValueError: there is an entry of that name.
    """

    def register(make: Callable[[Scale], Runs]) -> Entry:
        name = f"{prefix}-{make.__name__.replace('_', '-')}"
        title, *notes = inspect.cleandoc(make.__doc__ or "").split("\n\n")
        joined = tuple(" ".join(note.split()) for note in notes)
        if name in _REGISTRY:
            raise ValueError(f"there are two entries called {name!r}; rename one of them")
        _REGISTRY[name] = Entry(name, title.rstrip("."), paper, where, look, joined, make)
        return _REGISTRY[name]

    return register


def registry() -> dict[str, Entry]:
    """Every entry registered so far, by name."""
    return dict(_REGISTRY)


def together(groups: Iterable[Iterable[Experiment]]) -> Runs:
    """The runs of all groups, equal ones once, lower seeds first: who stops early has all of the design once."""
    runs = {run.model_dump_json(): run for group in groups for run in group}  # a fifth of the time of ids
    return tuple(sorted(runs.values(), key=lambda run: run.seed))
