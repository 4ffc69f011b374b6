"""Records on disk: written whole or not at all, read with damage reported, never crashed on."""

from __future__ import annotations

import builtins
import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from foreprune.core import atomic
from foreprune.core.atomic import atomic_write
from foreprune.records import (
    Experiment,
    LayerRecord,
    Record,
    finished,
    read_records,
    run_folder,
    store,
    write_record,
)


def make(status: str = "finished", *, top1: float | None = 0.5, **settings: Any) -> Record:
    experiment = Experiment(**({"data": "digits", "model": "mlp", "method": "snip", "density": 0.1} | settings))
    return Record.model_validate({"id": experiment.id, "experiment": experiment, "status": status, "top1": top1})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_run_folder_is_named_by_the_experiment(tmp_path: Path) -> None:
    experiment = make(data="../etc/passwd").experiment
    assert run_folder(tmp_path, experiment) == tmp_path / "runs" / experiment.id
    assert run_folder(str(tmp_path), experiment).parent == tmp_path / "runs"
    assert not (tmp_path / "runs").exists()


def test_a_record_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    layer = LayerRecord(name="a.weight", shape=(3, 4), kept=2, total=12, units=3, units_alive=1)
    record = make(hyper={"rounds": 100, "rate": 1e-4, "flag": True, "mode": "x", "none": None})
    record = record.model_copy(update={"layers": (layer,), "environment": {"versions": {"torch": "2.13"}}})
    path = write_record(tmp_path, record)
    assert path == tmp_path / "runs" / record.id / "record.json"
    assert names(path.parent) == ["record.json"]
    found = read_records(tmp_path)
    assert found.records == (record,)
    assert found.problems == ()
    assert read_records(tmp_path / "runs").records == (record,)


def test_a_record_replaces_the_one_before_it(tmp_path: Path) -> None:
    write_record(tmp_path, make("failed", top1=None))
    write_record(tmp_path, make(top1=0.75))
    assert [record.top1 for record in read_records(tmp_path).records] == [0.75]


def test_records_come_ordered_by_id(tmp_path: Path) -> None:
    written = [make(seed=seed) for seed in (11, 3, 7)]
    for record in written:
        write_record(tmp_path, record)
    assert [record.id for record in read_records(tmp_path).records] == sorted(record.id for record in written)


def test_a_record_under_a_foreign_id_is_refused(tmp_path: Path) -> None:
    record = make().model_copy(update={"id": "something-else"})
    with pytest.raises(ValueError, match=r"must be its experiment's id, 'digits_mlp_snip_d0\.1_.*not 'something-else'"):
        write_record(tmp_path, record)
    assert names(tmp_path) == []


def _full_disk(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _broken_replace(source: Any, target: Any) -> None:
    raise OSError(errno.EIO, "Input/output error")


def _interrupted(source: Any, target: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("name", "failure", "expected"),
    [
        ("fsync", _full_disk, "No space left"),
        ("replace", _broken_replace, "Input/output"),
        ("replace", _interrupted, "^$"),
    ],
)
def test_a_failed_write_leaves_the_old_record_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, failure: Any, expected: str
) -> None:
    path = write_record(tmp_path, make(top1=0.25))
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, name, failure)
        with pytest.raises((OSError, KeyboardInterrupt), match=expected):
            write_record(tmp_path, make(top1=0.75))
    assert path.read_bytes() == before
    assert names(path.parent) == ["record.json"]


def test_the_new_content_is_on_disk_before_it_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    sync, replace = os.fsync, os.replace

    def watched_sync(descriptor: int) -> None:
        order.append("sync folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "sync file")
        sync(descriptor)

    def watched_replace(source: Path, target: Path) -> None:
        assert source.parent == target.parent
        assert source.read_bytes() == b"new"
        order.append("replace")
        replace(source, target)

    monkeypatch.setattr(atomic.os, "fsync", watched_sync)
    monkeypatch.setattr(atomic.os, "replace", watched_replace)
    atomic_write(tmp_path / "a.txt", b"new")
    assert (tmp_path / "a.txt").read_bytes() == b"new"
    if sys.platform == "linux":
        assert order == ["sync file", "replace", "sync folder"]


def test_what_is_written_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    atomic_write(tmp_path / "atomic", b"")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_writing_into_a_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"the folder .*none does not exist; create it first"):
        atomic_write(tmp_path / "none" / "a.txt", b"")


def _denied(*arguments: Any, **options: Any) -> Any:
    raise PermissionError(errno.EACCES, "Permission denied", str(arguments[0]))


def test_writing_without_permission_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", _denied)
        with pytest.raises(PermissionError, match=r"no permission to write .*choose an output folder you may write to"):
            atomic_write(tmp_path / "a.txt", b"")
    with monkeypatch.context() as patch:
        patch.setattr(store.Path, "mkdir", _denied)
        with pytest.raises(PermissionError, match=r"no permission to create .*choose an output folder"):
            write_record(tmp_path, make())


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(NotADirectoryError, match="a file stands in its way"):
        write_record(tmp_path, make())


def _put(out: Path, name: str, content: bytes) -> None:
    (out / "runs" / name).mkdir(parents=True)
    (out / "runs" / name / "record.json").write_bytes(content)


