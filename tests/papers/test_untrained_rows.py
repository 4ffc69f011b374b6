"""Published numbers that need no training: Frankle et al. 2021, section 5, the share of channels without a weight.

Networks, seeds and masks are those of `foreprune sweep frankle-figure-5 --scale small`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from foreprune.ablations import shuffle
from foreprune.api import prune
from foreprune.core.masks import Masks
from foreprune.experiments.run import layers_of
from foreprune.papers import find
from foreprune.papers.published import PUBLISHED, Published, run_ids
from foreprune.records import Experiment, empty_share
from foreprune.zoo.datasets import load_cached
from foreprune.zoo.models import create

NUMBERS = [number for number in PUBLISHED if number.entry == "frankle-figure-5"]


def runs_of(number: Published) -> list[Experiment]:
    runs = {run.id: run for run in find(number.entry).experiments("paper")}
    return [runs[name] for name in run_ids(number)]


def empty_channels(run: Experiment, data_dir: Path | None = None) -> float:
    """Percent of channels without a weight."""
    model = create(run.model, input_shape=(3, 32, 32), classes=10, init=run.init, seed=run.seed)
    if data_dir is None:
        masks = prune(model, run.method, density=run.density, inputs=torch.zeros(1, 3, 32, 32), seed=run.seed)
    else:
        train = load_cached("cifar-10", str(data_dir)).train
        batches = train.scoring_batches(per_class=run.samples_per_class, seed=run.seed, device="cpu")
        masks = prune(model, run.method, density=run.density, data=batches, seed=run.seed)
    if run.ablation == "shuffle":
        masks = shuffle(masks, seed=run.seed)
    return percent_of_channels(model, masks)


def percent_of_channels(model: nn.Module, masks: Masks) -> float:
    share = empty_share(layer for layer in layers_of(model, masks) if len(layer.shape) == 4)
    assert share is not None
    return 100 * share


def name_of(number: Published) -> str:
    return f"{number.model}-{number.method}-{number.ablation}"


@pytest.mark.parametrize(
    "number",
    [n for n in NUMBERS if n.model == "resnet-20" and n.method in ("magnitude", "synflow")],
    ids=name_of,
)
def test_channels_without_a_weight_in_resnet_20(number: Published) -> None:
    ours = [empty_channels(run) for run in runs_of(number)]
    assert len(ours) == 5
    assert abs(statistics.mean(ours) - number.value) <= number.within == 1.5


@pytest.mark.parametrize(
    "number", [n for n in NUMBERS if n.model == "resnet-20" and n.method in ("snip", "grasp")], ids=name_of
)
def test_channels_without_a_weight_in_resnet_20_on_images(number: Published, real_data: Callable[[str], Path]) -> None:
    folder = real_data("cifar10-jpeg").parent
    ours = [empty_channels(run, folder) for run in runs_of(number)]
    assert abs(statistics.mean(ours) - number.value) <= number.within == 1.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [n for n in NUMBERS if n.model == "vgg-16" and n.method in ("magnitude", "synflow")],
    ids=name_of,
)
def test_channels_without_a_weight_in_vgg_16(number: Published) -> None:
    """One seed of five: a minute each."""
    assert abs(empty_channels(runs_of(number)[0]) - number.value) <= number.within == 1.5


def test_the_identity_of_normalizations_would_be_seen() -> None:
    """What the numbers were before scales of batch normalization were drawn and counted on paths."""
    number = next(n for n in NUMBERS if n.model == "resnet-20" and n.method == "synflow" and n.ablation == "none")
    run = runs_of(number)[0]
    model = create(run.model, input_shape=(3, 32, 32), classes=10, seed=run.seed)
    masks = prune(
        model, run.method, density=run.density, inputs=torch.zeros(1, 3, 32, 32), seed=run.seed, batchnorm="identity"
    )
    assert percent_of_channels(model, masks) < number.value - number.within
