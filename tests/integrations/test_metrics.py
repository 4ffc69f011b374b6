"""The numbers that loggers get."""

from __future__ import annotations

import re

import pytest
import torch
from integrations.shared import masks_for, network
from torch import nn

import foreprune as fp
from foreprune import Masks
from foreprune.integrations import mask_metrics


def test_weights_are_counted_as_they_are() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    nn.init.ones_(model[0].weight)
    nn.init.ones_(model[2].weight)
    kept = torch.ones(3, 4, dtype=torch.bool)
    kept[0] = False
    kept[1, 0] = False
    masks = Masks({"0.weight": kept, "2.weight": torch.ones(2, 3, dtype=torch.bool)})
    assert mask_metrics(model, masks) == {
        "masks/density": 1.0,
        "masks/dead_units": 0.0,
        "masks/revived_weights": 5.0,
    }
    masks.apply_(model)
    assert mask_metrics(model, masks, prefix="") == {
        "density": 13 / 18,
        "dead_units": 1.0,
        "revived_weights": 0.0,
    }
    with torch.no_grad():
        model[2].weight[0] = 0  # kept, and zero
        model[0].weight[0, 0] = float("nan")
    assert mask_metrics(nn.DataParallel(model), masks, prefix="") == {
        "density": 11 / 18,
        "dead_units": 1.0,
        "revived_weights": 1.0,
    }


def test_blocks_that_are_not_prunable_do_not_count() -> None:
    model = nn.MultiheadAttention(4, 2)
    masks = fp.prune(model, "erk", density=0.5, prunable=["*in_proj_weight[q,k]"])
    masks.apply_(model)
    with torch.no_grad():
        model.in_proj_weight[0] = 0  # a query
    found = mask_metrics(model, masks, prefix="")
    assert (found["density"], found["revived_weights"]) == (masks.density, 0)
    assert found["dead_units"] >= 1


def test_masks_of_another_model_are_an_error() -> None:
    with pytest.raises(
        ValueError, match=re.escape("masks belong to another model: it has no parameter 'body.0.weight'")
    ):
        mask_metrics(nn.Linear(2, 2), masks_for(network()))
