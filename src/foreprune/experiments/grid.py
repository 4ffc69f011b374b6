"""From a few words to a list of runs. Nothing here imports torch."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from foreprune.ablations import parse_ablation
from foreprune.records import Experiment, Scalar
from foreprune.training.recipes import Recipe


def parse_method(text: str) -> tuple[str, dict[str, Scalar]]:
    """ "grasp:keep=magnitude,temperature=1" -> ("grasp", {"keep": "magnitude", "temperature": 1}).

    Values are read as JSON (numbers, true, false, null) and otherwise as plain words.

    Raises:
        ValueError: a setting without "=", or the same one twice.
    """
    name, _, settings = text.partition(":")
    hyper: dict[str, Scalar] = {}
    for setting in filter(None, settings.split(",")):
        key, equals, value = setting.partition("=")
        if not equals or not key or not value:
            raise ValueError(
                f"method {text!r}: {setting!r} is not of the form name=value; "
                "write e.g. grasp:keep=magnitude,temperature=1"
            )
        if key in hyper:
            raise ValueError(f"method {text!r} sets {key!r} twice; keep one")
        try:
            read = json.loads(value)
        except ValueError:
            read = value
        hyper[key] = read if read is None or isinstance(read, (bool, int, float, str)) else value
    return name, hyper


def parse_timed_method(text: str) -> tuple[str, dict[str, Scalar], int]:
    """ "snip@1000:rounds=5" -> ("snip", {"rounds": 5}, 1000): the method, its settings, and the step to prune at.

    Raises:
        ValueError: as `parse_method`, or a step that is not a whole number from 0 on.
    """
    name, hyper = parse_method(text)
    name, at, step = name.partition("@")
    if not at:
        return name, hyper, 0
    if not step.isascii() or not step.isdigit():
        raise ValueError(
            f"method {text!r}: {step!r} is no optimizer step; write e.g. snip@1000 to prune after 1,000 steps"
        )
    return name, hyper, int(step)


def parse_density(texts: Sequence[str]) -> float | dict[str, float] | None:
    """("0.1", "head=1") -> {"*": 0.1, "head": 1.0}, what `foreprune.prune` takes as densities by patterns; a number
    alone is that number, and nothing is None.

    Raises:
        ValueError: what is neither a number nor PATTERN=NUMBER, or twice the same.
    """
    found: dict[str, float] = {}
    for text in texts:
        pattern, equals, value = text.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isnan(number) or (equals and not pattern):
            raise ValueError(
                f'density {text!r} is neither a number nor PATTERN=NUMBER; write e.g. 0.1 "head=1" "*.qkv[q,k]=0.5"'
            )
        if (name := pattern or "*") in found:
            which = f"for {pattern!r}" if pattern else "for what no pattern fits"
            raise ValueError(f"density has two numbers {which}, {found[name]:g} and {number:g}; keep one")
        found[name] = number
    return found["*"] if list(found) == ["*"] else found or None


def shortened(recipe: Recipe, epochs: int) -> Recipe:
    """The same recipe in another number of epochs: milestones and warm-up keep their place relative to the end.

    Raises:
        ValueError: a negative number of epochs.
    """
    if epochs == recipe.epochs:
        return recipe
    if epochs < 0:
        raise ValueError(f"epochs must be at least 0, not {epochs}")
    ratio = epochs / recipe.epochs if recipe.epochs else 0.0
    marks = sorted({round(mark * ratio) for mark in recipe.milestones} - {0})
    return replace(
        recipe,
        epochs=epochs,
        milestones=tuple(marks),
        warmup_epochs=recipe.warmup_epochs * ratio,
        schedule="constant" if recipe.schedule == "milestones" and not marks else recipe.schedule,
    )


def grid(
    *,
    data: str,
    model: str,
    methods: Sequence[str],
    densities: Sequence[float],
    seeds: Iterable[int],
    recipe: Recipe,
    ablations: Sequence[str] = (),
    init: str = "kaiming-normal-fan-in",
    samples_per_class: int = 10,
    train_size: int = 0,
) -> tuple[Experiment, ...]:
    """Every method at every density with every seed, as it is and with each ablation; the dense reference first.

    `methods` are names with an optional step to prune at and settings (`parse_timed_method`), `ablations` names with an
    optional value (`foreprune.ablations.parse_ablation`). Equal runs are listed once.

    Raises:
        ValueError: nothing to run, or a setting out of range.
    """
    seeds = tuple(seeds)
    if not methods or not densities or not seeds:
        raise ValueError("nothing to run: give at least one method, one density and one seed")
    wanted = [timed for timed in map(parse_timed_method, methods) if timed[0] != "dense"]
    variants = [("none", 1.0), *((found.name, value) for found, value in map(parse_ablation, ablations))]
    shared = {
        "data": data,
        "model": model,
        "init": init,
        "samples_per_class": samples_per_class,
        "train_size": train_size,
        "recipe": recipe,
    }
    experiments = [Experiment.model_validate({**shared, "method": "dense", "seed": seed}) for seed in seeds]
    # seeds outermost: whoever stops early has every method with fewer seeds, not fewer methods
    for seed, density, (name, hyper, step), (ablation, fraction) in itertools.product(
        seeds, densities, wanted, variants
    ):
        own = {"method": name, "density": density, "seed": seed, "hyper": hyper, "prune_at": step}
        experiments.append(Experiment.model_validate({**shared, **own, "ablation": ablation, "widen": fraction}))
    return tuple({experiment.id: experiment for experiment in experiments}.values())
