"""SIGKILL to a run, to the server of processes, to the runner: nothing finished is lost, nothing is done twice."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path

import pytest

from foreprune.records import RECORD, Experiment, read_records, run_folder
from foreprune.runner import Event, local, run_all
from foreprune.runner.logged import LOG
from foreprune.training.recipes import Recipe

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")
HERE = Path(__file__).parent
EPOCHS = 80


@pytest.fixture(autouse=True)
def _marks(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("FAULTY_MODELS", str(tmp_path_factory.mktemp("marks")))
    monkeypatch.setattr(local, "cores", lambda: 1)  # several threads are slow on a machine that is busy


def make(model: str, seed: int = 0, *, epochs: int = EPOCHS) -> Experiment:
    recipe = Recipe(epochs=epochs, batch_size=256)
    settings = {"data": "digits", "method": "magnitude", "density": 0.5, "seed": seed, "recipe": recipe}
    return Experiment.model_validate({"model": f"faulty_models:{model}", **settings})


def log_of(out: Path, experiment: Experiment) -> str:
    path = run_folder(out, experiment) / LOG
    return path.read_text() if path.exists() else ""


def pids(out: Path, *experiments: Experiment) -> list[int]:
    return [int(pid) for each in experiments for pid in re.findall(r"process (\d+)", log_of(out, each))]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    experiment = make("pausing")
    out = tmp_path / "cut"
    events: list[Event] = []

    def kill_once(event: Event) -> None:
        events.append(event)
        if event.epoch is not None and event.epoch.epoch == 6 and event.attempt == 1:
            pid = pids(out, experiment)[-1]
            held = [info.read_text() for info in Path(f"/proc/{pid}/fdinfo").iterdir()]
            assert any("FLOCK  ADVISORY  WRITE" in each for each in held), "the run does not hold the folder's lock"
            os.kill(pid, signal.SIGKILL)

    (record,) = run_all([experiment], out=out, jobs=2, on_event=kill_once)
    assert (record.status, record.attempts) == ("finished", 2)
    (death,) = [event for event in events if event.kind == "retried"]
    assert death.note.startswith("was killed by SIGKILL")
    again = [event.epoch.epoch for event in events if event.epoch is not None and event.attempt == 2]
    # forty checkpoints are written in a training
    assert (again[0] - 1) % (EPOCHS // 40) == 0
    assert again[0] > 1, "it started from the beginning"
    assert again == list(range(again[0], EPOCHS + 1))
    (whole,) = run_all([experiment], out=tmp_path / "whole", jobs=2)
    assert [point.train_loss for point in record.curve] == [point.train_loss for point in whole.curve]
    assert record.top1 == whole.top1
    assert read_records(out).records == (record,)


def test_a_run_that_is_killed_twice_has_failed(tmp_path: Path) -> None:
    victim, other = make("pausing", 2), make("quick")
    killed: list[int] = []

    def kill(event: Event) -> None:
        if event.kind == "epoch" and event.experiment == victim and event.attempt > len(killed):
            killed.append(pids(tmp_path, victim)[-1])
            os.kill(killed[-1], signal.SIGKILL)

    records = run_all([victim, other], out=tmp_path, jobs=2, on_event=kill)
    assert [record.status for record in records] == ["failed", "finished"]
    assert killed == pids(tmp_path, victim)
    assert (len(killed), records[0].attempts) == (2, 2)
    assert records[0].error == (
        "the process was killed by SIGKILL, perhaps because memory ran out: run fewer jobs at a time, 2 times "
        f"(log: runs/{victim.id}/log.txt)"
    )
    # and it can be repeated, from its checkpoint
    (record,) = run_all([victim], out=tmp_path, jobs=2)
    assert (record.status, record.attempts) == ("finished", 1)


def test_the_server_of_processes_may_be_killed(tmp_path: Path) -> None:
    experiments = [make("pausing"), make("pausing", 1)]
    seen: list[Event] = []
    orphans: list[int] = []

    def kill(event: Event) -> None:
        seen.append(event)
        if {each.experiment.id for each in seen if each.epoch} == {each.id for each in experiments} and not orphans:
            orphans.extend(pids(tmp_path, *experiments))
            server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
            assert server is not None
            os.kill(server, signal.SIGKILL)
        if event.kind == "started" and event.attempt == 2:
            of_this_run = pids(tmp_path, event.experiment)[0]
            assert not alive(of_this_run), "the first attempt goes on beside the second"

    records = run_all(experiments, out=tmp_path, jobs=2, on_event=kill)
    assert [(record.status, record.attempts) for record in records] == [("finished", 2)] * 2
    assert [event.kind for event in seen].count("retried") == len(orphans) == 2


RUNNER = """
import json, sys
from foreprune.records import Experiment
from foreprune.runner import run_all

