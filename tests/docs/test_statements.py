"""What papers state beside our numbers: verdicts by hand, and pages that say what their records say."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import stated, statements  # noqa: E402
from benchmarks.statements import Expected, Part, Range, Statement, Verdict, judge, main, overall, table  # noqa: E402
from foreprune.papers.frankle import appendix_k  # noqa: E402
from foreprune.records import Experiment, Record, frame, read_records  # noqa: E402
from foreprune.report.sections import sections  # noqa: E402
from foreprune.report.significance import significance_csv  # noqa: E402

BASE = (0.90, 0.80, 0.85, 0.95, 0.70)


def runs(method: str, results: tuple[float, ...], *, density: float = 0.1, **settings: object) -> list[Record]:
    found = []
    for seed, top1 in enumerate(results):
        experiment = Experiment(data="digits", model="mlp", method=method, density=density, seed=seed, **settings)
        found.append(Record(id=experiment.id, experiment=experiment, status="finished", top1=top1))
    return found


def shifted(points: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(low + more / 100 for low, more in zip(BASE, points, strict=True))


# differences in points of five seeds, whose intervals are the mean plus and minus 2.776 deviations / sqrt(5)
BETTER = (2.0, 2.2, 1.8, 2.1, 1.9)  # 2 ± 0.20
SLIGHTLY_BETTER = (0.2, 0.3, 0.1, 0.25, 0.15)  # 0.2 ± 0.10
ALIKE = (0.1, -0.1, 0.05, -0.05, 0.0)  # 0 ± 0.10
ODD = (3.0, -2.0, 1.0, 4.0, -1.0)  # 1 ± 3.2
WORSE = tuple(-value for value in BETTER)


@pytest.mark.parametrize(
    ("points", "expected", "wanted"),
    [
        (BETTER, "more", "agrees"),
        (BETTER, "less", "does not agree"),
        (BETTER, "same", "does not agree"),
        (BETTER, "not less", "agrees"),
        (SLIGHTLY_BETTER, "more", "agrees"),
        (SLIGHTLY_BETTER, "less", "does not agree"),
        (SLIGHTLY_BETTER, "same", "agrees"),
        (ALIKE, "more", "does not agree"),
        (ALIKE, "same", "agrees"),
        (ALIKE, "not less", "agrees"),
        (ODD, "more", "undecided"),
        (ODD, "same", "undecided"),
        (ODD, "not less", "undecided"),
        (WORSE, "less", "agrees"),
        (WORSE, "not less", "does not agree"),
    ],
)
def test_verdicts(points: tuple[float, ...], expected: Expected, wanted: Verdict) -> None:
    drawn = sections([*runs("random", BASE), *runs("snip", shifted(points))])
    (found,) = judge(Statement("1", "so", (Part("snip", "random", expected),)), drawn)
    assert found.verdict == wanted
    assert found.test.n == 5


def test_a_statement_agrees_if_all_its_comparisons_do() -> None:
    records = [
        *runs("random", BASE),
        *runs("snip", shifted(BETTER)),
        *runs("grasp", shifted(ODD)),
        *runs("synflow", shifted(WORSE)),
    ]

    def verdict(*methods: str) -> Verdict:
        parts = tuple(Part(method, "random", "more") for method in methods)
        return overall(judge(Statement("1", "so", parts), sections(records)))

    assert verdict("snip") == "agrees"
    assert verdict("snip", "grasp") == "undecided"
    assert verdict("snip", "grasp", "synflow") == "does not agree"
    assert verdict("snip", "phew") == "agrees", "what was not run says nothing"
    assert verdict("phew") == "not run"


def test_contradictions_are_corrected_and_agreement_is_not() -> None:
    """t = 3.06, p = 0.038: enough where all must agree, too little where one of two may contradict."""
    points = (1.0, 3.0, 0.4, 2.0, 0.8)
    assert table((Statement("1", "so", (Part("snip", "random", "more"),)),), _pair(points)).endswith("| **agrees** |")
    for parts, wanted in ((("snip",), "does not agree"), (("snip", "grasp"), "undecided")):
        statement = Statement("1", "so", tuple(Part(each, "random", "less") for each in parts))
        assert overall(judge(statement, sections(_pair(points)))) == wanted
    both = Statement("1", "so", tuple(Part(each, "random", "more") for each in ("snip", "grasp")))
    assert overall(judge(both, sections(_pair(points)))) == "agrees"


def _pair(points: tuple[float, ...]) -> list[Record]:
    return [*runs("random", BASE), *runs("snip", shifted(points)), *runs("grasp", shifted(points[::-1]))]


def test_a_row_by_hand() -> None:
    records = [
        *runs("snip", BASE[:3]),
        *runs("snip", shifted((1.0, 2.0, 3.0, 0, 0))[:3], ablation="shuffle"),
        *runs("snip", BASE[:3], density=0.01),
        *runs("snip", shifted((3.0, 4.0, 5.0, 0, 0))[:3], density=0.01, ablation="shuffle"),
        *runs("snip", shifted((9.0, 9.0, 9.0, 9.0, 9.0)), density=0.001),
    ]
    part = Part("snip, shuffled", "snip", "more", Range(low=0.005))
    made = table((Statement("K.2", "it helps", (part,)),), records)
    # means over densities 2, 3, 4: 3 ± 4.303 / sqrt(3)
    assert made.splitlines() == [
        "| | statement | ours: difference in points [95 % CI], n seeds | |",
        "|---|---|---|---|",
        "| K.2 | it helps | snip, shuffled at 0.1 to 0.01: +3.00 [+0.52, +5.48], n = 3 | **agrees** |",
    ]


def test_records_of_two_settings_are_refused() -> None:
    records = [*_pair(BETTER), *(run for name in ("random", "snip") for run in runs(name, BASE, train_size=500))]
    with pytest.raises(ValueError, match=r"snip and random were run in 2 settings, .*; give records of one"):
        judge(Statement("1", "so", (Part("snip", "random", "more"),)), sections(records))


def test_every_statement_of_appendix_k_is_about_runs_of_the_entry() -> None:
    """With all runs of the appendix, no statement is left without a number."""
    records = [
        Record(id=run.id, experiment=run, status="finished", top1=0.9 + 0.001 * (int(run.id[-6:], 16) % 7))
        for run in appendix_k.experiments("paper")
    ]
    drawn = sections(records)
    for statement in stated.FRANKLE:
        assert len(judge(statement, drawn)) == len(statement.parts), statement.says


@pytest.mark.parametrize("name", stated.PAGES)
def test_the_pages_are_current(name: str) -> None:
    assert main(["--check", name]) == 0, f"run: python -m benchmarks statements {name}"


@pytest.mark.parametrize("name", stated.PAGES)
def test_every_comparison_is_of_something_that_was_run_or_will_be(name: str) -> None:
    records = read_records(statements.RESULTS / name / "records.csv").records
    labels = {label for section in sections(records) for label in section.variants}
    later = {"iterative-snip", 'grasp (keep="magnitude")'}
    for statement in stated.PAGES[name]:
        for part in statement.parts:
            assert {part.label, part.against} <= labels | later


def test_other_records_are_read_and_printed(tmp_path: Path) -> None:
    path = tmp_path / "records.csv"
    frame([*runs("snip", BASE), *runs("snip", shifted(WORSE), ablation="shuffle")]).to_csv(path, index=False)
    said: list[str] = []
    assert main(["--print", "--records", str(path), "frankle-lenet-mnist"], say=said.append) == 0
    assert "snip, shuffled at 0.1: -2.00 [-2.20, -1.80], n = 5" in said[0]


def test_a_page_without_marks_or_statements_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="the page needs the lines"):
        statements.written("no marks", "table")
    with pytest.raises(SystemExit):
        main(["first-run"])
    assert "no statements of a page 'first-run'; there are frankle-lenet-mnist," in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--records", "there"])
    assert "--records belongs to one page: name it" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(path.parent.name for path in statements.RESULTS.glob("*/significance.csv")))
def test_the_published_tests_are_those_of_the_records(name: str) -> None:
    """`significance.csv` beside a page: the same comparisons, numbers and outcomes."""
    folder = statements.RESULTS / name
    made = significance_csv(sections(read_records(folder / "records.csv").records))
    rows, expected = (
        list(csv.DictReader(io.StringIO(text))) for text in ((folder / "significance.csv").read_text(), made)
    )
    numbers = {"difference", "ci95_low", "ci95_high", "t", "p", "p_holm"}
    for row, wanted in zip(rows, expected, strict=True):
        assert {key: row[key] for key in row.keys() - numbers} == {key: wanted[key] for key in wanted.keys() - numbers}
        for key in numbers:
            assert [float(row[key])] == pytest.approx([float(wanted[key])], rel=1e-6) if row[key] else not wanted[key]
