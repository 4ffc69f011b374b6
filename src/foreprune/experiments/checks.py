"""What can be known to be wrong before hours of runs begin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from foreprune.api import SELECTION, check_selection
from foreprune.core.density import keep_count
from foreprune.core.init import check_initializer
from foreprune.core.net import Net
from foreprune.methods import as_method
from foreprune.procedures import ablation_of, check_procedure, procedure_of, steps_of
from foreprune.procedures.shared import check_step
from foreprune.records import Experiment
from foreprune.zoo.datasets import describe, load_cached
from foreprune.zoo.models import builder, create


def check(experiments: Sequence[Experiment], *, data_dir: str | None) -> None:
    """Look up every method and setting, read each data set and build each network once.

    Raises:
        ValueError, TypeError, FileNotFoundError: what the runs would have raised.
    """
    check_names(experiments)
    settings = {(e.data, e.model, e.init): e for e in sorted(experiments, key=lambda e: e.data)}  # each is read once
    totals: dict[tuple[str, str, str], int] = {}
    images: dict[str, int] = {}
    for key, experiment in settings.items():
        data = load_cached(experiment.data, data_dir)
        model = create(experiment.model, input_shape=data.shape, classes=data.classes, init=experiment.init)
        totals[key] = Net.of(model).total
        images[experiment.data] = len(data.train)
    for experiment in experiments:
        if experiment.train_size > (there := images[experiment.data]):
            raise ValueError(
                f"train_size={experiment.train_size}: {experiment.data} has {there} training images; "
                "write a smaller number, or 0 for all"
            )
        keep_count(experiment.density, totals[experiment.data, experiment.model, experiment.init])
        recipe = experiment.recipe
        steps = recipe.epochs * recipe.steps_per_epoch(experiment.train_size or images[experiment.data])
        for step in steps_of(experiment):
            check_step(step, steps)


def check_names(experiments: Sequence[Experiment]) -> None:
    """Look up every method and procedure with its settings, every data set, network and initialization; nothing is read
    or built, and networks of the user's own are not imported.

    Raises:
        ValueError, TypeError: what the runs would have raised.
    """
    for data, model, init in {(each.data, each.model, each.init) for each in experiments}:
        describe(data)
        if ":" not in model:
            builder(model)
            check_initializer(init)
    for experiment in experiments:
        if procedure_of(experiment):
            check_procedure(experiment)
        elif experiment.method != "dense":
            _check_method(experiment)


def _check_method(experiment: Experiment) -> None:
    found = as_method(experiment.method)
    found.check_settings({name: value for name, value in experiment.hyper.items() if name not in SELECTION})
    chosen: dict[str, Any] = {name: experiment.hyper[name] for name in SELECTION if name in experiment.hyper}
    check_selection(**chosen)
    if (ablation := ablation_of(experiment)) and ablation.changes == "method":
        ablation.apply(found)


def resolve_device(device: str) -> str:
    """ "auto" is the accelerator if there is one.

    Raises:
        ValueError: CUDA is asked for and not there.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "--device cuda: torch sees no CUDA device here; use --device cpu or install a CUDA build of torch"
        )
    return device
