"""The tables of docs/results/index.md are what its records say."""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import certificate  # noqa: E402
from foreprune.papers import entries  # noqa: E402
from foreprune.papers.published import PUBLISHED, run_ids  # noqa: E402

FRANKLE = (
    sum(entry.name.startswith("frankle-") for entry in entries()),
    sum(number.entry.startswith("frankle-") for number in PUBLISHED),
)
PAGE = (ROOT / "docs" / "results" / "index.md").read_text(encoding="utf-8")


def test_the_page_is_current() -> None:
    assert certificate.current(PAGE) == PAGE, "run: python -m benchmarks certificate"


def test_every_table_and_figure_has_a_row_that_leads_to_a_page_or_says_that_it_was_not_run() -> None:
    notes = tomllib.loads((ROOT / "docs" / "results" / "entries.toml").read_text(encoding="utf-8"))
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert {row.split("`")[1] for row in rows} == {entry.name for entry in entries()}
    seen: set[str] = set()
    for row in rows:
        name, run = row.split("`")[1], row.split(" | ")[1]
        page = notes.get(name, {}).get("page", "")
        assert page or (run == "not run" if name in seen else re.match(r"not run: [\d,]+ runs", run)), row
        seen.add(name)
        assert not page or (ROOT / "docs" / "results" / f"{page}.md").exists()


def test_the_count_of_statements_is_that_of_the_page() -> None:
    notes = tomllib.loads((ROOT / "docs" / "results" / "entries.toml").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "results" / "frankle-lenet-mnist.md").read_text(encoding="utf-8")
    verdicts = Counter(re.findall(r"\*\*([a-z ]+)\*\* \|$", page, flags=re.M))
    note = notes["frankle-appendix-k"]
    assert note["published"] == f"{verdicts.total()} statements"
    words = ("agrees", "does not agree", "undecided", "not run")
    assert [int(number) for number in re.findall(r"\d+", note["ours"])] == [verdicts[word] for word in words]


def test_a_number_changes_with_its_record(tmp_path: Path) -> None:
    number = next(n for n in PUBLISHED if n.method == "synflow" and n.model == "vgg-16")
    (tmp_path / "a").mkdir()
    (tmp_path / "entries.toml").write_text('[frankle-figure-5]\npage = "a"\n', encoding="utf-8")
    lines = [
        "id,status,empty_channels",
        *(f"{name},finished,0.{50 + at}" for at, name in enumerate(run_ids(number)[:2])),
    ]
    (tmp_path / "a" / "records.csv").write_text("\n".join(lines), encoding="utf-8")
    made = certificate.current(f"a\n{certificate.BEGIN}\nold\n{certificate.END}\nb\n", tmp_path)
    assert made.startswith("a\n")
    assert made.endswith("\nb\n")
    assert "old" not in made
    line = next(line for line in made.splitlines() if "vgg-16 at 0.0687" in line)
    assert "as published, n = 2" in line
    assert "synflow 50.5 ± 0.7" in line
    assert "1 of 1 within 1.5" in line
    assert f"{number.measure} (%): " in line
    counts = [row for row in made.splitlines() if row.startswith("| Frankle")]
    assert counts == [f"| Frankle, Dziugaite, Roy & Carbin, ICLR 2021 | {FRANKLE[0]} | 1 | {FRANKLE[1]} | 1 | 1 |"]


def test_each_paper_has_a_section_with_its_entries() -> None:
    sections = {part.partition("\n")[0]: part for part in PAGE.split("\n### ")[1:]}
    assert list(sections) == list(dict.fromkeys(entry.paper.partition(", arXiv")[0] for entry in entries()))
    for entry in entries():
        assert f"| `{entry.name}` {entry.title}" in sections[entry.paper.partition(", arXiv")[0]]


def test_the_command_writes_the_page_and_check_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(ROOT / "docs" / "results" / "entries.toml", tmp_path)
    (tmp_path / "index.md").write_text(f"{certificate.BEGIN}\nold\n{certificate.END}\n", encoding="utf-8")
    monkeypatch.setattr(certificate, "RESULTS", tmp_path)
    monkeypatch.setattr(certificate, "current", lambda page: page.replace("old", "new"))
    assert certificate.main(["--check"]) == 1
    assert capsys.readouterr().out == "index.md is not current: python -m benchmarks certificate\n"
    assert certificate.main([]) == 0
    assert certificate.main(["--check"]) == 0
    assert "new" in (tmp_path / "index.md").read_text(encoding="utf-8")


def test_notes_on_nothing_and_pages_without_a_place_are_refused(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docs" / "results" / "entries.toml", tmp_path)
    with pytest.raises(ValueError, match="the page needs the lines"):
        certificate.current("no table", tmp_path)
    (tmp_path / "entries.toml").write_text("[frankle-figure-99]\n", encoding="utf-8")
    with pytest.raises(ValueError, match="'frankle-figure-99', which is no table or figure"):
        certificate.current(PAGE, tmp_path)
