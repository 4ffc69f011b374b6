"""What can be known to be wrong before hours of runs begin."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence

import torch

from foreprune.ablations import invert
from foreprune.core.density import keep_count
from foreprune.core.net import Net
from foreprune.methods import method
from foreprune.procedures.dense import check_step
from foreprune.procedures.procedures import PROCEDURES, check_procedure, steps_of
from foreprune.records.spec import Experiment
from foreprune.zoo.datasets import load_cached
from foreprune.zoo.models import create


def check(experiments: Sequence[Experiment], *, data_dir: str | None) -> None:
    """Look up every method and setting, read each data set and build each network once.

    Raises:
        ValueError, TypeError, FileNotFoundError: what the runs would have raised.
    """
    check_methods(experiments)
    settings = {(e.data, e.model, e.init): e for e in sorted(experiments, key=lambda e: e.data)}  # each is read once
    totals: dict[tuple[str, str, str], int] = {}
    images: dict[str, int] = {}
    for key, experiment in settings.items():
        data = load_cached(experiment.data, data_dir)
        model = create(experiment.model, input_shape=data.shape, classes=data.classes, init=experiment.init)
        totals[key] = Net.of(model).total
        images[experiment.data] = len(data.train)
    for experiment in experiments:
        keep_count(experiment.density, totals[experiment.data, experiment.model, experiment.init])
        recipe = experiment.recipe
        steps = recipe.epochs * math.ceil((experiment.train_size or images[experiment.data]) / recipe.batch_size)
        for step in steps_of(experiment):
            check_step(step, steps)


def check_methods(experiments: Sequence[Experiment]) -> None:
    """Look up every method and procedure with its settings; no data and no network is needed.

    Raises:
        ValueError, TypeError: what the runs would have raised.
    """
    for experiment in experiments:
        if experiment.method in PROCEDURES:
            check_procedure(experiment)
        elif experiment.method != "dense":
            _check_method(experiment)


def _check_method(experiment: Experiment) -> None:
    try:
        found = method(experiment.method)
    except ValueError:
        if near := difflib.get_close_matches(experiment.method, PROCEDURES, n=2):
            hint = " or ".join(map(repr, near))
            raise ValueError(f"unknown method {experiment.method!r}; did you mean {hint}?") from None
        raise
    found.check_hyper(experiment.hyper)
    if experiment.ablation == "invert":
        invert(found)


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
