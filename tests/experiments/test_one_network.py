"""One network at a time, on images with real targets: the squared error is what is scored and minimized."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.nn.functional import mse_loss

import foreprune
from foreprune.core.masks import Masks
from foreprune.experiments.one_network import build, prune_once, train_once
from foreprune.records import Epoch
from foreprune.training.evaluate import evaluate
from foreprune.training.recipes import Recipe
from foreprune.zoo.datasets import load
from foreprune.zoo.models import create

SHORT = Recipe(epochs=2, batch_size=128, optimizer="adam", lr=1e-3)


def by_hand(*, squared: bool = True) -> Masks:
    data = load("digits-transformation")
    model = create("mlp-bn-16", input_shape=data.shape, classes=data.classes)
    batch = data.train.per_class(10, seed=0)
    return foreprune.prune(model, "snip", density=0.2, data=[batch], loss=mse_loss if squared else None)


def test_one_network_at_a_time(tmp_path: Path) -> None:
    network = build("mlp-bn-16", data="digits-transformation")
    masks = prune_once(network, "snip", density=0.2)
    assert masks == by_hand()
    points: list[Epoch] = []
    history = train_once(network, recipe=SHORT, out=tmp_path / "trained", masks=masks, on_epoch=points.append)
    assert tuple(points) == history.curve
    data = load("digits-transformation")
    model = create("mlp-bn-16", input_shape=data.shape, classes=data.classes)
    model.load_state_dict(load_file(tmp_path / "trained" / "weights.safetensors"))
    reached = history.curve[-1].test_loss
    assert reached == pytest.approx(evaluate(model, data.test, loss=mse_loss).loss, rel=1e-6)
    written = json.loads((tmp_path / "trained" / "history.json").read_text())
    assert written["curve"][-1]["test_loss"] == reached
    assert sorted(path.name for path in (tmp_path / "trained").iterdir()) == ["history.json", "weights.safetensors"]


def test_training_needs_data(tmp_path: Path) -> None:
    network = build("fc-8", data=None, input_shape=(1, 8, 8))
    with pytest.raises(ValueError, match=r"training needs data: name a data set, e\.g\. digits"):
        train_once(network, recipe=SHORT, out=tmp_path)
