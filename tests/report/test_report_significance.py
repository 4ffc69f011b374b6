"""Paired tests against numbers worked out by hand; Holm's correction by hand and against its definition."""

from __future__ import annotations

import csv
import io
import math
import random
import statistics
import sys

import pytest
from report_records import record, regression, study

from foreprune.report.page import page
from foreprune.report.sections import Section, sections
from foreprune.report.significance import (
    Comparison,
    change_text,
    compare,
    critical,
    explanation,
    holm,
    markdown_tests,
    outcome_text,
    p_text,
    section_tests,
    significance_csv,
)
from foreprune.report.tables import grids


def only(records: list) -> Section:
    (section,) = sections(records)
    return section


def runs(method: str, results: tuple[float, ...], **settings: object) -> list:
    return [record(method, seed=seed, top1=top1, **({"density": 0.1} | settings)) for seed, top1 in enumerate(results)]


def the(tests: tuple[Comparison, ...], **wanted: object) -> Comparison:
    (found,) = (test for test in tests if all(getattr(test, name) == value for name, value in wanted.items()))
    return found


def test_holm_by_hand() -> None:
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, and never falling
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_holm_rejects_as_its_definition_says() -> None:
    """Step down: the k-th smallest of m is rejected while it and all before it are at most alpha / (m - k + 1)."""
    draw = random.Random(1)
    for _ in range(200):
        values = [draw.random() ** 3 for _ in range(draw.randint(1, 9))]
        corrected = holm(values)
        for alpha in (0.01, 0.05, 0.3):
            rejected = set()
            for rank, at in enumerate(sorted(range(len(values)), key=lambda at: values[at])):
                if values[at] > alpha / (len(values) - rank):
                    break
                rejected.add(at)
            assert {at for at, value in enumerate(corrected) if value <= alpha} == rejected


def test_a_paired_test_by_hand() -> None:
    """Differences 0.01, 0.02, 0.06: mean 0.03, variance 0.0007, t = 0.03 / sqrt(0.0007 / 3) with 2 degrees of freedom.

    With two degrees of freedom the two-sided p value is 1 - t / sqrt(t^2 + 2), and |t| for p = 0.05 is
    0.95 * sqrt(2 / (1 - 0.95^2)).
    """
    section = only([*runs("random", (0.50, 0.60, 0.70)), *runs("snip", (0.51, 0.62, 0.76))])
    (test,) = section_tests(section)
    assert (test.label, test.against, test.density, test.n, test.seeds) == ("snip", "random", 0.1, 3, (0, 1, 2))
    t = 0.03 / math.sqrt(0.0007 / 3)
    assert test.difference == pytest.approx(0.03, rel=1e-12)
    assert test.t == pytest.approx(t, rel=1e-9)
    assert test.p == pytest.approx(1 - t / math.sqrt(t * t + 2), rel=1e-9)
    limit = 0.95 * math.sqrt(2 / (1 - 0.95**2))
    half = limit * math.sqrt(0.0007 / 3)
    assert (test.low, test.high) == pytest.approx((0.03 - half, 0.03 + half), rel=1e-9)
    assert critical(3) == pytest.approx(limit, rel=1e-9)
    assert test.holm == test.p
    assert change_text(section, test) == f"+3.00 [{100 * (0.03 - half):+.2f}, {100 * (0.03 + half):+.2f}]"


def test_runs_are_paired_by_seed_and_others_left_out() -> None:
    records = [
        record("random", density=0.1, seed=2, top1=0.70),
        record("random", density=0.1, seed=0, top1=0.50),
        record("snip", density=0.1, seed=0, top1=0.53),
        record("snip", density=0.1, seed=2, top1=0.71),
        record("snip", density=0.1, seed=5, top1=0.01),
        record("random", density=0.1, seed=6, top1=0.99),
    ]
    (test,) = section_tests(only(records))
    assert (test.n, test.seeds) == (2, (0, 2))
    assert test.difference == pytest.approx(0.02)


