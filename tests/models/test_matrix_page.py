"""docs/models.md is what `make matrix` writes of its record, and the record is of the networks in the lists."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
from models import page, record
from models.cell import Cell, columns
from models.libraries import LIBRARIES, networks


def test_the_page_is_that_of_the_record() -> None:
    assert page.PAGE.read_text() == page.text(list(record.load().values()))


def test_the_record_is_whole() -> None:
    rows = record.load()
    libraries = Counter(library for library, _ in rows)
    assert sum(count for library, count in libraries.items() if library != "own") >= 100
    for row in rows.values():
        assert set(row.outcomes) == set(columns()), row.key


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_record_has_the_networks_of_the_list(library: str) -> None:
    try:
        listed = list(networks(library))
    except ImportError as error:
        pytest.skip(str(error))
    assert [name for known, name in record.load() if known == library] == listed


def test_no_cell_of_the_record_is_wrong() -> None:
    assert [key for key, row in record.load().items() if row.not_right()] == []


def _row(network: str, **cells: Cell) -> record.Row:
    named = {column.replace("_", "-"): cell for column, cell in cells.items()}
    return record.row(("own", network), versions="torch 2", parameters=1000, prunable=900, cells=named)


def test_cells_of_a_family_are_told_apart_and_reasons_counted() -> None:
    fine, warned = Cell("ok", "", 0.0), Cell("warned", "collapse", 0.0)
    one, other = (Cell("refused", f"torch.{name} in '{name}' has no meaning", 0.0) for name in ("lstm", "gru"))
    raw = Cell("raw", "RuntimeError", 0.0)
    text = page.text(
        [
            _row("first", synflow=one, synflow_l2=one, snip=fine, force=warned, grasp=raw),
            _row("second", synflow=other, synflow_l2=fine, snip=fine, force=fine, grasp=fine),
        ]
    )
    assert "| first | 1,000 | 90 % | - | - | ok* | **error** (2) | no (1) | - | - | - | - | - |" in text
    assert "| second | 1,000 | 90 % | - | - | ok | ok | ok; synflow: no (3) | - | - | - | - | - |" in text
    assert "1. `torch.lstm in 'lstm' has no meaning` (2 cells)" in text
    assert "2. `RuntimeError` (1 cell)" in text
    assert "6 work, 1 of them with a warning; 3 are refused in words and 0 partly; 1 are errors or wrong." in text


def test_the_record_keeps_rows_in_the_order_of_the_list(tmp_path: Path) -> None:
    file = tmp_path / "models.jsonl"
    rows = [_row(name, snip=Cell("ok", "", 0.0)) for name in ("b", "gone", "a")]
    record.save(rows, order={"own": ["a", "b", "new"]}, file=file)
    assert [network for _, network in record.load(file)] == ["a", "b"]
    assert json.loads(file.read_text().splitlines()[1]) == asdict(rows[0])
    record.save(rows, order={}, file=file)
    assert [network for _, network in record.load(file)] == ["b", "gone", "a"]