def test_damaged_and_foreign_records_are_reported_and_left_aside(tmp_path: Path) -> None:
    good = make()
    write_record(tmp_path, good)
    other = make(seed=1)
    text = other.model_dump_json()
    changed = json.loads(text) | {"experiment": make(seed=2).experiment.model_dump(mode="json")}
    damaged = {
        "cut": (text[:40].encode(), "not valid JSON"),
        "empty": (b"", "not valid JSON"),
        "bytes": (b"\xff\xfe\x00", "not valid JSON"),
        "deep": (b"[" * 100_000, "not valid JSON"),
        "list": (b"[1, 2]", "record: "),
        "format": (text.replace("foreprune-record/1", "foreprune-record/9").encode(), "not a record of the format"),
        "extra": (json.dumps(json.loads(text) | {"surprise": 1}).encode(), "surprise: Extra inputs"),
        "missing": (b"{}", r"id: Field required \(and 2 more\)"),
        "moved": (text.encode(), "lies in the folder 'moved'"),
        other.id: (json.dumps(changed).encode(), "but its settings make"),
    }
    for name, (content, _) in damaged.items():
        _put(tmp_path, name, content)
    found = read_records(tmp_path)
    assert found.records == (good,)
    reasons = {path.parent.name: reason for path, reason in found.problems}
    assert reasons.keys() == damaged.keys()
    for name, (_, reason) in damaged.items():
        assert re.search(reason, reasons[name]), (name, reasons[name])
        assert "\n" not in reasons[name]


def test_a_record_that_may_not_be_read_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_record(tmp_path, make())
    monkeypatch.setattr(store.Path, "read_bytes", _denied)
    found = read_records(tmp_path)
    assert found.records == ()
    assert [reason for _, reason in found.problems] == ["cannot be read: Permission denied"]


def test_runs_under_way_and_other_files_are_passed_over(tmp_path: Path) -> None:
    write_record(tmp_path, make())
    (tmp_path / "runs" / "under-way").mkdir()
    (tmp_path / "runs" / "under-way" / ".record.json.0a.tmp").write_text("{")
    (tmp_path / "runs" / "notes.txt").write_text("hello")
    found = read_records(tmp_path)
    assert len(found.records) == 1
    assert found.problems == ()


def test_reading_needs_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*none; give the output folder"):
        read_records(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file is a file; give the output folder"):
        read_records(tmp_path / "file")
    monkeypatch.setattr(store.Path, "iterdir", _denied)
    with pytest.raises(PermissionError, match=r"no permission to read"):
        read_records(tmp_path)


def test_only_a_finished_whole_record_of_the_same_settings_counts_as_finished(tmp_path: Path) -> None:
    record = make()
    assert finished(tmp_path, record.experiment) is None
    write_record(tmp_path, make("failed", top1=None))
    assert finished(tmp_path, record.experiment) is None
    path = write_record(tmp_path, record)
    assert finished(tmp_path, record.experiment) == record
    assert finished(tmp_path, make(seed=5).experiment) is None
    path.write_bytes(path.read_bytes()[:-20])
    assert finished(tmp_path, record.experiment) is None


def test_the_store_does_without_torch_and_pandas() -> None:
    code = "import sys, foreprune.records; print([m for m in ('torch', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_record_that_cannot_be_used_is_an_error_where_it_matters(tmp_path: Path) -> None:
    record = make()
    path = write_record(tmp_path, record)
    assert store.earlier(tmp_path, record.experiment) == record
    path.write_text("{")
    with pytest.raises(ValueError, match=r"^not valid JSON: EOF"):
        store.earlier(tmp_path, record.experiment)
    assert finished(tmp_path, record.experiment) is None
    assert store.earlier(tmp_path, make(seed=9).experiment) is None


def test_what_is_set_aside_never_replaces_what_was(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        path = tmp_path / "record.json"
        path.write_text(f"{number}")
        assert store.set_aside(path) == tmp_path / f"record.damaged-{number}.json"
    assert [(tmp_path / f"record.damaged-{n}.json").read_text() for n in (1, 2, 3)] == ["1", "2", "3"]
    assert not path.exists()


def test_only_records_of_another_version_are_another_format(tmp_path: Path) -> None:
    store.check_formats(tmp_path)
    write_record(tmp_path, make())
    for name, content in (("damaged", '{"format": "forep'), ("foreign", '{"format": "png"}'), ("empty", "")):
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "record.json").write_text(content)
    store.check_formats(tmp_path)
    other = tmp_path / "runs" / "x" / "record.json"
    other.parent.mkdir()
    other.write_text('{"id": "x", "format" :"foreprune-record/12"}')
    with pytest.raises(ValueError, match=r"x/record\.json has the format 'foreprune-record/12', and this version"):
        store.check_formats(tmp_path)


def test_which_errors_mean_a_full_disk() -> None:
    full = [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "Disk quota exceeded")]
    other = [OSError(errno.EIO, "Input/output error"), ValueError("No space left on device"), OSError("no space")]
    assert [store.is_full(error) for error in [*full, *other]] == [True, True, False, False, False]
