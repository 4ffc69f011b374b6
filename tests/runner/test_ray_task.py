"""What a worker does with an order, in this process."""

from __future__ import annotations

import fcntl
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from foreprune.experiments import run_experiment
from foreprune.records import Epoch, Experiment, Record, make_folder, read_records, run_folder
from foreprune.runner import ray_task
from foreprune.runner.executor import Death, Started, Trouble
from foreprune.runner.ray_task import RUN_LOCK, carry_out, carry_out_whole, version, wait_for
from foreprune.training.recipes import Recipe


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("FAULTY_MODELS", str(tmp_path_factory.mktemp("marks")))
    monkeypatch.setattr(ray_task, "_PATIENCE", 0.0)


def experiment(model: str = "fc-8", epochs: int = 2) -> Experiment:
    recipe = Recipe(epochs=epochs, batch_size=512)
    return Experiment(data="digits", model=model, method="magnitude", density=0.5, recipe=recipe)


def order(what: Experiment, out: Path, **changes: Any) -> dict[str, Any]:
    make_folder(run_folder(out, what))
    usual = {"attempt": 1, "data_dir": None, "device": "cpu", "threads": 1, "command": "sweep it", "snapshots": ()}
    return {
        **usual,
        "experiment": what.model_dump_json(),
        "out": str(out),
        "version": version(),
        "ray": "2.0",
        **changes,
    }


def test_a_run_says_when_it_starts_each_epoch_and_its_record(tmp_path: Path) -> None:
    started, *epochs, record = carry_out(order(experiment(), tmp_path))
    assert isinstance(started, Started)
    assert [epoch.epoch for epoch in epochs if isinstance(epoch, Epoch)] == [1, 2] == [*range(1, len(epochs) + 1)]
    assert isinstance(record, Record)
    assert read_records(tmp_path).records == (record,)
    environment = record.environment
    assert (environment["executor"], environment["versions"]["ray"]) == ("ray", "2.0")
    assert (environment["command"], environment["machine"]["threads"]) == ("sweep it", 1)
    assert environment["commit"] == (None if version()["commit"] == "unknown" else version()["commit"])
    # and where values cannot be streamed, the end of it; it is there already
    assert carry_out_whole(order(experiment(), tmp_path)) == record


def test_another_version_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    for key, theirs in (("foreprune", "0.0.9"), ("source", "0123456789ab")):
        given = version() | {key: theirs, "commit": "abcdef"}
        with pytest.raises(ImportError) as error:
            next(carry_out({"version": given, "experiment": "a format of the future"}))
        message = str(error.value)
        here = f"has foreprune {version()['foreprune']} (commit {version()['commit']}, sources {version()['source']})"
        there = f"this process {given['foreprune']} (commit abcdef, sources {given['source']})"
        assert here in message
        assert message.endswith(there)
    # the commit alone says nothing: a copy of the same sources may be in no repository
    *_, last = carry_out(order(experiment(epochs=0), tmp_path, version=version() | {"commit": "abcdef"}))
    assert isinstance(last, Record)
    assert last.environment["commit"] == "abcdef"


def test_every_source_counts_for_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import foreprune

    here = ray_task._digest.__wrapped__()
    package = tmp_path / "foreprune"
    shutil.copytree(Path(foreprune.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(foreprune, "__file__", str(package / "__init__.py"))
    assert ray_task._digest.__wrapped__() == here
    source = package / "zoo" / "models.py"
    source.write_bytes(source.read_bytes() + b"\n")
    changed = ray_task._digest.__wrapped__()
    assert changed != here
    source.rename(source.with_name("models_.py"))
    assert ray_task._digest.__wrapped__() not in (here, changed)


def test_a_folder_that_is_not_shared_is_noticed_before_the_run(tmp_path: Path) -> None:
    given = order(experiment(), tmp_path)
    run_folder(tmp_path, experiment()).rmdir()
    with pytest.raises(FileNotFoundError) as error:
        next(carry_out(given))
    message = f"does not see {run_folder(tmp_path, experiment())}: is the folder shared with the workers?"
    assert message in str(error.value)
    assert not list((tmp_path / "runs").iterdir())


def test_a_run_waits_for_another_that_does_the_same(tmp_path: Path) -> None:
    """As when a driver was killed and started again at once: its old task is still at work."""
    given = order(experiment(), tmp_path)
    messages: list[Any] = []
    with open(run_folder(tmp_path, experiment()) / RUN_LOCK, "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        thread = threading.Thread(target=lambda: messages.extend(carry_out(given)))
        thread.start()
        theirs = run_experiment(experiment(), out=tmp_path)
        thread.join(0.2)
        assert thread.is_alive()
        assert [type(message) for message in messages] in ([], [Started])
    thread.join(30)
    assert [type(message) for message in messages] == [Started, Record]
    assert messages[-1] == theirs, "it was done again"


@pytest.mark.parametrize(("status", "words"), [(3, "ended with exit code 3"), ("bye", "exit code 1"), (None, "code 0")])
def test_a_model_that_ends_its_process(
    status: object, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(*_: Any, **__: Any) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(ray_task, "run_logged", leave)
    started, death = carry_out(order(experiment(), tmp_path))
    assert isinstance(started, Started)
    assert isinstance(death, Death)
    assert words in death.why


def test_a_full_disk_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ray_task, "run_logged", full)
    *_, trouble = carry_out(order(experiment(), tmp_path))
    assert isinstance(trouble, Trouble)
    assert trouble.code == 28


def test_waiting_for_a_slow_network_folder() -> None:
    answers = iter([FileNotFoundError(), ValueError(), False, True])

    def look() -> bool:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert wait_for(look, seconds=30)
    assert not wait_for(lambda: False, seconds=0)
