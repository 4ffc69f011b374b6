"""Many runs: which are done, what becomes of those that fail, what the folder holds afterwards."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from foreprune.records import RECORD, Experiment, Record, read_records, run_folder, write_record
from foreprune.runner import Event, local, run_all
from foreprune.runner.executor import Job
from foreprune.runner.locks import LOCK, locked
from foreprune.runner.logged import LOG, run_logged
from foreprune.training.recipes import Recipe

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


def runs(*models: str, epochs: int = 1) -> list[Experiment]:
    recipe = Recipe(epochs=epochs, batch_size=256)
    names = [f"faulty_models:{model}" if model.isidentifier() else model for model in models]
    return [Experiment(data="digits", model=name, method="magnitude", density=0.5, recipe=recipe) for name in names]


def log_of(out: Path, experiment: Experiment) -> str:
    return (run_folder(out, experiment) / LOG).read_text()


def kinds(events: list[Event], experiment: Experiment) -> list[str]:
    return [event.kind for event in events if event.experiment == experiment]


@pytest.fixture(autouse=True)
def _marks(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("FAULTY_MODELS", str(tmp_path_factory.mktemp("marks")))
    monkeypatch.setattr(local, "cores", lambda: 1)  # several threads are slow on a machine that is busy


def test_runs_survive_dying_processes_and_finished_ones_are_not_repeated(tmp_path: Path) -> None:
    names = ["fc-8", "dying", "quick", "no.package:model", "raising", "crashing", "leaving"]
    experiments = runs(*names)
    events: list[Event] = []
    records = dict(zip(names, run_all(experiments, out=tmp_path, jobs=2, on_event=events.append), strict=True))
    by_name = dict(zip(names, experiments, strict=True))
    assert [record.experiment for record in records.values()] == experiments
    good = ["fc-8", "quick"]
    assert [name for name, record in records.items() if record.status == "finished"] == good

    for name in good:
        assert kinds(events, by_name[name]) == ["started", "epoch", "ended"]
        assert records[name].attempts == 1
        assert re.fullmatch(
            rf"--- \S+: attempt 1 of {by_name[name].id}, process \d+, on cpu\n"
            r"epoch 1 of 1: loss [\d.]+, test top-1 0\.\d{4}\n--- \S+: finished\n",
            log_of(tmp_path, by_name[name]),
        )

    # what raises would raise again; what died is tried once more
    for name, reason in (("no.package:model", "cannot import the model"), ("raising", "this network cannot be built")):
        assert kinds(events, by_name[name]) == ["started", "ended"]
        assert records[name].attempts == 1
        assert reason in (records[name].error or "")
        assert "Traceback (most recent call last)" in log_of(tmp_path, by_name[name])
    for name, reason in (
        (
            "dying",
            "the process was killed by SIGKILL, perhaps because memory ran out: run fewer jobs at a time, 2 times",
        ),
        ("crashing", "the process was killed by SIGSEGV, 2 times"),
        ("leaving", "the process ended with exit code 7, 2 times"),
    ):
        assert kinds(events, by_name[name]) == ["started", "retried", "started", "ended"]
        assert records[name].attempts == 2
        folder = f"runs/{by_name[name].id}"
        assert records[name].error == f"{reason} (log: {folder}/log.txt)"
        assert re.findall(r"attempt (\d) of", log_of(tmp_path, by_name[name])) == ["1", "2"]
        assert records[name].environment["machine"]["device"] == "cpu"
    assert "Fatal Python error: Segmentation fault" in log_of(tmp_path, by_name["crashing"])
    assert "in crashing" in log_of(tmp_path, by_name["crashing"])

    on_disk = read_records(tmp_path)
    assert not on_disk.problems
    assert {record.id: record for record in on_disk.records} == {record.id: record for record in records.values()}

    before = {name: (run_folder(tmp_path, by_name[name]) / RECORD).stat() for name in good}
    again: list[Event] = []
    repeated = run_all([by_name[name] for name in good] * 2, out=tmp_path, jobs=2, on_event=again.append)
    assert [event.kind for event in again] == ["skipped", "skipped"]
    assert repeated == (records["fc-8"], records["quick"]) * 2
    for name in good:
        now = (run_folder(tmp_path, by_name[name]) / RECORD).stat()
        assert (now.st_mtime_ns, now.st_ino) == (before[name].st_mtime_ns, before[name].st_ino)


def test_processes_that_start_from_nothing_do_the_same(tmp_path: Path) -> None:
    """As on macOS: no server of processes, and every run reads the data."""
    experiments = runs("quick")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "process_context", lambda: multiprocessing.get_context("spawn"))
        patch.setattr(local, "read_shared", lambda name, data_dir: None)
        (spawned,) = run_all(experiments, out=tmp_path / "spawned")
    (copied,) = run_all(experiments, out=tmp_path / "copied")
    assert spawned.status == "finished"
    assert [point.train_loss for point in copied.curve] == [point.train_loss for point in spawned.curve]


def test_retries_can_be_chosen(tmp_path: Path) -> None:
    (dying,) = runs("dying")
    for retries, attempts in ((0, 1), (2, 3)):
        (record,) = run_all([dying], out=tmp_path / str(retries), retries=retries, jobs=1)
        assert (record.status, record.attempts) == ("failed", attempts)
        assert log_of(tmp_path / str(retries), dying).count("--- ") == attempts
    with pytest.raises(ValueError, match="retries must be 0 or more, not -1"):
        run_all([], out=tmp_path, retries=-1)


def test_a_run_that_died_after_its_work_was_done_is_not_done_again(tmp_path: Path) -> None:
    (experiment,) = runs("done_then_killed")
    events: list[Event] = []
    (record,) = run_all([experiment], out=tmp_path, jobs=1, on_event=events.append)
    assert (record.status, record.attempts) == ("finished", 1)
    assert kinds(events, experiment) == ["started", "epoch", "ended"]


def test_whatever_is_printed_goes_to_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (experiment,) = runs("talking")
    monkeypatch.setenv("SAID_BY_A_VARIABLE", "good")  # set after the server of processes was started
    monkeypatch.setattr(local, "cores", lambda: 5)
    (record, _) = run_all([experiment, *runs("quick")], out=tmp_path, jobs=2)
    assert record.environment["machine"]["threads"] == 2
    lines = log_of(tmp_path, experiment).splitlines()
    said = ["said by Python", r"complained by Python \udc80", "said by C", "complained by C", "said by a child"]
    said.append("variable good")
    assert all(lines.count(line) == 1 for line in said), lines
    assert "threads 2" in lines
    assert capfd.readouterr() == ("", "")


def test_one_run_in_this_process_has_the_same_log_and_gives_the_outputs_back(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    talking, raising = runs("talking", "raising")
    record = run_logged(Job(talking, attempt=3), out=tmp_path)
    assert (record.status, record.attempts) == ("finished", 3)
    assert [r.attempts for r in read_records(tmp_path).records] == [3]
    assert {"said by Python", "said by C", "said by a child"} <= set(log_of(tmp_path, talking).splitlines())
    failed = run_logged(Job(raising), out=tmp_path)
    assert failed.error == f"ValueError: this network cannot be built (log: runs/{raising.id}/log.txt)"
    assert capfd.readouterr() == ("", "")
    print("now")
    os.write(2, b"and here\n")
    assert capfd.readouterr() == ("now\n", "and here\n")


def test_interruption_stops_the_processes_and_keeps_what_is_finished(tmp_path: Path) -> None:
    experiments = runs("quick", "pausing", epochs=40)
    seen: list[Event] = []

    def interrupt(event: Event) -> None:
        seen.append(event)
        half_done = any(each.epoch and each.epoch.epoch == 8 and each.experiment == experiments[1] for each in seen)
        if half_done and any(each.kind == "ended" for each in seen):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        run_all(experiments, out=tmp_path, jobs=2, on_event=interrupt)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    pids = [int(re.findall(r"process (\d+)", log_of(tmp_path, each))[0]) for each in experiments]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    kept = read_records(tmp_path)
    assert [record.experiment for record in kept.records] == experiments[:1]
    assert not kept.problems
    events: list[Event] = []
    records = run_all(experiments, out=tmp_path, jobs=2, on_event=events.append)
    assert [record.status for record in records] == ["finished"] * 2
    assert kinds(events, experiments[0]) == ["skipped"]
    first = next(event.epoch.epoch for event in events if event.epoch)
    assert first > 8, "it starts from an earlier point than its last checkpoint"
    assert [point.epoch for point in records[1].curve] == list(range(1, 41))


def test_a_damaged_record_is_set_aside_and_its_run_done_again(tmp_path: Path) -> None:
    experiments = runs("quick", "fc-8")
    for experiment in experiments:
        run_folder(tmp_path, experiment).mkdir(parents=True)
    damaged = run_folder(tmp_path, experiments[0]) / RECORD
    damaged.write_text('{"format": "forep')
    damaged.with_name("record.damaged-1.json").write_text("an earlier one")
    foreign = run_folder(tmp_path, experiments[1]) / RECORD
    record = Record(id=experiments[0].id, experiment=experiments[0], status="finished")
    foreign.write_text(record.model_dump_json())
    events: list[Event] = []
    records = run_all(experiments, out=tmp_path, jobs=2, on_event=events.append)
    assert [record.status for record in records] == ["finished"] * 2
    assert read_records(tmp_path).problems == ()
    notes = [event.note for event in events if event.kind == "damaged"]
    assert notes[0].startswith(f"{damaged} is damaged: not valid JSON: EOF")
    assert notes[0].endswith("; it is kept as record.damaged-2.json, and the run is done again")
    assert "but lies in the folder" in notes[1]
    assert damaged.with_name("record.damaged-1.json").read_text() == "an earlier one"
    assert damaged.with_name("record.damaged-2.json").read_text() == '{"format": "forep'
    assert foreign.with_name("record.damaged-1.json").read_text() == record.model_dump_json()


@pytest.mark.parametrize("version", ["foreprune-record/0", "foreprune-record/2"])
def test_records_of_another_format_are_not_mixed_with_ours(tmp_path: Path, version: str) -> None:
    (here,) = runs("quick")
    other = Experiment(data="mnist", model="fc-8", method="snip")
    path = write_record(tmp_path, Record(id=other.id, experiment=other, status="finished"))
    path.write_text(path.read_text().replace("foreprune-record/1", version))
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match="choose another output folder, or go on with the version that wrote it"
    ) as error:
        run_all([here], out=tmp_path)
    assert str(error.value).startswith(
        f"{path} has the format '{version}', and this version of foreprune writes 'foreprune-record/1';"
    )
    assert path.read_bytes() == before
    assert not run_folder(tmp_path, here).exists()
    assert read_records(tmp_path).problems == (
        (path, f"not a record of the format 'foreprune-record/1', but {version!r}"),
    )


def test_two_runners_cannot_share_a_folder(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(BlockingIOError) as error:
        run_all(runs("quick"), out=tmp_path)
    assert re.fullmatch(
        rf"{tmp_path} is in use by another run of foreprune \(process {os.getpid()} on \S+ since \S+\); "
        "wait until it is done, or choose another output folder",
        str(error.value),
    )
    assert not (tmp_path / "runs").exists()
    with locked(tmp_path):
        pass
    assert (tmp_path / LOCK).read_text() == ""


def test_a_lock_held_by_what_a_dead_runner_left_behind_is_waited_for(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    program = (
        "import fcntl, socket, sys, time\n"
        f"file = open({str(tmp_path / LOCK)!r}, 'w')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        f"file.write('{dead.pid} ' + socket.gethostname() + ' then'); file.flush()\n"
        "print('held', flush=True); time.sleep(0.5)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with locked(tmp_path):
            assert holder.wait(timeout=5) == 0


def test_a_drive_without_locks_is_used_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def refuse(number: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.warns(UserWarning, match=r"is on a drive without file locks \(No locks available\): see to it that"),
        locked(tmp_path) as lock,
    ):
        assert lock is None


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT"])
def test_a_full_disk_stops_the_sweep_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setenv("FULL", code)
    experiments = runs("quick", "filling", "fc-8")
    with pytest.raises(OSError, match=r"1 finished run is kept; free space and run the same command again") as error:
        run_all(experiments, out=tmp_path, jobs=1)
    assert error.value.errno == getattr(errno, code)
    assert str(error.value).startswith(f"disk full writing to {tmp_path}; ")
    found = read_records(tmp_path)
    assert [record.experiment for record in found.records] == experiments[:1]
    assert not found.problems
    assert [path.name for path in run_folder(tmp_path, experiments[1]).iterdir()] == [LOG]
    assert "stopped, the results cannot be written: [Errno" in log_of(tmp_path, experiments[1])
    assert not run_folder(tmp_path, experiments[2]).exists()
    assert [record.status for record in run_all(experiments, out=tmp_path, jobs=2)] == ["finished"] * 3


def test_another_trouble_with_the_disk_is_told_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (experiment,) = runs("quick")
    out = tmp_path / "out"
    run_folder(out, experiment).parent.mkdir(parents=True)
    run_folder(out, experiment).write_text("in the way")
    with pytest.raises(OSError, match="0 finished runs are kept; mend that and run the same command again") as error:
        run_all([experiment], out=out, jobs=2)
    assert str(error.value).startswith(
        f"cannot write to {out}: cannot create the folder {run_folder(out, experiment)}: a file"
    )


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        experiments = [each.model_copy(update={"seed": seed}) for seed in range(5) for each in runs("quick")]
        with pytest.raises(OSError, match=r"disk full writing to .*finished run.* kept") as error:
            run_all(experiments, out=disk, jobs=1)
        found = read_records(disk)
        assert 0 < len(found.records) < 5
        assert f"; {len(found.records)} finished run" in str(error.value)
        assert not found.problems
        assert not list(disk.rglob("*.tmp"))
        kept = {record.id: (run_folder(disk, record.experiment) / RECORD).read_bytes() for record in found.records}
        subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True)
        records = run_all(experiments, out=disk, jobs=2)
        assert [record.status for record in records] == ["finished"] * 5
        for name, content in kept.items():
            assert (disk / "runs" / name / RECORD).read_bytes() == content
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_half_written_files_of_dead_processes_are_removed(tmp_path: Path) -> None:
    (experiment,) = runs("quick")
    left = [run_folder(tmp_path, experiment) / ".record.json.0a1b.tmp", tmp_path / "dense" / "x" / ".step-3.9f.tmp"]
    own = tmp_path / "dense" / "x" / "notes.tmp"
    for path in (*left, own):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half of")
    kinds: list[str] = []

    def look(event: Event) -> None:
        kinds.append(event.kind)
        assert not any(path.exists() for path in left), event.kind
        if event.kind == "ended":  # as if a process had been stopped in the middle
            left[1].write_text("half of")

    run_all([experiment], out=tmp_path, jobs=2, on_event=look)
    assert kinds == ["started", "epoch", "ended"]
    assert not any(path.exists() for path in left)
    assert own.exists()


def test_what_cannot_be_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="jobs must be at least 1, or 0 for one per core or GPU, not -2"):
        run_all([], out=tmp_path / "a", jobs=-2)
    assert not (tmp_path / "a").exists()
    assert run_all([], out=tmp_path / "b") == ()


def test_a_folder_that_may_not_be_written_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **settings: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(
        PermissionError, match=rf"no permission to write in {tmp_path}; choose an output folder you may"
    ):
        run_all([], out=tmp_path)


def test_an_unknown_executor_and_an_address_that_is_not_used_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "none"
    with pytest.raises(ValueError, match="executor must be 'local' or 'ray', not 'slurm'"):
        run_all([], out=out, executor="slurm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="address belongs to executor='ray'; add that, or leave out 'auto'"):
        run_all([], out=out, address="auto")
    assert not out.exists()


def test_the_room_loads_without_torch_and_ray() -> None:
    program = "import sys, foreprune.runner\nassert not {'torch', 'ray', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
