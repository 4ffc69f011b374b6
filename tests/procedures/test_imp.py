"""Iterative magnitude pruning: its rounds, against a loop written out, shared and interrupted."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from procedures.lively_runs import (
    NEW_ORDER,
    by_magnitude,
    context,
    experiment,
    fresh,
    masks_of,
    numbers,
    plain_fit,
    run,
    state,
)
from torch import Tensor

import foreprune.procedures.shared.dense as dense_module
from foreprune.experiments import run_experiment
from foreprune.procedures.imp import round_counts
from foreprune.records import Epoch


@pytest.mark.parametrize("step", [0, 5])
def test_iterative_magnitude_pruning(step: int, tmp_path: Path, dense_states: list[dict[str, Tensor]]) -> None:
    record = run(experiment("imp", density=0.45, hyper={"rewind_to": step, "rate": 0.3}), tmp_path)
    total = 16 * 74
    order = NEW_ORDER if step else 0
    weights, masks = dense_states[-1], None
    for keep in (round(0.7 * total), round(0.49 * total)):
        masks = by_magnitude(weights, keep, masks)
        model = fresh()
        model.load_state_dict(dense_states[step])
        plain_fit(model, masks=masks, seed=order)
        weights = state(model)
    masks = by_magnitude(weights, round(0.45 * total), masks)
    assert masks_of(record, tmp_path) == masks
    assert record.kept == round(0.45 * total)
    model = fresh()
    model.load_state_dict(dense_states[step])
    assert numbers(record.curve) == numbers(plain_fit(model, masks=masks, seed=order).curve)


def test_one_round_of_iterative_pruning_is_rewinding(tmp_path: Path) -> None:
    hyper = {"rewind_to": 5}
    one = run(experiment("imp", density=0.85, hyper=hyper), tmp_path)
    two = run(experiment("ltr", density=0.85, hyper=hyper), tmp_path)
    assert masks_of(one, tmp_path) == masks_of(two, tmp_path)
    assert numbers(one.curve) == numbers(two.curve)


def test_rounds_are_shared_and_go_on_where_they_were_interrupted(
    tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = experiment("imp", density=0.6), experiment("imp", density=0.5)
    whole = run(many, tmp_path / "whole")
    assert trainings == ["dense", *["masked"] * 4]  # 0.8, 0.64, 0.512, and the run's own
    trainings.clear()
    run(few, tmp_path / "shared")
    assert trainings == ["dense", *["masked"] * 3]
    trainings.clear()
    again = run(many, tmp_path / "shared")
    assert trainings == ["masked"] * 2
    assert numbers(again.curve) == numbers(whole.curve)

    real = dense_module.fit
    begun: list[str] = []

    def cut(*args: Any, **settings: Any) -> Any:
        begun.append("fit")
        if len(begun) == 3:  # dense, first round, second round
            settings["on_epoch"] = stop
        return real(*args, **settings)

    def stop(point: Epoch) -> None:
        if point.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(dense_module, "fit", cut)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(many, out=tmp_path / "cut")
    folder = context(many, tmp_path / "cut").dense_folder / "imp-rewind0-rate0.2-global"
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "round-1.safetensors", "round-2.pt"]
    resumed = run(many, tmp_path / "cut")
    assert len(begun) == 3 + 3
    assert numbers(resumed.curve) == numbers(whole.curve)
    assert not list(folder.glob("*.pt"))


def test_the_rounds_of_a_run_are_what_they_are_named() -> None:
    assert round_counts(0.5, total=1184, keep=592, rate=0.2) == (947, 758, 606, 592)


def test_rounds_remove_a_fifth_of_what_is_left() -> None:
    assert round_counts(0.5, total=1000, keep=500, rate=0.2) == (800, 640, 512, 500)
    assert round_counts(0.64, total=1000, keep=640, rate=0.2) == (800, 640)
    assert round_counts(0.8, total=1000, keep=800, rate=0.2) == (800,)
    assert round_counts(0.9, total=1000, keep=900, rate=0.2) == (900,)
    assert round_counts(1.0, total=1000, keep=1000, rate=0.2) == (1000,)
    assert round_counts(0.1, total=1000, keep=100, rate=0.5) == (500, 250, 125, 100)


def test_runs_of_different_density_share_their_rounds() -> None:
    ladder = [0.8**rounds for rounds in range(1, 20)]
    chains = [round_counts(density, total=54_321, keep=round(density * 54_321), rate=0.2) for density in ladder]
    assert [len(chain) for chain in chains] == list(range(1, 20))
    assert all(longer[: len(chain)] == chain for chain, longer in itertools.pairwise(chains))
