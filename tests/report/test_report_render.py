"""Folders of records turned into files."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pandas
import pytest
from report_records import comparison, failed

from foreprune.core import atomic
from foreprune.records import write_record
from foreprune.report.render import write_report

FILES = {
    *(
        f"figures/digits-resnet20-{n}.{k}"
        for n in ("accuracy", "curves", "layer-density", "layer-width")
        for k in ("png", "svg")
    ),
    *("report.html", "table.md", "records.csv", "significance.csv"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for record in comparison(methods=("random", "snip"), densities=(0.1,), seeds=(0, 1)):
        write_record(tmp_path / "work", record)
    return tmp_path / "work"


def files(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def test_everything_is_written_where_asked(folder: Path, tmp_path: Path) -> None:
    (folder / "runs" / "cut").mkdir()
    (folder / "runs" / "cut" / "record.json").write_text("{")
    before = files(folder)
    out = tmp_path / "elsewhere" / "report"
    path = write_report(folder, out=out)
    assert path == out / "report.html"
    assert files(out) == FILES
    assert files(folder) == before
    html = path.read_text(encoding="utf-8")
    assert html.startswith("<!DOCTYPE html>")
    assert "runs/cut/record.json" in html
    assert str(tmp_path) not in html
    assert "| snip |" in (out / "table.md").read_text(encoding="utf-8")
    table = pandas.read_csv(out / "records.csv")
    assert len(table) == 2 + 2 * 2
    assert set(table["status"]) == {"finished"}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that take no time to draw."""
    monkeypatch.setattr("foreprune.report.render.image_files", lambda *_, **__: {"png": b"png", "svg": b"svg"})


@pytest.mark.usefixtures("quick")
def test_the_report_lies_beside_the_records_by_default(folder: Path) -> None:
    assert write_report(str(folder)) == folder / "report.html"
    first = {name: (folder / name).read_bytes() for name in FILES}
    write_report(folder)
    assert {name: (folder / name).read_bytes() for name in FILES} == first


def test_failed_runs_alone_still_make_a_report(tmp_path: Path) -> None:
    write_record(tmp_path, failed("snip", density=0.1))
    assert "no luck" in write_report(tmp_path).read_text(encoding="utf-8")


def test_no_records_says_how_to_make_some(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no records; make some with `foreprune compare`"):
        write_report(tmp_path)
    (tmp_path / "runs" / "cut").mkdir(parents=True)
    (tmp_path / "runs" / "cut" / "record.json").write_text("{")
    with pytest.raises(ValueError, match=r"none of the 1 record\(s\) .* can be read \(the first, .*not valid JSON"):
        write_report(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        write_report(tmp_path / "none")
    assert files(tmp_path) == {"runs/cut/record.json"}


def test_without_plotly_the_error_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    before = files(folder)
    with pytest.raises(ImportError, match=r"needs plotly: pip install 'foreprune\[interactive\]'"):
        write_report(folder)
    assert files(folder) == before


@pytest.mark.usefixtures("quick")
def test_an_interrupted_report_leaves_the_old_page_and_no_scraps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(folder)
    before = (folder / "report.html").read_bytes()
    write_record(folder, failed("grasp", density=0.1))
    replace = os.replace

    def broken(source: Any, target: Any) -> None:
        if Path(target).name == "report.html":
            raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr(atomic.os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_report(folder)
    assert (folder / "report.html").read_bytes() == before
    assert not [name for name in files(folder) if name.endswith(".tmp")]


def test_a_report_of_a_table_has_the_same_statistics(folder: Path, tmp_path: Path) -> None:
    write_report(folder)
    page = write_report(folder / "records.csv", out=tmp_path / "again")
    assert page == tmp_path / "again" / "report.html"
    for name in ("significance.csv", "table.md", "records.csv"):
        assert (tmp_path / "again" / name).read_text() == (folder / name).read_text()
    (tmp_path / "alone").mkdir()
    table = (folder / "records.csv").rename(tmp_path / "alone" / "records.csv")
    assert write_report(table) == tmp_path / "alone" / "report.html"
