"""`python -m benchmarks certificate`: writes the tables of docs/results/index.md from the records of its pages.

A table counts, and each paper has one of its own. Every table and figure of the papers has a row, or one for each
network and density with published numbers: what was run, the published numbers with ours, whether they agree, and why
not; what was not run shows its cost. Numbers come from `docs/results/*/records.csv` and `foreprune.papers.published`;
words that no record holds (the page, what was run, why not) from `docs/results/entries.toml`. `--check` says whether
the page is current.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from foreprune.cli.printing import flops
from foreprune.experiments.cost import estimate
from foreprune.papers import Entry, entries
from foreprune.papers.published import PUBLISHED, Beside, Published, beside

RESULTS = Path(__file__).parents[1] / "docs" / "results"
BEGIN, END = "<!-- table: python -m benchmarks certificate -->", "<!-- end of the table -->"
_NUMBERS = ("top1", "best_top1", "empty_channels")

Notes = Mapping[str, Mapping[str, str]]  # entry -> what no record says of it


def read_rows(folder: Path = RESULTS) -> Iterator[dict[str, Any]]:
    """The runs of all pages."""
    for path in sorted(folder.glob("*/records.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                yield {**row, **{key: float(row[key]) if row.get(key) else None for key in _NUMBERS}}


def tables(notes: Notes, found: Sequence[Beside]) -> str:
    """Counts over the papers, then a section with a table for each."""
    papers = {paper: list(group) for paper, group in itertools.groupby(entries(), key=lambda entry: entry.paper)}
    counted = [
        "| paper | tables and figures | run, at least in part | published numbers | with ours | within tolerance |",
        "|---|---:|---:|---:|---:|---:|",
        *(_line(_short(paper), *_counts(group, notes, found)) for paper, group in papers.items()),
    ]
    sections = (f"### {_short(paper)}\n\n{table(group, notes, found)}" for paper, group in papers.items())
    return "\n\n".join(["\n".join(counted), *sections])


def _counts(group: Sequence[Entry], notes: Notes, found: Sequence[Beside]) -> Iterator[str]:
    names = {entry.name for entry in group}
    ours = [pair for pair in found if pair.published.entry in names]
    yield str(len(group))
    yield str(len({pair.published.entry for pair in ours} | {name for name in names if "page" in notes.get(name, {})}))
    yield str(sum(number.entry in names for number in PUBLISHED))
    yield str(len(ours))
    yield str(sum(pair.agrees for pair in ours))


def table(group: Sequence[Entry], notes: Notes, found: Sequence[Beside]) -> str:
    """One paper's table as Markdown: a row for each entry, or for each network and density with published numbers."""
    lines = ["| table or figure | run | published | ours | agrees | page, and why not |", "|---|---|---|---|---|---|"]
    ours = {pair.published: pair for pair in found}
    for entry in group:
        note = notes.get(entry.name, {})
        numbers = [number for number in PUBLISHED if number.entry == entry.name]
        rows = itertools.groupby(numbers, key=lambda number: (number.model, number.density))
        lines.extend(_row(entry, note, list(row), ours, first=at == 0) for at, (_, row) in enumerate(rows))
        if not numbers:
            run = note.get("run") or _not_run(entry)
            cells = (f"`{entry.name}` {entry.title}", run, note.get("published", "a plot"), note.get("ours", "-"))
            lines.append(_line(*cells, note.get("agrees", "-"), _where(note)))
    return "\n".join(lines)


def _row(
    entry: Entry,
    note: Mapping[str, str],
    numbers: Sequence[Published],
    ours: Mapping[Published, Beside],
    *,
    first: bool,
) -> str:
    """One network at one density, all methods. Title, cost, page and reason stand in the first row of an entry."""
    model, density = numbers[0].model, numbers[0].density
    there = [ours[number] for number in numbers if number in ours]
    run = note.get(model) or note.get("run") or ("as published" if there else _not_run(entry) if first else "not run")
    seeds = ", ".join(dict.fromkeys(f"n = {pair.ours.n}" for pair in there))
    title = f" {entry.title}" if first else ""
    cells = (
        f"`{entry.name}`{title}: {model}" + ("" if density == 1 else f" at {density:.3g}"),
        f"{run}, {seeds}" if there else run,
        f"{numbers[0].measure} (%): " + ", ".join(f"{_label(number)} {number.value:g}" for number in numbers),
        ", ".join(f"{_label(pair.published)} {pair.text}" for pair in there) or "-",
        f"{sum(pair.agrees for pair in there)} of {len(there)} within {numbers[0].within:g}" if there else "-",
    )
    return _line(*cells, _where(note) if first else "")


@cache
def _not_run(entry: Entry) -> str:
    cost = estimate(entry.experiments("paper"))
    return f"not run: {cost.runs:,} runs" + (f", {flops(cost.flops)} FLOPs" if cost.flops else "")


def _label(number: Published) -> str:
    return number.method.partition(":")[0] + ("" if number.ablation == "none" else f" ({number.ablation})")


def _short(paper: str) -> str:
    return paper.partition(", arXiv")[0]


def _where(note: Mapping[str, str]) -> str:
    page = f"[page]({note['page']}.md)" if "page" in note else ""
    return ": ".join(filter(None, (page, note.get("why", ""))))


def _line(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def current(page: str, folder: Path = RESULTS) -> str:
    """`page` with its tables made anew.

    Raises:
        ValueError: it has no place for one, or the notes speak of an entry that does not exist.
    """
    notes = tomllib.loads((folder / "entries.toml").read_text(encoding="utf-8"))
    if odd := sorted(notes.keys() - {entry.name for entry in entries()}):
        raise ValueError(f"entries.toml speaks of {odd[0]!r}, which is no table or figure of foreprune.papers")
    if BEGIN not in page or END not in page:
        raise ValueError(f"the page needs the lines {BEGIN!r} and {END!r}")
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{tables(notes, beside(read_rows(folder)))}\n{END}{rest.split(END)[1]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 if `--check` finds that the page is not current."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks certificate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is not current")
    check = parser.parse_args(arguments).check
    path = RESULTS / "index.md"
    page = path.read_text(encoding="utf-8")
    made = current(page)
    if not check:
        path.write_text(made, encoding="utf-8")
    elif made != page:
        print(f"{path.name} is not current: python -m benchmarks certificate")
    return int(check and made != page)


if __name__ == "__main__":
    sys.exit(main())
