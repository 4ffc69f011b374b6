"""SIGKILL to a worker of a real Ray cluster and to its driver: nothing finished is lost, nothing is done twice."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from foreprune.records import RECORD, Experiment, finished, read_records, run_folder
from foreprune.runner import Event, ray_cluster, run_all
from foreprune.runner.logged import LOG
from foreprune.runner.ray_cluster import connected, import_ray
from foreprune.runner.ray_task import RUN_LOCK
from foreprune.training.recipes import Recipe

HERE = Path(__file__).parent
EPOCHS = 80


def make(model: str, seed: int = 0) -> Experiment:
    recipe = Recipe(epochs=EPOCHS, batch_size=256)
    settings = {"data": "digits", "method": "magnitude", "density": 0.5, "seed": seed, "recipe": recipe}
    return Experiment.model_validate({"model": f"faulty_models:{model}", **settings})


def log_of(out: Path, experiment: Experiment) -> str:
    path = run_folder(out, experiment) / LOG
    return path.read_text() if path.exists() else ""


def check_folder(out: Path, *experiments: Experiment) -> None:
    """Every record is there, whole and finished; every run came to its end once."""
    found = read_records(out)
    assert found.problems == ()
    assert {record.id for record in found.records} == {each.id for each in experiments}
    for each in experiments:
        record = finished(out, each)
        assert record is not None
        assert [point.epoch for point in record.curve] == list(range(1, EPOCHS + 1))
        assert record.environment["executor"] == "ray"
        assert len(re.findall(r"^--- \S+: finished$", log_of(out, each), re.MULTILINE)) == 1
        left = {path.name for path in run_folder(out, each).iterdir()}
        assert left == {LOG, "masks.safetensors", RECORD, RUN_LOCK}


DRIVER = """
import json, os, sys
from foreprune.runner import run_all
from foreprune.records import Experiment

def say(event):
    epoch = event.epoch and event.epoch.epoch
    line = json.dumps([event.kind, event.experiment.id, event.attempt, epoch])
    os.write(int(sys.argv[4]), line.encode() + b"\\n")  # on standard output Ray tells of the death

experiments = [Experiment.model_validate(each) for each in json.loads(sys.argv[1])]
run_all(experiments, out=sys.argv[2], address=sys.argv[3], on_event=say, executor="ray")
"""


# one test, because starting Ray and its workers takes long
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="POSIX signals")
def test_killed_workers_and_drivers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    for name, value in (("PYTHONPATH", path), ("FAULTY_MODELS", str(tmp_path)), ("RAY_AUTH_MODE", "disabled")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_cluster, "cores", lambda: 2)
    ray = import_ray()
    out = tmp_path / "out"
    quick, slow = experiments = [make("quick"), make("slow")]  # the same network, but for the time it takes
    with connected(ray, None):
        address = ray.get_runtime_context().gcs_address
        listed = json.dumps([each.model_dump(mode="json") for each in experiments])
        ours, theirs = os.pipe()
        command = [sys.executable, "-c", DRIVER, listed, str(out), address, str(theirs)]
        with open(ours) as lines, subprocess.Popen(command, pass_fds=[theirs]) as driver:
            os.close(theirs)
            told = kill_worker_and_driver(driver, lines, out, quick, slow)
        stamp = (run_folder(out, quick) / RECORD).stat().st_mtime_ns
        assert finished(out, slow) is None, "nothing was in the middle"

        # at once, whatever the old task does
        events: list[Event] = []
        records = run_all(experiments, out=out, address=address, on_event=events.append, executor="ray")
    assert not ray.is_initialized()

    check_folder(out, *experiments)
    assert read_records(out).records == tuple(sorted(records, key=lambda record: record.id))
    assert (run_folder(out, quick) / RECORD).stat().st_mtime_ns == stamp
    assert len(re.findall(": attempt ", log_of(out, quick))) == 1
    assert re.findall(r": attempt (\d)", log_of(out, slow)) == ["1", "2", "1"]
    assert [(event.kind, event.experiment) for event in events if event.epoch is None] == [
        ("skipped", quick),
        ("started", slow),
        ("ended", slow),
    ]
    # each process went on from a checkpoint of the one before, which is written every second epoch
    first, second = ([epoch for attempt, epoch in told if attempt == number] for number in (1, 2))
    third = [event.epoch.epoch for event in events if event.epoch is not None]
    assert 4 < second[0] <= first[-1] + 1
    assert second[0] + 4 < third[0] <= second[-1] + 4
    for epochs in (first, second, third):
        assert epochs == list(range(epochs[0], epochs[-1] + 1))
        assert (epochs[0] - 1) % (EPOCHS // 40) == 0
    assert third[-1] == EPOCHS
    assert [point.train_loss for point in records[0].curve] == [point.train_loss for point in records[1].curve]
    assert records[0].top1 == records[1].top1

    assert run_all(experiments, out=out, executor="ray") == records  # without Ray: nothing is left to do


def kill_worker_and_driver(
    driver: subprocess.Popen[bytes], lines: IO[str], out: Path, quick: Experiment, slow: Experiment
) -> list[tuple[int, int]]:
    """Kill the worker of the slow run in its first attempt, the driver in the second, when the quick run is done.

    Returns the attempt and number of each epoch of the slow run that the driver has told of.
    """
    told: list[tuple[int, int]] = []
    kinds: dict[str, list[str]] = {quick.id: [], slow.id: []}
    killed: list[int] = []
    for line in lines:
        kind, name, attempt, epoch = json.loads(line)
        if kind != "epoch":
            kinds[name].append(f"{kind} {attempt}")
        elif name == slow.id:
            told.append((attempt, epoch))
        if name == slow.id and attempt == 1 and kind == "epoch" and epoch >= 6 and not killed:
            killed.extend(map(int, re.findall(r"process (\d+)", log_of(out, slow))))
            os.kill(killed[-1], signal.SIGKILL)
        if told and told[-1][0] == 2 and told[-1][1] >= 16 and "ended 1" in kinds[quick.id]:
            driver.kill()
            break
    assert kinds[quick.id] == ["started 1", "ended 1"]
    assert kinds[slow.id] == ["started 1", "retried 1", "started 2"]
    assert len(killed) == 1
    return told
