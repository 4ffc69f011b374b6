"""Weights on disk: damaged ones are made again, those of another network are named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from procedures import lively_runs
from procedures.lively_runs import (
    context,
    experiment,
    numbers,
    run,
    same,
)
from torch import Tensor, nn

from foreprune.experiments import run_experiment
from foreprune.procedures.shared import (
    dense_weights,
    read_snapshot,
)
from foreprune.records import run_folder


@pytest.mark.parametrize("damage", ["flipped", "truncated", "noise", "other step", "tail of a write"])
def test_a_damaged_snapshot_is_made_again(
    damage: str, tmp_path: Path, trainings: list[str], dense_states: list[dict[str, Tensor]]
) -> None:
    usual = run(experiment(prune_at=8), tmp_path)
    path = context(experiment(), tmp_path).dense_folder / "step-8.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-3] ^= 1
    elif damage == "truncated":
        content = content[:-5]
    elif damage == "noise":
        content = bytearray(range(256))
    elif damage == "other step":
        dense_weights(context(experiment(), tmp_path), 9)
        content = bytearray(path.with_name("step-9.safetensors").read_bytes())
    if damage == "tail of a write":
        path.rename(path.with_name(".step-8.safetensors.0123456789ab.tmp"))
    else:
        path.write_bytes(bytes(content))
    trainings.clear()
    shutil.rmtree(run_folder(tmp_path, usual.experiment))
    again = run(experiment(prune_at=8), tmp_path)
    assert trainings[-1] == "masked"
    assert trainings[:-1]
    assert set(trainings[:-1]) == {"dense"}
    assert numbers(again.curve) == numbers(usual.curve)
    said = [warning for warning in again.warnings if "step-8.safetensors is damaged" in warning]
    assert bool(said) == (damage != "tail of a write")
    assert all("it is made again" in warning for warning in said)
    found = read_snapshot(path, about={})
    assert found is not None
    assert same(found.tensors, dense_states[8])
    assert not list(path.parent.glob(".*.tmp"))


def test_a_damaged_end_is_made_again_with_its_curve(
    tmp_path: Path, dense_curve: list[tuple[float | None, ...]]
) -> None:
    run(experiment("magnitude-after"), tmp_path)
    path = context(experiment(), tmp_path).dense_folder / "end.safetensors"
    path.write_bytes(path.read_bytes().replace(b"train_loss", b"train_lost", 1))
    record = run(experiment("dense"), tmp_path)
    assert any("its content does not fit its digest" in warning for warning in record.warnings)
    assert numbers(record.curve) == dense_curve


def test_weights_of_another_network_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(experiment(prune_at=8), tmp_path)

    def wider(*, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 17), nn.ReLU(), nn.Linear(17, classes))

    monkeypatch.setattr(lively_runs, "lively_model", wider)
    record = run_experiment(experiment("random", prune_at=8), out=tmp_path)
    assert record.error is not None
    assert "holds weights of another network than the model builds now" in record.error
    assert "delete it to train again" in record.error
