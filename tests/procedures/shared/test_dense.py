"""One dense training for all runs that begin from it, whatever is interrupted, and whoever comes first."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from procedures.lively_runs import (
    NAMES,
    RECIPE,
    context,
    experiment,
    fresh,
    masks_of,
    numbers,
    run,
    same,
)
from torch import Tensor, nn

import foreprune.procedures.shared.dense as dense_module
from foreprune.experiments import run_experiment
from foreprune.procedures import END, dense_of, snapshots_for, steps_needed
from foreprune.procedures.shared import (
    dense_run,
    dense_weights,
    read_snapshot,
)
from foreprune.records import Epoch, run_folder
from foreprune.zoo.datasets import load_cached

SWEEP = (
    experiment("dense"),
    experiment("snip", prune_at=4),
    experiment("random", prune_at=11),
    experiment("magnitude-after"),
    experiment("ltr", hyper={"rewind_to": 7}),
    experiment("imp", density=0.7, hyper={"rewind_to": 4}),
    experiment("gmp"),
)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_list_of_runs_trains_the_dense_network_once(
    backwards: bool,
    tmp_path: Path,
    trainings: list[str],
    dense_states: list[dict[str, Tensor]],
    dense_curve: list[tuple[float | None, ...]],
) -> None:
    needed = steps_needed(SWEEP)
    records = {}
    for found in reversed(SWEEP) if backwards else SWEEP:
        records[found.method] = run(found, tmp_path, snapshots=snapshots_for(found, needed))
    # imp: from 0.8 to 0.7 there is one training between
    assert sorted(trainings) == ["dense", *["masked"] * 6, "scheduled"]
    assert numbers(records["dense"].curve) == dense_curve
    assert records["dense"].top1 == dense_curve[-1][4]
    moved = [dense_states[-1][name].double() - dense_states[0][name].double() for name in NAMES]
    distance = sum(float(change.square().sum()) for change in moved) ** 0.5
    assert records["dense"].analysis["weight_distance"] == pytest.approx(distance, rel=1e-12)
    folder = tmp_path / "dense" / dense_of(SWEEP[0]).id
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "end.safetensors",
        "imp-rewind4-rate0.2-global",
        "lock",
        *[f"step-{step}.safetensors" for step in (11, 4, 7)],
    ]
    for step in (4, 7, 11):
        found = read_snapshot(folder / f"step-{step}.safetensors", about={"step": str(step)})
        assert found is not None
        assert same(found.tensors, dense_states[step])
    for record in records.values():
        assert sorted(path.name for path in run_folder(tmp_path, record.experiment).iterdir()) == [
            "masks.safetensors",
            "record.json",
        ]


def test_without_a_list_steps_are_trained_when_they_are_missed(
    tmp_path: Path, trainings: list[str], dense_states: list[dict[str, Tensor]]
) -> None:
    steps: list[int] = []
    for step in (8, 3, 14, 18, 14, 5):
        assert same(dense_weights(context(experiment(), tmp_path), step), dense_states[step])
        steps.append(len(trainings))
    # 3 lies before the checkpoint of the training to 8, so there is a second training for it; to 14 and to the end it
    # goes on from the checkpoint; 5 begins anew
    assert steps == [1, 3, 4, 5, 5, 6]
    assert same(dense_weights(context(experiment(), tmp_path), 0), dense_states[0])
    assert same(dense_weights(context(experiment(), tmp_path), END), dense_states[-1])
    assert len(trainings) == 6


def test_an_early_step_is_not_trained_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[int] = []
    real = dense_module.fit

    def watched(*args: Any, on_step: Any, **settings: Any) -> Any:
        def note(step: int, model: nn.Module) -> None:
            reached.append(step)
            on_step(step, model)

        return real(*args, on_step=note, **settings)

    monkeypatch.setattr(dense_module, "fit", watched)
    dense_weights(context(experiment(), tmp_path, snapshots=(3, 8, 99)), 3)
    assert reached == list(range(9))
    folder = context(experiment(), tmp_path).dense_folder
    assert not (folder / "end.safetensors").exists()
    assert (folder / "step-8.safetensors").exists()
    assert not (folder / "step-99.safetensors").exists()
    reached.clear()
    dense_run(context(experiment(), tmp_path), fresh())
    assert reached == list(range(7, 19))  # from the checkpoint of the first epoch
    assert not (folder / "checkpoint.pt").exists()


def test_the_dense_run_goes_on_where_it_was_interrupted(
    tmp_path: Path, dense_curve: list[tuple[float | None, ...]], dense_states: list[dict[str, Tensor]]
) -> None:
    def stop(point: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiment(experiment("dense"), out=tmp_path, on_epoch=stop, snapshots=(4, 11, END))
    folder = context(experiment(), tmp_path).dense_folder
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.pt", "lock", "step-4.safetensors"]
    seen: list[int] = []
    record = run(experiment("dense"), tmp_path, on_epoch=lambda p: seen.append(p.epoch), snapshots=(4, 11, END))
    assert seen == [2, 3]
    assert numbers(record.curve) == dense_curve
    assert same(dense_weights(context(experiment(), tmp_path), 11), dense_states[11])
    assert sorted(path.name for path in folder.iterdir()) == [
        "end.safetensors",
        "lock",
        "step-11.safetensors",
        "step-4.safetensors",
    ]


def test_a_later_run_goes_on_where_it_was_interrupted(tmp_path: Path, trainings: list[str]) -> None:
    def stop(point: Epoch) -> None:
        if point.epoch == 2:
            raise KeyboardInterrupt

    for found in (experiment(prune_at=5), experiment("gmp", hyper={"every": 4}), experiment("ltr")):
        whole = run(found, tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            run_experiment(found, out=tmp_path / "cut", on_epoch=stop)
        seen: list[int] = []
        again = run(found, tmp_path / "cut", on_epoch=lambda point, seen=seen: seen.append(point.epoch))
        assert seen == [3]
        assert numbers(again.curve) == numbers(whole.curve)
        assert masks_of(again, tmp_path / "cut") == masks_of(whole, tmp_path / "whole")
        assert again.layers == whole.layers
        assert again.analysis == whole.analysis


def test_a_dense_training_that_fails_is_named(tmp_path: Path) -> None:
    wild = replace(RECIPE, lr=1e30)
    record = run_experiment(experiment("magnitude-after", recipe=wild), out=tmp_path)
    assert record.error is not None
    assert record.error.startswith("ValueError: the dense training that this run begins from failed: training diverged")
    assert record.curve == ()
    failed = run_experiment(experiment("dense", recipe=wild), out=tmp_path)
    assert failed.error is not None
    assert failed.error.startswith("TrainingDiverged: ")


def test_two_at_once_train_once(tmp_path: Path, trainings: list[str], dense_states: list[dict[str, Tensor]]) -> None:
    ready = threading.Barrier(2)
    found: list[dict[str, Tensor]] = []
    load_cached("digits", None)

    def ask() -> None:
        ready.wait()
        found.append(dense_weights(context(experiment(), tmp_path), END))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trainings == ["dense"]
    assert len(found) == 2
    assert all(same(one, dense_states[-1]) for one in found)


def test_without_locks_the_result_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dense_states: list[dict[str, Tensor]]
) -> None:
    """Another process has trained the same meanwhile, and has even removed its checkpoint."""

    @contextlib.contextmanager
    def no_lock(_: Path) -> Iterator[bool]:
        yield False

    monkeypatch.setattr(dense_module, "lock", no_lock)
    inner = iter([True])
    real = dense_module.fit

    def with_another(*args: Any, **settings: Any) -> Any:
        if next(inner, False):
            assert same(dense_weights(context(experiment(), tmp_path), END), dense_states[-1])
        return real(*args, **settings)

    monkeypatch.setattr(dense_module, "fit", with_another)
    assert same(dense_weights(context(experiment(), tmp_path, (4, END)), 4), dense_states[4])
    assert same(dense_weights(context(experiment(), tmp_path), END), dense_states[-1])


def test_another_order_and_another_recipe_are_another_training(tmp_path: Path, trainings: list[str]) -> None:
    longer = replace(RECIPE, epochs=4)
    for found in (experiment(prune_at=5), experiment(prune_at=5, seed=1), experiment(prune_at=5, recipe=longer)):
        run(found, tmp_path)
    run(experiment(prune_at=5, density=0.1, scope="local", samples_per_class=3), tmp_path)
    assert trainings.count("dense") == 3
