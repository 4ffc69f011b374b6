"""Records as a pandas table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from foreprune.records import (
    Experiment,
    Record,
    frame,
    load_frame,
    write_record,
)


def make(status: str = "finished", *, top1: float | None = 0.5, **settings: Any) -> Record:
    experiment = Experiment(**({"data": "digits", "model": "mlp", "method": "snip", "density": 0.1} | settings))
    return Record.model_validate({"id": experiment.id, "experiment": experiment, "status": status, "top1": top1})


def _put(out: Path, name: str, content: bytes) -> None:
    (out / "runs" / name).mkdir(parents=True)
    (out / "runs" / name / "record.json").write_bytes(content)


def test_a_frame_has_one_row_per_run(tmp_path: Path) -> None:
    record = make(hyper={"rounds": 100}).model_copy(update={"kept": 10, "total": 100, "seconds_train": 2.5})
    write_record(tmp_path, record)
    write_record(tmp_path, make("failed", top1=None, seed=1))
    table = load_frame(tmp_path).set_index("seed").sort_index()
    assert len(table) == 2
    first, second = table.loc[0], table.loc[1]
    assert (first["data"], first["model"], first["method"], first["status"]) == ("digits", "mlp", "snip", "finished")
    assert (first["density"], first["sparsity"], first["top1"], first["seconds_train"]) == (0.1, 0.9, 0.5, 2.5)
    assert (first["kept"], first["total"], first["hyper.rounds"], first["recipe.epochs"]) == (10, 100, 100, 20)
    assert second["status"] == "failed"
    assert table["kept"].isna().tolist() == [False, True]
    assert table["top1"].isna().tolist() == [False, True]
    assert str(table["kept"].dtype) == "Int64"


def test_a_frame_of_nothing_has_its_columns() -> None:
    table = frame([])
    assert len(table) == 0
    assert list(table.columns[:6]) == ["id", "data", "model", "method", "density", "sparsity"]


def test_a_frame_warns_of_records_left_aside(tmp_path: Path) -> None:
    _put(tmp_path, "cut", b"{")
    with pytest.warns(UserWarning, match=r"1 record\(s\) left aside, the first .*cut.record.json: not valid JSON"):
        assert len(load_frame(tmp_path)) == 0


def test_a_frame_without_pandas_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install 'foreprune\[report\]'"):
        frame([])
