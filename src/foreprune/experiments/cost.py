"""What a list of runs costs before any of it is run: epochs, FLOPs, hours."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from foreprune.procedures import END, dense_of, procedure_of, settings_of, steps_of
from foreprune.records import Experiment
from foreprune.zoo.models import create

RATE = 5e10  # FLOP/s of training: half of what gradients alone reach on two idle cores of a server CPU (ResNet-20)
START = 3.0  # seconds of a run outside training: a process starts, reads data, prunes, analyzes


@dataclass(frozen=True)
class _Data:
    images: int
    shape: tuple[int, int, int]
    outputs: int


# without reading any file: training images, shape of one, outputs of a network
_DATA = {
    "digits": _Data(1442, (1, 8, 8), 10),
    "digits-transformation": _Data(1442, (1, 8, 8), 64),
    "mnist": _Data(60_000, (1, 28, 28), 10),
    "mnist-transformation": _Data(10_000, (1, 28, 28), 784),
    "cifar-10": _Data(50_000, (3, 32, 32), 10),
    "cifar-100": _Data(50_000, (3, 32, 32), 100),
    "tiny-imagenet": _Data(100_000, (3, 64, 64), 200),
    "modified-tiny-imagenet": _Data(100_000, (3, 64, 64), 200),
    "imagenet": _Data(1_281_167, (3, 224, 224), 1000),
}


@dataclass(frozen=True)
class Estimate:
    """What a list of runs costs.

    Attributes:
        runs: how many there are.
        epochs: of training, summed over runs. A dense training that several runs begin from counts once.
        flops: of training: three forward passes for each image of each epoch, the network counted dense.
    """

    runs: int
    epochs: float
    flops: float

    def seconds(self, rate: float = RATE) -> float:
        """At `rate` FLOP/s, with three seconds for each run beside its training."""
        return self.flops / rate + START * self.runs


def estimate(experiments: Iterable[Experiment]) -> Estimate:
    """Cost of `experiments`. Scoring and testing are not counted: by the papers' recipes training costs far more.

    Raises:
        ValueError: unknown network or data set.
    """
    listed = list(experiments)
    spent = [(experiment, _own_epochs(experiment)) for experiment in listed]
    dense: dict[str, tuple[Experiment, float]] = {}
    for experiment in listed:
        if (needed := _dense_epochs(experiment)) > 0:
            origin = dense_of(experiment)
            key = origin.model_dump_json()
            dense[key] = (origin, max(dense.get(key, (origin, 0.0))[1], needed))
    spent += dense.values()
    return Estimate(
        runs=len(listed),
        epochs=sum(epochs for _, epochs in spent),
        flops=sum(3 * forward_flops(run.model, run.data) * images(run) * epochs for run, epochs in spent if epochs),
    )


def images(experiment: Experiment) -> int:
    """Training images of a run.

    Raises:
        ValueError: unknown data set.
    """
    there = _about(experiment.data).images
    return min(experiment.train_size or there, there)


def _own_epochs(experiment: Experiment) -> float:
    """Epochs beside those of the dense training that it begins from; all of a dense run's belong to the latter."""
    if experiment.method == "dense":
        return 0.0
    found = procedure_of(experiment)
    trainings = found.trainings(experiment.density, **settings_of(experiment)) if found else 1
    return float(trainings * experiment.recipe.epochs)


def _dense_epochs(experiment: Experiment) -> float:
    steps = steps_of(experiment)
    if END in steps:
        return float(experiment.recipe.epochs)
    each = experiment.recipe.steps_per_epoch(images(experiment))
    return max(steps, default=0) / each


@cache
def forward_flops(model: str, data: str) -> int:
    """FLOPs of one forward pass of one image, two for each multiply-add; counted without computing anything.

    Raises:
        ValueError: unknown network or data set.
    """
    about = _about(data)
    counter = FlopCounterMode(display=False)
    with torch.device("meta"):
        network = create(model, input_shape=about.shape, classes=about.outputs).eval()
        with counter, torch.no_grad():
            network(torch.empty(1, *about.shape))
    return int(counter.get_total_flops())


def _about(data: str) -> _Data:
    if data not in _DATA:
        raise ValueError(f"the size of the data set {data!r} is not known; known are {', '.join(_DATA)}")
    return _DATA[data]


def measured_rate(experiments: Sequence[Experiment], *, device: str = "cpu", seconds: float = 2.0) -> float:
    """FLOP/s of training the costliest network of `experiments` here, on random images, for about so many seconds."""
    run = max(experiments, key=lambda each: forward_flops(each.model, each.data))
    about = _about(run.data)
    network = create(run.model, input_shape=about.shape, classes=about.outputs).to(device)
    batch = min(run.recipe.batch_size, 64)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(batch, *about.shape, generator=generator).to(device)
    labels = torch.zeros(batch, dtype=torch.long, device=device)
    done, begun = -1, time.perf_counter()
    while done < 1 or time.perf_counter() - begun < seconds:
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(network(inputs), labels))
        optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize()
        done += 1
        if not done:  # the first step warms up
            begun = time.perf_counter()
    return 3 * forward_flops(run.model, run.data) * batch * done / (time.perf_counter() - begun)
