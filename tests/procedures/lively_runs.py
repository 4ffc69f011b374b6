"""Runs of a network with buffers and randomness of its own, and what training it by hand gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foreprune.core.masks import Masks
from foreprune.experiments import run_experiment
from foreprune.procedures.shared import (
    RunContext,
)
from foreprune.records import Epoch, Experiment, Record, run_folder
from foreprune.training.fit import fit
from foreprune.training.recipes import Recipe
from foreprune.zoo.datasets import load_cached
from foreprune.zoo.models import create

# 6 steps an epoch for the 1,442 images of the digits, 18 in all
RECIPE = Recipe(epochs=3, batch_size=256, lr=0.1, momentum=0.9, weight_decay=1e-3)


STEPS = 18


NEW_ORDER = 2_000_003


NAMES = ("1.weight", "5.weight")


KEEP = round(0.3 * 16 * 74)


def lively_model(*, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """With buffers and randomness of its own."""
    pixels = input_shape[0] * input_shape[1] * input_shape[2]
    return nn.Sequential(
        nn.Flatten(), nn.Linear(pixels, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, classes)
    )


MODEL = f"{__name__}:lively_model"


def experiment(method: str = "snip", **changes: object) -> Experiment:
    base = {"data": "digits", "model": MODEL, "method": method, "density": 0.3, "recipe": RECIPE}
    return Experiment.model_validate(base | {"density": 1.0} | changes if method == "dense" else base | changes)


def context(found: Experiment, out: Path, snapshots: tuple[int, ...] = ()) -> RunContext:
    data = load_cached("digits", None)
    return RunContext(found, data, data.train, out, "cpu", snapshots)


def fresh(seed: int = 0) -> nn.Module:
    return create(MODEL, input_shape=(1, 8, 8), classes=10, seed=seed)


def plain_fit(model: nn.Module, *, seed: int = 0, masks: Mapping[str, Tensor] | None = None, **more: Any) -> Any:
    data = load_cached("digits", None)
    return fit(model, data.train, data.test, recipe=RECIPE, seed=seed, masks=masks, **more)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def numbers(curve: tuple[Epoch, ...]) -> list[tuple[float | None, ...]]:
    return [(p.lr, p.train_loss, p.train_top1, p.test_loss, p.test_top1, p.test_top5) for p in curve]


def run(found: Experiment, out: Path, **more: Any) -> Record:
    record = run_experiment(found, out=out, **more)
    assert record.status == "finished", record.error
    return record


def masks_of(record: Record, out: Path) -> Masks:
    return Masks.load(run_folder(out, record.experiment) / "masks.safetensors")


def by_magnitude(states: Mapping[str, Tensor], keep: int, among: Mapping[str, Tensor] | None = None) -> Masks:
    """The `keep` largest by a sort; there are no ties."""
    names = ["1.weight", "5.weight"]
    scores = {name: states[name].abs() for name in names}
    if among is not None:
        scores = {name: torch.where(among[name], score, -1.0) for name, score in scores.items()}
    limit = torch.cat([score.flatten() for score in scores.values()]).sort(descending=True).values[keep - 1]
    return Masks({name: score >= limit for name, score in scores.items()})
