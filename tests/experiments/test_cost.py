from __future__ import annotations

import math

import pytest
import torch

from foreprune.analysis import cost
from foreprune.experiments import estimate, grid, measured_rate
from foreprune.experiments.cost import _DATA, START, forward_flops, images
from foreprune.records import Experiment
from foreprune.training.recipes import Recipe
from foreprune.zoo import datasets
from foreprune.zoo.models import create

RECIPE = Recipe(epochs=4, batch_size=100, lr=0.1)
LENET = 2 * (784 * 300 + 300 * 100 + 100 * 10)


def run(method: str, **settings: object) -> Experiment:
    made = {"data": "mnist", "model": "lenet-300-100", "recipe": RECIPE, "method": method, **settings}
    if method != "dense":
        made = {"density": 0.1, **made}
    return Experiment.model_validate(made)


def test_flops_of_a_forward_pass() -> None:
    assert forward_flops("lenet-300-100", "mnist") == LENET == 532_400
    # ResNet-8 on 8x8: stem, three blocks of two 3x3 convolutions, two projections, classifier
    stages = [(8 * 8, 1, 16), (8 * 8, 16, 16), (8 * 8, 16, 16)]
    stages += [(4 * 4, 16, 32), (4 * 4, 32, 32), (2 * 2, 32, 64), (2 * 2, 64, 64)]
    macs = sum(9 * pixels * inside * outside for pixels, inside, outside in stages)
    macs += 4 * 4 * 16 * 32 + 2 * 2 * 32 * 64 + 64 * 10
    assert forward_flops("resnet-8", "digits") == 2 * macs


@pytest.mark.parametrize(("model", "data"), [("resnet-20", "cifar-100"), ("mlp-bn-100", "mnist-transformation")])
def test_flops_agree_with_the_analysis_of_a_real_network(model: str, data: str) -> None:
    about = _DATA[data]
    network = create(model, input_shape=about.shape, classes=about.outputs)
    assert forward_flops(model, data) == cost(network, inputs=torch.zeros(1, *about.shape)).dense_flops


def test_counting_neither_draws_nor_computes() -> None:
    before = torch.get_rng_state()
    forward_flops.cache_clear()
    forward_flops("vgg-19", "tiny-imagenet")
    assert torch.equal(before, torch.get_rng_state())


def test_sizes_of_data_sets() -> None:
    assert set(_DATA) == set(datasets.names())
    for name in ("digits", "digits-transformation"):
        loaded, about = datasets.load(name), _DATA[name]
        assert (len(loaded.train), loaded.shape, loaded.classes) == (about.images, about.shape, about.outputs)
    assert images(run("snip")) == 60_000
    assert images(run("snip", train_size=500)) == 500
    assert images(run("snip", data="digits", train_size=5000)) == 1442


def test_a_grid_of_methods_at_initialization() -> None:
    runs = grid(
        data="mnist",
        model="lenet-300-100",
        methods=("snip", "random"),
        densities=(0.1, 0.2),
        seeds=(0, 1, 2),
        recipe=RECIPE,
    )
    found = estimate(runs)
    assert (found.runs, found.epochs) == (15, 15 * 4)
    assert found.flops == 3 * LENET * 60_000 * 60
    assert found.seconds(1e9) == found.flops / 1e9 + START * 15


def test_a_dense_training_counts_once_for_all_that_begin_from_it() -> None:
    runs = [
        run("magnitude-after"),
        run("magnitude-after", density=0.2),
        run("ltr", hyper={"rewind_to": 3}),
        run("dense"),
    ]
    assert estimate(runs).epochs == 4 + 3 * 4
    assert estimate(runs[:1]).epochs == 4 + 4
    assert estimate([*runs, run("dense", seed=1)]).epochs == 20
    assert estimate([run("magnitude-after", seed=1), *runs[:1]]).epochs == 2 * (4 + 4)


def test_pruning_later_needs_the_dense_network_up_to_the_last_step() -> None:
    steps = 600  # of an epoch of 60,000 images
    assert estimate([run("snip", prune_at=steps)]).epochs == 4 + 1
    several = [run("snip", prune_at=150), run("random", prune_at=900), run("snip", prune_at=300)]
    assert estimate(several).epochs == 3 * 4 + 1.5
    assert estimate([*several, run("dense")]).epochs == 3 * 4 + 4
    short = run("snip", prune_at=10, train_size=250)  # three steps an epoch
    assert math.isclose(estimate([short]).epochs, 4 + 10 / 3)


def test_gradual_and_iterative_pruning() -> None:
    assert estimate([run("gmp")]).epochs == 4
    # 0.8, 0.64, 0.512 are above one half, 0.4096 is not: four rounds after the dense training
    assert estimate([run("imp", density=0.5)]).epochs == 4 + 4 * 4
    assert estimate([run("imp", density=0.5, hyper={"rate": 0.5})]).epochs == 4 + 4


def test_pruning_alone_costs_no_training() -> None:
    found = estimate([run("synflow", recipe=Recipe(epochs=0)), run("dense", recipe=Recipe(epochs=0))])
    assert (found.runs, found.epochs, found.flops) == (2, 0, 0)
    assert found.seconds() == 2 * START


def test_unknown_data_are_named() -> None:
    with pytest.raises(
        ValueError, match="size of the data set 'fashion' is not known; known are digits, digits-transformation, mnist"
    ):
        estimate([run("snip", data="fashion")])


def test_a_measured_rate_is_a_rate() -> None:
    run_ = run("snip", data="digits", model="fc-16")
    assert 1e5 < measured_rate([run_], seconds=0.05) < 1e14