def test_who_is_compared_with_whom() -> None:
    section = only(study(epochs=2))
    tests = section_tests(section)
    methods = {(test.label, test.against) for test in tests if test.family == "methods"}
    assert methods == {
        ("magnitude", "random"),
        *(("snip", each) for each in ("random", "magnitude")),
        *(("synflow", each) for each in ("random", "magnitude")),
        *(("magnitude-after", each) for each in ("random", "magnitude")),
        *(("ltr", each) for each in ("random", "magnitude")),
        *((f"magnitude at step {step}", f"random at step {step}") for step in (100, 1000)),
        *(
            (f"{method} at step {step}", f"{each} at step {step}")
            for method in ("snip", "synflow") for each in ("random", "magnitude") for step in (100, 1000)
        ),
    }  # fmt: skip
    ablated = {(test.label, test.against) for test in tests if test.family == "ablations"}
    assert ablated == {(label, label.split(",")[0]) for label, _ in section.methods(ablated=True)}
    assert {test.n for test in tests if test.family == "ablations"} == {3}
    assert {test.n for test in tests} == {3}, "two densities of three seeds are three samples"
    means = {(test.label, test.against) for test in tests if test.family == "methods, mean over densities"}
    assert means == methods
    means = {(test.label, test.against) for test in tests if test.family == "ablations, mean over densities"}
    assert means == ablated


def test_a_later_run_is_compared_with_an_early_reference_if_there_is_no_later_one() -> None:
    section = only([*runs("random", (0.5, 0.6)), *runs("magnitude-after", (0.7, 0.9), prune_at=99)])
    assert the(section_tests(section), label="magnitude-after at step 99").against == "random"


def test_every_seed_counts_once_over_densities_by_hand() -> None:
    """Differences of seeds 0, 1, 2: 2, 3, 1 points at one density, 4, 9, 11 at the other; means 3, 6, 6.

    Mean 5, variance 3, t = 5 / sqrt(3 / 3) = 5 with 2 degrees of freedom, p = 1 - 5 / sqrt(27). Six pairs as six
    samples would have given t = 3.02 with 5 degrees of freedom.
    """
    records = [
        *runs("snip", (0.90, 0.80, 0.70)),
        *runs("snip", (0.92, 0.83, 0.71), ablation="shuffle"),
        *runs("snip", (0.50, 0.40, 0.30, 0.20), density=0.01),
        *runs("snip", (0.54, 0.49, 0.41, 0.90), density=0.01, ablation="shuffle"),
    ]
    tests = section_tests(only(records))
    means = the(tests, family="ablations, mean over densities")
    assert (means.n, means.seeds) == (3, (0, 1, 2))  # seed 3 has one density only
    assert (means.density, means.densities, means.where) == (None, (0.1, 0.01), "mean of 2")
    assert means.difference == pytest.approx(0.05, rel=1e-12)
    assert means.t == pytest.approx(5.0, rel=1e-9)
    assert means.p == pytest.approx(1 - 5 / math.sqrt(27), rel=1e-9)
    half = 0.95 * math.sqrt(2 / (1 - 0.95**2)) * 0.01
    assert (means.low, means.high) == pytest.approx((0.05 - half, 0.05 + half), rel=1e-9)
    each = [test for test in tests if test.family == "ablations"]
    assert [(test.density, test.n) for test in each] == [(0.1, 3), (0.01, 4)]
    assert each[0].difference == pytest.approx(0.02)


def test_a_density_without_pairs_is_left_out_of_the_mean() -> None:
    records = [
        *runs("random", (0.5, 0.6)),
        *runs("snip", (0.6, 0.8)),
        *runs("random", (0.3, 0.4), density=0.01),
        *runs("snip", (0.4, 0.6), density=0.01),
        record("random", density=0.001, seed=0),
        record("snip", density=0.001, seed=1),
    ]
    means = the(section_tests(only(records)), family="methods, mean over densities")
    assert (means.n, means.densities) == (2, (0.1, 0.01))
    assert means.difference == pytest.approx(0.15)


def test_compare_takes_any_two_labels_and_the_densities_given() -> None:
    section = only(study(epochs=2))
    one = compare(section, "synflow", "snip", section.densities())
    other = compare(section, "snip", "synflow", section.densities())
    assert one.difference == pytest.approx(-(other.difference or 0))
    assert (one.p, one.holm) == (pytest.approx(other.p), None)
    assert compare(section, "synflow", "snip", [0.1]).density == 0.1
    with pytest.raises(ValueError, match=r"one density or more, such as section.densities\(\), not none"):
        compare(section, "synflow", "snip", [])


