"""What can be known to be wrong before hours of runs begin."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from foreprune.core.density import keep_count
from foreprune.core.net import Net
from foreprune.experiments.run import load_data, load_model
from foreprune.experiments.spec import Experiment
from foreprune.methods import method


def check(experiments: Sequence[Experiment], *, data_dir: str | None) -> None:
    """Look up every method and setting, read each data set and build each network once.

    Raises:
        ValueError, TypeError, FileNotFoundError: what the runs would have raised.
    """
    settings = {(e.data, e.model, e.init): e for e in experiments}
    totals: dict[tuple[str, str, str], int] = {}
    for key, experiment in settings.items():
        data = load_data(experiment.data, data_dir)
        model = load_model(experiment.model, input_shape=data.shape, classes=data.classes, init=experiment.init)
        totals[key] = Net.of(model).total
    for experiment in experiments:
        if experiment.method != "dense":
            method(experiment.method).check_hyper(experiment.hyper)
        keep_count(experiment.density, totals[experiment.data, experiment.model, experiment.init])


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
