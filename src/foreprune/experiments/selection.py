"""Fewer of a list of runs, or shorter ones. Nothing here imports torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from foreprune.experiments.grid import parse_timed_method, shortened
from foreprune.procedures import procedure_of
from foreprune.records import Experiment

Runs = tuple[Experiment, ...]


def limited(
    experiments: Sequence[Experiment],
    *,
    seeds: int | None = None,
    methods: Sequence[str] = (),
    densities: Sequence[float] = (),
) -> Runs:
    """Those with the first so many seeds, these methods and these densities (to one percent); all where nothing is
    given.

    A method is named as it is ("snip"), or with step and settings ("snip@1000", "grasp:keep=magnitude"), which must
    then be equal. Dense references stay, whatever is chosen.

    Raises:
        ValueError: fewer than one seed, or a method or density that no run has.
    """
    if seeds is not None and seeds < 1:
        raise ValueError(f"seeds must be at least 1, not {seeds}")
    for text in methods:
        if not any(_is(run, text) for run in experiments):
            there = ", ".join(sorted({run.method for run in experiments}))
            raise ValueError(f"no run here uses the method {text!r}; there are {there}")
    for density in densities:
        if not any(_near(run, density) for run in experiments):
            there = ", ".join(f"{value:.3g}" for value in sorted({run.density for run in experiments}, reverse=True))
            raise ValueError(f"no run here has the density {density:g}; there are {there}")
    return tuple(
        run
        for run in experiments
        if (seeds is None or run.seed < seeds)
        and (
            run.method == "dense"
            or (
                (not methods or any(_is(run, text) for text in methods))
                and (not densities or any(_near(run, density) for density in densities))
            )
        )
    )


def _is(run: Experiment, text: str) -> bool:
    name, hyper, step = parse_timed_method(text)
    exact = "@" in text or ":" in text
    return run.method == name and (not exact or (run.hyper == hyper and run.prune_at == step))


def _near(run: Experiment, density: float) -> bool:
    return math.isclose(run.density, density, rel_tol=0.01)


def in_epochs(experiments: Sequence[Experiment], epochs: int) -> Runs:
    """The same runs trained for `epochs` epochs. Steps to prune at or to rewind to keep their place in training.

    Runs that only prune stay as they are. Runs that become equal are listed once.

    Raises:
        ValueError: a negative number of epochs, or none for runs that prune later.
    """
    later = sorted({run.method for run in experiments if run.recipe.epochs and (run.prune_at or procedure_of(run))})
    if later and not epochs:
        raise ValueError(
            f"without training nothing can be pruned during or after it: {', '.join(later)} need at least one epoch"
        )
    changed: dict[str, Experiment] = {}
    for run in experiments:
        if run.recipe.epochs:
            ratio = epochs / run.recipe.epochs
            settings = run.model_dump()
            settings["recipe"] = shortened(run.recipe, epochs)
            settings["prune_at"] = round(run.prune_at * ratio)
            for name, least in (found.in_steps if (found := procedure_of(run)) else {}).items():
                if name in run.hyper:
                    settings["hyper"][name] = max(least, round(float(run.hyper[name] or 0) * ratio))
            run = Experiment.model_validate(settings)
        changed[run.id] = run
    return tuple(changed.values())
