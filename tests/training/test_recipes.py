"""Recipes: the papers' numbers, schedules against numbers worked out by hand, and settings that would do nothing."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from torch import nn

from foreprune.training.optimizers import learning_rate, make_optimizer
from foreprune.training.recipes import RECIPES, SOURCES, Recipe, default_recipe, recipe


def test_constant() -> None:
    assert [learning_rate(Recipe(lr=0.3), step, 5) for step in (0, 4, 5, 99)] == [0.3] * 4


def test_milestones_fall_at_the_first_step_of_their_epoch() -> None:
    plan = Recipe(epochs=8, lr=1.0, schedule="milestones", milestones=(2, 5), gamma=0.5)
    assert [learning_rate(plan, step, 3) for step in (0, 5, 6, 14, 15, 23)] == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


def test_cosine_runs_over_all_steps() -> None:
    plan = Recipe(epochs=2, lr=1.0, schedule="cosine")
    rates = [learning_rate(plan, step, 4) for step in range(8)]
    assert rates[0] == 1.0
    assert rates[4] == pytest.approx(0.5)
    assert rates[2] == pytest.approx(0.8535533905932737)
    assert rates[7] == pytest.approx(0.5 * (1 + math.cos(7 * math.pi / 8)))
    assert learning_rate(plan, 8, 4) == 0.0
    assert learning_rate(plan, 80, 4) == 0.0


def test_warm_up_is_linear_for_each_step() -> None:
    flat = Recipe(epochs=4, lr=0.8, warmup_epochs=2)
    assert [learning_rate(flat, step, 2) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])
    cosine = Recipe(epochs=4, lr=0.8, warmup_epochs=2, schedule="cosine")
    assert [learning_rate(cosine, step, 2) for step in range(8)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 0.8, 0.8 * 0.8535533905932737, 0.4, 0.8 * 0.14644660940672624]
    )
    drops = Recipe(epochs=4, lr=0.8, warmup_epochs=2, schedule="milestones", milestones=(1, 3))
    assert [learning_rate(drops, step, 2) for step in range(8)] == pytest.approx(
        [0.2, 0.4, 0.06, 0.08, 0.08, 0.08, 0.008, 0.008]
    )
    half = Recipe(epochs=4, lr=1.0, warmup_epochs=0.5)
    assert [learning_rate(half, step, 8) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_a_warm_up_longer_than_the_training() -> None:
    plan = Recipe(epochs=1, lr=1.0, warmup_epochs=2, schedule="cosine")
    assert [learning_rate(plan, step, 2) for step in range(2)] == [0.25, 0.5]


def test_steps_that_do_not_exist() -> None:
    for step, steps in ((-1, 3), (0, 0)):
        with pytest.raises(ValueError, match=rf"step={step} and steps_per_epoch={steps}: steps count from 0"):
            learning_rate(Recipe(), step, steps)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adam", "momentum": 0.9}, r"momentum=0.9 has no meaning for adam; use sgd or rmsprop"),
        ({"nesterov": True}, r"nesterov=True needs optimizer='sgd' and a momentum above 0"),
        ({"optimizer": "rmsprop", "momentum": 0.9, "nesterov": True}, r"nesterov=True needs optimizer='sgd'"),
        ({"milestones": (3,)}, r"schedule='constant' with milestones=\(3,\): give both .* or neither"),
        ({"schedule": "milestones"}, r"schedule='milestones' with milestones=\(\)"),
        ({"schedule": "milestones", "milestones": (5, 3)}, r"milestones must rise and begin at epoch 1 .* \(5, 3\)"),
        ({"schedule": "milestones", "milestones": (0, 3)}, r"milestones must rise and begin at epoch 1"),
        ({"lr": float("nan")}, r"lr must be finite, not nan"),
        ({"lr": 0}, r"lr must be above 0, not 0"),
        ({"epochs": -1}, r"epochs must be at least 0, not -1"),
        ({"batch_size": 0}, r"batch_size must be at least 1, not 0"),
        ({"momentum": 1.0}, r"momentum must be at least 0 and below 1, not 1"),
        ({"label_smoothing": -0.1}, r"label_smoothing must be at least 0 and below 1, not -0.1"),
        ({"optimizer": "lion"}, r"optimizer must be one of 'sgd', 'adam', 'adamw', 'nadam', 'rmsprop', not 'lion'"),
    ],
)
def test_settings_that_would_do_nothing_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 1.5}, r"epochs must be a whole number, not 1.5"),
        ({"epochs": True}, r"epochs must be a whole number, not True"),
        ({"lr": "0.1"}, r"lr must be a number, not '0.1'"),
        ({"nesterov": 1}, r"nesterov must be True or False, not 1"),
        ({"schedule": "milestones", "milestones": 3}, r"milestones must be a tuple, not 3"),
        ({"schedule": "milestones", "milestones": (1, "2")}, r"milestones\[1\] must be a whole number, not '2'"),
        ({"epoch": 3}, r"unexpected keyword argument 'epoch'"),
    ],
)
def test_settings_of_another_type(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Recipe(**settings)


def test_recipes_are_values() -> None:
    plan = Recipe(lr=1, schedule="milestones", milestones=[2, 3])  # type: ignore[arg-type]
    assert (repr(plan.lr), plan.milestones) == ("1.0", (2, 3))
    assert plan == Recipe(lr=1.0, schedule="milestones", milestones=(2, 3))
    assert hash(plan) == hash(Recipe(lr=1.0, schedule="milestones", milestones=(2, 3)))
    with pytest.raises(FrozenInstanceError):
        plan.lr = 0.5  # type: ignore[misc]


# optimizer, epochs, batch size, rate, momentum, Nesterov, milestones, weight decay
PAPERS: dict[str, tuple[object, ...]] = {
    "synflow-vgg-cifar": ("sgd", 160, 128, 0.1, 0.9, True, (60, 120), 1e-4),
    "snip-lenet-mnist": ("sgd", 185, 100, 0.1, 0.9, False, (46, 93, 139), 5e-4),
    "frankle-lenet-mnist": ("sgd", 40, 128, 0.1, 0.0, False, (), 0.0),
    "frankle-resnet-20-cifar-10": ("sgd", 160, 128, 0.1, 0.9, False, (80, 120), 1e-4),
    "frankle-vgg-16-cifar-10": ("sgd", 160, 128, 0.1, 0.9, False, (80, 120), 1e-4),
    "frankle-resnet-18-tiny-imagenet": ("sgd", 200, 256, 0.2, 0.9, False, (100, 150), 1e-4),
    "frankle-resnet-50-imagenet": ("sgd", 90, 1024, 0.4, 0.9, False, (30, 60, 80), 1e-4),
    "gebhart-resnet-20-cifar": ("adam", 100, 64, 1e-3, 0.0, False, (60,), 1e-4),
    "gebhart-vgg-cifar-10": ("adam", 160, 64, 1e-3, 0.0, False, (60, 120), 1e-4),
    "gebhart-vgg-cifar-100": ("adam", 160, 64, 5e-4, 0.0, False, (60, 120), 1e-4),
    "gebhart-fc-mnist": ("adam", 50, 64, 0.01, 0.0, False, (), 1e-4),
    "gebhart-fc-cifar": ("adam", 100, 64, 1e-3, 0.0, False, (60,), 1e-4),
    "patil-resnet-20-cifar": ("sgd", 160, 128, 0.1, 0.9, False, (80, 120), 1e-4),
    "patil-vgg-19-cifar": ("sgd", 160, 128, 0.1, 0.0, False, (80, 120), 5e-3),
    "patil-tiny-imagenet": ("sgd", 200, 256, 0.2, 0.9, False, (100, 150), 1e-4),
    "patil-transformation": ("adam", 20, 32, 1e-3, 0.0, False, tuple(range(1, 20)), 0.0),
    "ntksap-resnet-20-cifar-10": ("sgd", 160, 128, 0.1, 0.9, False, (80, 120), 1e-4),
    "ntksap-vgg-16-cifar-100": ("sgd", 160, 128, 0.1, 0.9, True, (60, 120), 5e-4),
    "ntksap-resnet-18-tiny-imagenet": ("sgd", 200, 256, 0.2, 0.9, False, (100, 150), 5e-4),
}


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_numbers(name: str) -> None:
    r = recipe(name)
    found = (r.optimizer, r.epochs, r.batch_size, r.lr, r.momentum, r.nesterov, r.milestones, r.weight_decay)
    assert found == PAPERS[name]
    assert r.gamma == (0.95 if name == "patil-transformation" else 0.1)
    assert (r.precision, r.warmup_epochs, r.label_smoothing) == ("float32", 0.0, 0.0)


def test_a_decay_after_every_epoch() -> None:
    plan = recipe("patil-transformation")
    assert learning_rate(plan, 19, 1) == pytest.approx(1e-3 * 0.95**19)


def test_every_recipe_has_a_source_and_every_paper_is_checked() -> None:
    assert RECIPES.keys() == SOURCES.keys()
    assert RECIPES.keys() - PAPERS.keys() == {"digits", "quick"}
    assert all(len(source) > 20 for source in SOURCES.values())
    with pytest.raises(TypeError, match="item assignment"):
        RECIPES["digits"] = Recipe()  # type: ignore[index]


def test_unknown_names_bring_near_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown recipe 'digit'; did you mean 'digits'\? known: digits, quick"):
        recipe("digit")
    with pytest.raises(ValueError, match=r"unknown recipe 'zzz'; known: digits, quick, snip-lenet-mnist, "):
        recipe("zzz")


@pytest.mark.parametrize(
    ("data", "model", "name"),
    [
        ("digits", "lenet-300-100", "digits"),
        ("digits", "my.module:factory", "digits"),
        ("mnist", "lenet-300-100", "frankle-lenet-mnist"),
        ("mnist", "fc-500", "gebhart-fc-mnist"),
        ("cifar-10", "resnet-20", "frankle-resnet-20-cifar-10"),
        ("cifar-10", "wide-resnet-20", "frankle-resnet-20-cifar-10"),
        ("cifar-10", "vgg-16", "frankle-vgg-16-cifar-10"),
        ("cifar-10", "vgg-19", "patil-vgg-19-cifar"),
        ("cifar-10", "fc-1000", "gebhart-fc-cifar"),
        ("cifar-10", "my.module:factory", "quick"),
        ("cifar-100", "vgg-16", "ntksap-vgg-16-cifar-100"),
        ("cifar-100", "resnet-20", "patil-resnet-20-cifar"),
        ("cifar-100", "fc-100", "gebhart-fc-cifar"),
        ("tiny-imagenet", "resnet-18", "frankle-resnet-18-tiny-imagenet"),
        ("modified-tiny-imagenet", "resnet-18", "frankle-resnet-18-tiny-imagenet"),
        ("imagenet", "resnet-50", "frankle-resnet-50-imagenet"),
        ("my-data", "resnet-20", "quick"),
    ],
)
def test_default_recipes(data: str, model: str, name: str) -> None:
    assert default_recipe(data, model) is RECIPES[name]


def test_optimizers_have_the_settings_of_the_recipe() -> None:
    model = nn.Linear(3, 2)
    kinds = {
        "sgd": torch.optim.SGD,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "nadam": torch.optim.NAdam,
        "rmsprop": torch.optim.RMSprop,
    }
    for name, kind in kinds.items():
        momentum = 0.9 if name in ("sgd", "rmsprop") else 0.0
        plan = Recipe(optimizer=name, lr=0.2, weight_decay=0.01, momentum=momentum)
        optimizer = make_optimizer(model, plan)
        assert type(optimizer) is kind
        (group,) = optimizer.param_groups  # every parameter decays, the bias too
        assert len(group["params"]) == 2
        assert (group["lr"], group["weight_decay"]) == (0.2, 0.01)
        assert group.get("momentum", 0.0) == momentum
    nesterov = make_optimizer(model, Recipe(momentum=0.9, nesterov=True))
    assert nesterov.param_groups[0]["nesterov"] is True


def test_recipes_and_history_do_not_import_torch() -> None:
    program = "import sys, foreprune.training.recipes, foreprune.training.history; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_last_batch_of_an_epoch_may_be_smaller() -> None:
    assert [Recipe(batch_size=100).steps_per_epoch(images) for images in (1, 100, 101, 250)] == [1, 1, 2, 3]
