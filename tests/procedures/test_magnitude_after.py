"""Magnitude pruning after training, against a loop written out."""

from __future__ import annotations

from pathlib import Path

from procedures.lively_runs import (
    KEEP,
    NEW_ORDER,
    by_magnitude,
    experiment,
    fresh,
    masks_of,
    numbers,
    plain_fit,
    run,
)
from torch import Tensor


def test_magnitude_after_training(tmp_path: Path, dense_states: list[dict[str, Tensor]]) -> None:
    record = run(experiment("magnitude-after"), tmp_path)
    masks = by_magnitude(dense_states[-1], KEEP)
    assert masks_of(record, tmp_path) == masks
    model = fresh()
    model.load_state_dict(dense_states[-1])
    assert numbers(record.curve) == numbers(plain_fit(model, masks=masks, seed=NEW_ORDER).curve)
