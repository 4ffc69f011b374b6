"""Lottery-ticket rewinding, against a loop written out."""

from __future__ import annotations

from pathlib import Path

import pytest
from procedures.lively_runs import (
    KEEP,
    NEW_ORDER,
    by_magnitude,
    context,
    experiment,
    fresh,
    masks_of,
    numbers,
    plain_fit,
    run,
    same,
    state,
)
from torch import Tensor

from foreprune.procedures.shared import (
    start_of,
)


@pytest.mark.parametrize("step", [0, 7])
def test_lottery_ticket_rewinding(step: int, tmp_path: Path, dense_states: list[dict[str, Tensor]]) -> None:
    found = experiment("ltr", hyper={"rewind_to": step})
    start = start_of(context(found, tmp_path))
    masks = by_magnitude(dense_states[-1], KEEP)
    assert start.masks == masks
    assert same(state(start.model), dense_states[step])  # kept or not; training sets the others to zero
    record = run(found, tmp_path)
    assert masks_of(record, tmp_path) == masks
    model = fresh()
    model.load_state_dict(dense_states[step])
    assert numbers(record.curve) == numbers(plain_fit(model, masks=masks, seed=NEW_ORDER if step else 0).curve)
