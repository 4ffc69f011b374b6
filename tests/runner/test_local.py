"""What processes of this machine are given to do; none is started here."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from foreprune.records import Experiment
from foreprune.runner import local
from foreprune.runner.executor import Death, Job
from foreprune.runner.local import local_executor
from foreprune.runner.processes import Child


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of the processes that would have been started, on a machine with three GPUs and eight cores."""
    arguments: list[dict[str, Any]] = []

    def start(context: object, work: object, **given: Any) -> Child:
        arguments.append(given)
        ours, _ = multiprocessing.Pipe(duplex=False)
        return Child(multiprocessing.Process(), ours)

    monkeypatch.setattr(local, "process_context", lambda: multiprocessing.get_context("spawn"))
    monkeypatch.setattr(local, "device_names", lambda device: ("cuda:0", "cuda:1", "cuda:2"))
    monkeypatch.setattr(local, "cores", lambda: 8)
    monkeypatch.setattr(local, "read_shared", lambda name, data_dir: None)
    monkeypatch.setattr(local, "start_child", start)
    monkeypatch.setattr(local, "listen", lambda children: [(tuple(children)[1], Death("died"))])
    monkeypatch.setattr(local, "end", lambda child: None)
    monkeypatch.setattr(local, "stop", lambda children: None)
    return arguments


def test_runs_are_spread_over_the_gpus_and_each_sees_its_own_alone(
    started: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    jobs = [Job(Experiment(data="digits", model="fc-8", method="snip", seed=seed)) for seed in range(5)]
    with local_executor(data_dir=None, device="cuda", jobs=4)(tmp_path, None, 5) as executor:
        assert executor.room() == 4
        assert all(executor.start(job) for job in jobs[:4])
        assert executor.room() == 0
        ((dead, message),) = executor.messages()
        assert (dead, message) == (jobs[1], Death("died"))
        assert executor.facts(dead)["machine"]["device"] == "cuda:1"
        assert executor.room() == 1
        executor.start(jobs[4])
    assert [given["variables"]["CUDA_VISIBLE_DEVICES"] for given in started] == ["4", "6", "7", "4", "6"]
    assert {given["device"] for given in started} == {"cuda"}
    assert {given["threads"] for given in started} == {2}
    devices = [given["environment"]["machine"]["device"] for given in started]
    assert devices == ["cuda:0", "cuda:1", "cuda:2", "cuda:0", "cuda:1"]
