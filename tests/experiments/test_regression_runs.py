"""Runs on images with real targets: the squared error is what scores see, what is minimized, and what is reported."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.nn.functional import mse_loss

import foreprune
from foreprune.core.masks import Masks
from foreprune.experiments import run_experiment
from foreprune.records import Experiment, run_folder
from foreprune.training.recipes import Recipe
from foreprune.zoo.datasets import load
from foreprune.zoo.models import create

SHORT = Recipe(epochs=2, batch_size=128, optimizer="adam", lr=1e-3)


def by_hand(*, squared: bool = True) -> Masks:
    data = load("digits-transformation")
    model = create("mlp-bn-16", input_shape=data.shape, classes=data.classes)
    batch = data.train.per_class(10, seed=0)
    return foreprune.prune(model, "snip", density=0.2, data=[batch], loss=mse_loss if squared else None)


def test_masks_tell_the_losses_apart() -> None:
    """Without a loss there is no silent cross-entropy of targets that are no classes."""
    assert by_hand().kept
    with pytest.raises(ValueError, match="default loss is cross-entropy of classes"):
        by_hand(squared=False)


def test_a_record_of_a_run(tmp_path: Path) -> None:
    experiment = Experiment(data="digits-transformation", model="mlp-bn-16", method="snip", density=0.2, recipe=SHORT)
    record = run_experiment(experiment, out=tmp_path)
    assert record.status == "finished", record.error
    assert Masks.load(run_folder(tmp_path, experiment) / "masks.safetensors") == by_hand()
    assert (record.top1, record.top5) == (None, None)
    assert [point.test_top1 for point in record.curve] == [None, None]
    assert record.test_loss == record.curve[-1].test_loss
    assert record.test_loss is not None
    assert 0 < record.test_loss < 1  # of pixels in [0, 1]; cross-entropy would be above 10
    assert record.analysis["log10_paths"] is not None
    assert record.total == 64 * 16 + 5 * 16 * 16 + 16 * 64
