"""How long a sweep still takes, from what its runs have taken so far. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from foreprune.records import Experiment


@dataclass(frozen=True)
class RunProgress:
    """How far one run is.

    Attributes:
        done: fraction of the run that is behind it, from 0 to 1.
        measured: the part of `done` that took `seconds`; the rest was done earlier, by an interrupted attempt.
        seconds: spent on that part.
        since: seconds that have passed since `done` was true, and are behind the run too.
    """

    experiment: Experiment
    done: float = 0.0
    measured: float = 0.0
    seconds: float = 0.0
    since: float = 0.0


def work(experiment: Experiment) -> float:
    """The size of a run against others with the same data and network: its epochs, and one for what is not training.

    Pruned networks are trained like dense ones, so the density does not count.
    """
    return experiment.recipe.epochs + 1.0


def seconds_left(runs: Sequence[RunProgress], *, at_a_time: int) -> float | None:
    """Seconds until all of `runs` are done if `at_a_time` of them go on at once; None as long as nothing is known.

    A run's pace is that of runs with the same data, network, training size and method where some were measured, else
    with the same data and network, else of all.
    """
    keys: tuple[Callable[[Experiment], Hashable], ...] = (
        lambda each: (each.data, each.model, each.train_size, each.method),
        lambda each: (each.data, each.model, each.train_size),
        lambda each: None,
    )
    spent: dict[tuple[int, Hashable], tuple[float, float]] = {}
    for run in runs:
        for level, key in enumerate(keys):
            where = level, key(run.experiment)
            seconds, amount = spent.get(where, (0.0, 0.0))
            spent[where] = seconds + run.seconds, amount + run.measured * work(run.experiment)
    left: list[float] = []
    for run in runs:
        if run.done >= 1.0:
            continue
        known = [spent[level, key(run.experiment)] for level, key in enumerate(keys)]
        pace = next((seconds / amount for seconds, amount in known if amount > 0), None)
        if pace is None:
            return None
        left.append(max(0.0, pace * work(run.experiment) * (1.0 - run.done) - run.since))
    return max(sum(left) / max(1, at_a_time), max(left)) if left else 0.0