def outcome(differences: tuple[float, ...], *, others: int = 0) -> tuple[str | None, str]:
    """Of snip against random with these differences, among so many other tests that find nothing."""
    noise = [runs(f"method-{at}", (0.5, 0.7, 0.6, 0.8, 0.5)) for at in range(others)]
    base = (0.50, 0.60, 0.70, 0.60, 0.65)
    better = tuple(low + more for low, more in zip(base, differences, strict=False))
    section = only([*runs("random", base), *runs("snip", better), *(run for mine in noise for run in mine)])
    test = the(section_tests(section), label="snip")
    return test.outcome, outcome_text(section, test)


def test_the_three_outcomes() -> None:
    # mean 0, deviation 0.1 points, n = 5: half width 2.776 * 0.1 / sqrt(5) = 0.124 points
    assert outcome((0.001, -0.001, 0.001, -0.001, 0.0)) == ("equivalent", "equivalent within ±0.5")
    # the same around 0.3 points: the interval leaves out zero, and still a relevant difference
    assert outcome((0.004, 0.002, 0.004, 0.002, 0.003))[0] == "equivalent"
    # around 0.45: it reaches 0.57
    assert outcome((0.0055, 0.0035, 0.0055, 0.0035, 0.0045)) == ("differs", "differs")
    # mean 1, deviation about 10: it reaches from one side to the other
    assert outcome((0.11, -0.09, 0.11, -0.09, 0.01)) == ("undecided", "undecided")
    assert outcome((0.01,)) == (None, "–")


def test_a_difference_must_survive_the_correction() -> None:
    differences = (0.01, 0.03, 0.02, 0.05, 0.02)  # t = 3.83, p = 0.019
    assert outcome(differences)[0] == "differs"
    assert outcome(differences, others=3)[0] == "undecided"


def test_losses_are_never_called_equivalent() -> None:
    records = [regression(method, 0.1, seed, epochs=2) for method in ("random", "snip") for seed in (0, 1, 2)]
    (test,) = section_tests(only(records))
    assert test.margin is None
    assert test.outcome in ("differs", "undecided")
    assert "quivalent" not in " ".join(explanation(only(records), [test]))


def test_holm_counts_each_family_of_a_section_for_itself() -> None:
    tests = section_tests(only(study(epochs=2)))
    for family in {test.family for test in tests}:
        mine = [test for test in tests if test.family == family]
        assert [test.holm for test in mine] == pytest.approx(holm([test.p or 0 for test in mine]))
    assert len({test.family for test in tests}) == 4


def test_a_single_pair_is_not_tested() -> None:
    section = only([*runs("random", (0.5, 0.6)), *runs("snip", (0.7,)), *runs("grasp", (0.6, 0.8))])
    tests = section_tests(section)
    single = the(tests, label="snip")
    assert (single.n, single.p, single.holm, single.low, single.note) == (1, None, None, None, "n = 1: no test")
    assert single.difference == pytest.approx(0.2)
    assert the(tests, label="grasp").holm == the(tests, label="grasp").p, "a test that was not made was counted"
    none = section_tests(only([record("random", density=0.1, seed=0), record("snip", density=0.1, seed=1)]))
    assert (none[0].n, none[0].difference, none[0].note) == (0, None, "n = 0: no test")


def test_runs_that_were_not_trained_have_no_table_of_results() -> None:
    bare = [record(name, density=0.1, seed=seed, top1=None) for name in ("random", "snip") for seed in (0, 1)]
    assert section_tests(only(bare)) == ()
    assert grids(only(bare)) == ()
    assert markdown_tests(bare) == ""
    one = only([*bare, record("snip", density=0.1, seed=2)])
    assert len(section_tests(one)) == 1
    assert [rows for grid in grids(one) for rows in grid.rows][1] == ("snip", ("90.00",))


def test_equal_differences_are_not_tested() -> None:
    """0.9 - 0.8 and 0.8 - 0.7 differ by rounding only, which must not become a huge t."""
    tests = section_tests(only([*runs("random", (0.8, 0.7, 0.6)), *runs("snip", (0.9, 0.8, 0.7))]))
    assert (tests[0].p, tests[0].note) == (None, "all differences are equal: no test")
    same = section_tests(only([*runs("random", (0.8, 0.7)), *runs("snip", (0.8, 0.7))]))
    assert (same[0].difference, same[0].p) == (0.0, None)


