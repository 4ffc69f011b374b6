"""`python -m benchmarks statements [PAGE ...]`: what papers state, beside our numbers, on the pages of docs/results.

Reads `docs/results/PAGE/records.csv` (or the folder or table given with `--records`) and writes the table of statements
into `docs/results/PAGE.md`, between its marks. Every seed counts once: a difference is paired by seed and averaged over
the densities named. `--check` writes nothing and says whether the pages are current; `--print` prints the tables.

The verdict of one comparison, by the 95 % interval over seeds and the p of the paired t-test:

* a direction ("more", "less"): agrees if p < 0.05 with that sign; does not if p < 0.05 with the other, or if the whole
  interval lies within the margin of half a point; otherwise undecided;
* "same": agrees if the whole interval lies within the margin; does not if it does not and p < 0.05; otherwise
  undecided;
* "not less": agrees if the interval lies above minus the margin; does not if p < 0.05 with the other sign; otherwise
  undecided.

A statement agrees if all its comparisons do, and does not if one does not. So p is corrected (Holm, within the
statement) where it speaks against the statement, and needs no correction where all must speak for it. Comparisons that
were not run are left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from foreprune.records import Record, read_records
from foreprune.report.measures import Measure, density_texts
from foreprune.report.sections import Section, sections
from foreprune.report.significance import Comparison, change_text, compare, holm

RESULTS = Path(__file__).parents[1] / "docs" / "results"
BEGIN, END = "<!-- statements: python -m benchmarks statements -->", "<!-- end of the statements -->"
LEVEL = 0.05
_OPENING = (
    "".join(f"{part} " for part in (__doc__ or "").split("\n\n")[:2])
    + "benchmarks/statements.py has the rules of a verdict."
)
Expected = Literal["more", "less", "same", "not less"]
Verdict = Literal["agrees", "does not agree", "undecided", "not run"]


@dataclass(frozen=True)
class Range:
    """Densities from `low` (included) up to `high` (left out)."""

    low: float = 0.0
    high: float = 1.0

    def of(self, densities: Iterable[float]) -> list[float]:
        """Those of `densities` that lie in it."""
        return [density for density in densities if self.low <= density < self.high]


@dataclass(frozen=True)
class Part:
    """One comparison that a statement speaks of: the labels of the runs, the densities, and what is expected.

    `expected` is of the results of `label` beside those of `against`, in the records' units: where lower is better, a
    method that is ahead has "less".
    """

    label: str
    against: str
    expected: Expected
    densities: Range = Range()
    model: str = ""


@dataclass(frozen=True)
class Statement:
    """What a paper says, where, and the comparisons that decide it."""

    where: str
    says: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Judged:
    """A part with its comparison and verdict."""

    part: Part
    section: Section
    test: Comparison
    verdict: Verdict


def judge(statement: Statement, drawn: Sequence[Section]) -> tuple[Judged, ...]:
    """The parts that were run, each with its verdict; p is corrected within the statement."""
    found = []
    for part in statement.parts:
        section = _section(part, drawn)
        densities = part.densities.of(section.densities()) if section else []
        run = [d for d in densities if section and section.pairs(part.label, part.against, d)]
        if section and run:
            found.append((part, section, compare(section, part.label, part.against, run)))
    tested = [test.p for _, _, test in found if test.p is not None]
    corrected = iter(holm(tested))
    tests = [replace(test, holm=next(corrected)) if test.p is not None else test for _, _, test in found]
    return tuple(
        Judged(part, section, test, verdict(part.expected, test))
        for (part, section, _), test in zip(found, tests, strict=True)
    )


def _section(part: Part, drawn: Sequence[Section]) -> Section | None:
    """The section that has both labels; of several, an error."""
    mine = [
        section
        for section in drawn
        if part.model in ("", section.model) and {part.label, part.against} <= section.variants.keys()
    ]
    if len(mine) > 1:
        raise ValueError(
            f"{part.label} and {part.against} were run in {len(mine)} settings, {mine[0].title} and {mine[1].title}; "
            "give records of one"
        )
    return mine[0] if mine else None


def verdict(expected: Expected, test: Comparison) -> Verdict:
    """Whether a comparison shows what is expected; see the top of this file."""
    if test.low is None or test.high is None or test.holm is None or test.difference is None:
        return "undecided"
    margin = 0.0 if test.margin is None else test.margin
    inside = -margin < test.low and test.high < margin
    against = test.holm < LEVEL
    if expected == "same":
        return "agrees" if inside else "does not agree" if against else "undecided"
    if expected == "not less":
        if test.low > -margin:
            return "agrees"
        return "does not agree" if against and test.difference < 0 else "undecided"
    right = test.difference > 0 if expected == "more" else test.difference < 0
    if right and test.p is not None and test.p < LEVEL:
        return "agrees"
    return "does not agree" if inside or (against and not right) else "undecided"


def overall(parts: Sequence[Judged]) -> Verdict:
    """The verdict of a statement."""
    found = {part.verdict for part in parts}
    if not found:
        return "not run"
    if "does not agree" in found:
        return "does not agree"
    return "undecided" if "undecided" in found else "agrees"


def table(statements: Sequence[Statement], records: Sequence[Record]) -> str:
    """The statements as a Markdown table: what is said, our differences with 95 % intervals, and whether they agree."""
    drawn = sections(records)
    trained = [section.measure for section in drawn]
    lines = [f"| | statement | ours: difference{_unit(trained)} [95 % CI], n seeds | |", "|---|---|---|---|"]
    for statement in statements:
        parts = judge(statement, drawn)
        several = len({part.part.model for part in parts}) > 1
        cells = (
            statement.where,
            statement.says,
            "<br>".join(_part(part, model=several, marked=len(parts) > 1) for part in parts) or "–",
            f"**{overall(parts)}**",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _unit(measures: Sequence[Measure]) -> str:
    return f" in {measures[0].difference_unit}" if measures and measures[0].difference_unit else ""


def _part(judged: Judged, *, model: bool, marked: bool) -> str:
    """`snip − grasp at 0.41 to 0.017: +0.60 [0.45, 0.75], n = 5, agrees`."""
    test, part = judged.test, judged.part
    ends = [density_texts(density)[0] for density in (max(test.densities), min(test.densities))]
    where = ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
    base = f"{part.against}, "
    what = part.label if part.label.startswith(base) else f"{part.label} − {part.against}"
    network = f"{part.model}, " if model else ""
    said = f"{network}{what} at {where}: {change_text(judged.section, test)}, n = {test.n}"
    return f"{said}, {judged.verdict}" if marked else said


def written(page: str, made: str) -> str:
    """`page` with the table between its marks.

    Raises:
        ValueError: it has no marks.
    """
    if BEGIN not in page or END not in page:
        raise ValueError(f"the page needs the lines {BEGIN!r} and {END!r}")
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}"


def main(arguments: Sequence[str] | None = None, *, say: Callable[[str], None] = print) -> int:
    """The command; 1 if `--check` finds a page that is not current."""
    from benchmarks.stated import PAGES

    parser = argparse.ArgumentParser(prog="python -m benchmarks statements", description=_OPENING)
    parser.add_argument("pages", nargs="*", metavar="PAGE", help=f"of {', '.join(PAGES)} (default: all)")
    parser.add_argument("--records", type=Path, help="folder of runs or records.csv (default: the page's own)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is not current")
    parser.add_argument("--print", action="store_true", help="write nothing; print the tables")
    chosen = parser.parse_args(arguments)
    if odd := [page for page in chosen.pages if page not in PAGES]:
        parser.error(f"no statements of a page {odd[0]!r}; there are {', '.join(PAGES)}")
    if chosen.records and len(chosen.pages) != 1:
        parser.error("--records belongs to one page: name it")
    stale = 0
    for name in chosen.pages or PAGES:
        records = read_records(chosen.records or RESULTS / name / "records.csv").records
        made = table(PAGES[name], records)
        if chosen.print:
            say(made)
            continue
        path = RESULTS / f"{name}.md"
        page = path.read_text(encoding="utf-8")
        new = written(page, made)
        stale += new != page
        if not chosen.check:
            path.write_text(new, encoding="utf-8")
        elif new != page:
            say(f"{path.name} is not current: python -m benchmarks statements {name}")
    return int(chosen.check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
