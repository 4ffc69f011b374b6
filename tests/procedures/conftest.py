"""Fixtures of the tests of procedures: the dense training by hand, and a count of trainings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from procedures.lively_runs import (
    STEPS,
    fresh,
    numbers,
    plain_fit,
    state,
)
from torch import Tensor

import foreprune.procedures.shared.dense as dense_module


@pytest.fixture(scope="session")
def dense_states() -> list[dict[str, Tensor]]:
    """Parameters and buffers after 0, 1, ..., 18 updates of one uninterrupted dense training."""
    states: list[dict[str, Tensor]] = []
    plain_fit(fresh(), on_step=lambda _, model: states.append(state(model)))
    assert len(states) == STEPS + 1
    return states


@pytest.fixture(scope="session")
def dense_curve() -> list[tuple[float | None, ...]]:
    return numbers(plain_fit(fresh()).curve)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """One word for each training that begins: "dense", "masked" or "scheduled"."""
    seen: list[str] = []
    real = dense_module.fit

    def counted(*args: Any, **settings: Any) -> Any:
        kind = "scheduled" if settings["mask_schedule"] else "masked" if settings["masks"] else "dense"
        seen.append(kind)
        return real(*args, **settings)

    monkeypatch.setattr(dense_module, "fit", counted)
    return seen
