from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from torch import nn

from foreprune.experiments.spec import Experiment
from foreprune.experiments.store import read_records
from foreprune.experiments.workers import Event, run_all
from foreprune.training.recipes import Recipe

HERE = Path(__file__).parent


def dying_model() -> nn.Module:
    """Kills its own process at once, as the kernel does when memory is out."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def runs(*models: str) -> list[Experiment]:
    recipe = Recipe(epochs=1)
    return [Experiment(data="digits", model=model, method="magnitude", density=0.5, recipe=recipe) for model in models]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    # workers import the models of this file by name
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.syspath_prepend(HERE)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_runs_survive_a_killed_worker_and_are_not_repeated(tmp_path: Path) -> None:
    experiments = runs("fc-8", "test_workers:dying_model", "fc-16", "no.package:model")
    events: list[Event] = []
    records = run_all(experiments, out=tmp_path, jobs=1, on_event=events.append)
    assert [record.experiment for record in records] == experiments
    assert [record.status for record in records] == ["finished", "failed", "finished", "failed"]
    assert "SIGKILL" in (records[1].error or "")
    assert "cannot import the model" in (records[3].error or "")
    assert [event.kind for event in events if event.experiment == experiments[0]] == ["started", "epoch", "ended"]
    on_disk = read_records(tmp_path)
    assert not on_disk.problems
    assert {record.id for record in on_disk.records} == {experiment.id for experiment in experiments}

    stamps = {record.id: record.environment["ended"] for record in records}
    again: list[Event] = []
    repeated = run_all([experiments[0], experiments[2]], out=tmp_path, jobs=2, on_event=again.append)
    assert [event.kind for event in again] == ["skipped", "skipped"]
    assert all(record.environment["ended"] == stamps[record.id] for record in repeated)


@pytest.mark.slow
def test_interruption_stops_the_workers_and_keeps_what_is_finished(tmp_path: Path) -> None:
    experiments = runs("fc-8", "fc-16", "fc-24")

    def interrupt(event: Event) -> None:
        if event.kind == "ended":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(experiments, out=tmp_path, jobs=1, on_event=interrupt)
    kept = read_records(tmp_path)
    assert [record.status for record in kept.records] == ["finished"]
    assert not kept.problems
    kinds: list[str] = []
    records = run_all(experiments, out=tmp_path, jobs=1, on_event=lambda event: kinds.append(event.kind))
    assert [record.status for record in records] == ["finished"] * 3
    assert kinds.count("skipped") == 1


def test_jobs_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="jobs must be at least 1"):
        run_all(runs("fc-8"), out=tmp_path, jobs=-1)
    assert run_all([], out=tmp_path) == ()