def test_regression_compares_losses() -> None:
    records = [regression(method, 0.1, seed, epochs=2) for method in ("random", "snip") for seed in (0, 1, 2)]
    section = only(records)
    (test,) = section_tests(section)
    losses = [[run.curve[-1].test_loss for run in section.finished(label=label)] for label in ("snip", "random")]
    assert test.difference == pytest.approx(statistics.fmean(losses[0]) - statistics.fmean(losses[1]))
    words = " ".join(explanation(section, [test]))
    assert "test loss" in words
    assert "points" not in words


def test_what_was_tested_is_said_plainly() -> None:
    section = only(study(epochs=2))
    words = " ".join(explanation(section, section_tests(section)))
    assert "Student's two-sided paired t-test" in words
    assert "in percentage points" in words
    assert "32 of ablations" not in words
    assert "30 of ablations; " in words
    assert "Every seed counts once: over several densities its value is the mean of its differences." in words
    assert "“Equivalent within ±0.5”: the whole interval lies within ±0.5 points" in words
    assert "With n = 3 seeds the test has little power: |t| must exceed 4.30 for p < 0.05" in words
    assert "is no evidence that there is no difference" in words
    assert explanation(section, []) == []


def test_p_values_as_text() -> None:
    assert [p_text(value) for value in (None, 0.00001, 0.0123, 0.0999, 0.456, 1.0)] == [
        "–",
        "< 0.0001",
        "0.012",
        "0.1",
        "0.46",
        "1.00",
    ]


def test_the_csv_holds_every_comparison() -> None:
    section = only([*runs("random", (0.5, 0.6)), *runs("snip", (0.7, 0.9)), *runs("grasp", (0.6,))])
    rows = list(csv.DictReader(io.StringIO(significance_csv([section]))))
    assert [(row["label"], row["against"]) for row in rows] == [("snip", "random"), ("grasp", "random")]
    tests = section_tests(section)
    assert float(rows[0]["p"]) == tests[0].p
    assert float(rows[0]["ci95_low"]) == tests[0].low
    assert (rows[0]["n"], rows[0]["seeds"], rows[0]["measure"], rows[0]["family"]) == ("2", "0 1", "top1", "methods")
    assert (rows[0]["densities"], rows[0]["margin"], rows[0]["outcome"]) == ("0.1", "0.005", "undecided")
    assert (rows[1]["p"], rows[1]["outcome"], rows[1]["note"]) == ("", "", "n = 1: no test")


def test_markdown_by_hand() -> None:
    section = only([*runs("random", (0.5, 0.6)), *runs("snip", (0.7, 0.9)), *runs("a|b", (0.6,))])
    text = markdown_tests(section.records)
    assert text.startswith("### digits · mlp: differences\n\nA difference is the mean over seeds")
    (test, _) = section_tests(section)
    assert test.t == pytest.approx(5.0)
    # one degree of freedom: p = 1 - 2 / pi * atan(t)
    p = f"{1 - 2 / math.pi * math.atan(5):.2f}"
    line = next(line for line in text.splitlines() if line.startswith("| snip"))
    assert line.startswith("| snip | random | 0.1 | 2 | +25.00 \\[")
    assert line.endswith(f"| 5.00 | {p} | {p} | undecided |")
    assert "| a\\|b | random | 0.1 | 1 | +10.00 | n = 1: no test | – | – | – |" in text
    assert markdown_tests(runs("snip", (0.5,))) == ""


def test_the_page_shows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foreprune.report.page.plotly_source", lambda: "/* plotly.js */")
    records = study(epochs=2)
    html = page(records)
    assert "vs. random" in html
    assert "vs. magnitude" in html
    assert "Ablations against their originals" in html
    section = only(records)
    for test in section_tests(section):
        assert change_text(section, test) in html
        assert outcome_text(section, test) in html
    assert "Methods over several densities" in html
    assert "vs. random" not in page(runs("snip", (0.5, 0.6)))


def test_without_scipy_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ImportError, match=r"need SciPy: pip install 'foreprune\[report\]'"):
        section_tests(only(runs("snip", (0.5,))))