def say(event):
    print(json.dumps([event.kind, event.experiment.id]), flush=True)

if __name__ == "__main__":
    experiments = [Experiment.model_validate(each) for each in json.loads(sys.argv[1])]
    run_all(experiments, out=sys.argv[2], jobs=int(sys.argv[3]), on_event=say)
"""


def runner(tmp_path: Path, experiments: list[Experiment], *, out: Path, jobs: int) -> subprocess.Popen[str]:
    """A runner in a process of its own, which writes a line of JSON for each event."""
    script = tmp_path / "runner.py"
    script.write_text(RUNNER)
    listed = json.dumps([each.model_dump(mode="json") for each in experiments])
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.Popen(
        [sys.executable, str(script), listed, str(out), str(jobs)], stdout=subprocess.PIPE, text=True, env=environment
    )


def test_a_killed_runner_loses_nothing_and_leaves_nobody_behind(tmp_path: Path) -> None:
    # one hangs in C and lets no other thread run; the pausing ones are in the middle when the runner is killed
    experiments = [make("stuck"), make("quick"), make("quick", 1), *(make("pausing", seed) for seed in range(3))]
    out = tmp_path / "out"
    ended: list[str] = []
    started: list[str] = []
    under_way: set[str] = set()
    with runner(tmp_path, experiments, out=out, jobs=4) as process:
        assert process.stdout is not None
        for line in process.stdout:
            kind, name = json.loads(line)
            if kind == "started":
                started.append(name)
            if kind == "epoch":
                under_way.add(name)
            if kind == "ended":
                ended.append(name)
            if len(ended) >= 2 and len(under_way - set(ended)) >= 2:
                break
        old = pids(out, *experiments)
        before = {name: (out / "runs" / name / RECORD).read_bytes() for name in ended}
        stamps = {name: (out / "runs" / name / RECORD).stat().st_mtime_ns for name in ended}
        running = [pid for pid in old if alive(pid)]
        assert len(running) >= 2, "nothing was in the middle"
        assert any(log_of(out, each) and not log_of(out, each).count("epoch") for each in experiments[:1])
        process.send_signal(signal.SIGKILL)

    # at once, without waiting for anyone
    events: list[Event] = []
    left: dict[str, int] = {}

    def watch(event: Event) -> None:
        events.append(event)
        if event.kind == "started":
            if not left:  # attempts of the killed runner; one that was only just started may have none
                left.update({each.id: log_of(out, each).count(": attempt ") for each in experiments})
            assert not any(map(alive, old)), "a run starts beside what the killed runner has left"

    marks = Path(os.environ["FAULTY_MODELS"])
    for name in ("stuck", *(f"pausing-{seed}{again}" for seed in range(3) for again in ("", "-again"))):
        (marks / name).touch()  # a run that had not begun would misbehave now
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        records = run_all(experiments, out=out, jobs=2, on_event=watch)
    first = next(index for index, event in enumerate(events) if event.kind == "started")
    assert first == len(ended)
    assert [record.status for record in records] == ["finished"] * len(experiments)
    assert {event.experiment.id for event in events if event.kind == "skipped"} == set(ended)
    for name in ended:
        assert (out / "runs" / name / RECORD).read_bytes() == before[name]
        assert (out / "runs" / name / RECORD).stat().st_mtime_ns == stamps[name]
    for each in experiments:
        log = log_of(out, each)
        assert len(re.findall(r"^--- \S+: finished$", log, re.MULTILINE)) == 1
        assert left[each.id] == 1 if each.id in ended else left[each.id] <= (each.id in started)
        assert log.count(": attempt ") == left[each.id] + (each.id not in ended)
        assert sorted(path.name for path in run_folder(out, each).iterdir()) == ["log.txt", "masks.safetensors", RECORD]
    found = read_records(out)
    assert found.problems == ()
    assert {record.id: record for record in found.records} == {record.id: record for record in records}
    assert all([point.epoch for point in record.curve] == list(range(1, EPOCHS + 1)) for record in records)
