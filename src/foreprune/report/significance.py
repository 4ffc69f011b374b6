"""Paired tests over seeds: every method against random and magnitude pruning, every ablation against its original.

A difference pairs two runs of the same seed, which share initial weights, order of the data and scoring images. The
test is Student's two-sided paired t-test; Holm's method (1979) corrects its p values within each family of a section.
Every seed counts once: over several densities, its value is the mean of its differences.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from foreprune.analysis.statistics import CONFIDENCE, mean_interval
from foreprune.records import Record
from foreprune.report.colors import DENSE
from foreprune.report.extras import require
from foreprune.report.measures import density_texts
from foreprune.report.sections import Section, sections
from foreprune.report.tables import markdown

Family = Literal["methods", "methods, mean over densities", "ablations", "ablations, mean over densities"]
FAMILIES: tuple[Family, ...] = get_args(Family)
Outcome = Literal["differs", "equivalent", "undecided"]
REFERENCES = ("random", "magnitude")
_SAME = 1e-12  # relative spread of differences below which they differ by rounding only


@dataclass(frozen=True)
class Comparison:
    """One comparison of two labels, one value per seed.

    `difference` is the mean over `n` seeds of `label` minus `against`, in the record's units (fractions for accuracy);
    `low` and `high` are its 95 % confidence interval, `t` and `p` the statistic and two-sided p value of the paired
    t-test, `holm` the p value corrected within the family. All five are `None` where `note` says why there is no test.
    `densities` are those compared; over several, the value of a seed is the mean of its differences.
    `margin` is the smallest difference that matters (see `Measure`), `None` where there is none.
    """

    family: Family
    label: str
    against: str
    densities: tuple[float, ...]
    seeds: tuple[int, ...]
    n: int
    difference: float | None
    low: float | None = None
    high: float | None = None
    t: float | None = None
    p: float | None = None
    holm: float | None = None
    note: str = ""
    margin: float | None = None

    @property
    def density(self) -> float | None:
        """The density, `None` for a mean over several."""
        return self.densities[0] if len(self.densities) == 1 else None

    @property
    def where(self) -> str:
        """The density in a word or two."""
        return f"mean of {len(self.densities)}" if self.density is None else density_texts(self.density)[0]

    @property
    def outcome(self) -> Outcome | None:
        """What the test says, `None` where there is none.

        "equivalent" if the 95 % interval lies within plus and minus the margin (two one-sided tests at 2.5 % each),
        even if it leaves out zero; otherwise "differs" if the corrected p is below 0.05; otherwise "undecided".
        """
        if self.low is None or self.high is None:
            return None
        if self.margin is not None and max(-self.low, self.high) < self.margin:
            return "equivalent"
        return "differs" if self.holm is not None and self.holm < 1 - CONFIDENCE else "undecided"


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected by Holm's step-down method, in the order given (Holm 1979, Scand. J. Statist. 6).

    The k-th smallest of m is multiplied by m - k + 1, raised to the largest before it, and cut at 1.
    """
    order = sorted(range(len(values)), key=lambda at: values[at])
    corrected = [1.0] * len(values)
    highest = 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[at]))
        corrected[at] = highest
    return corrected


def compare(
    section: Section, label: str, against: str, densities: Sequence[float], *, family: Family = "methods"
) -> Comparison:
    """Compare two labels over the seeds that finished both at every one of `densities`; p is not corrected.

    Raises:
        ValueError: no density is given.
    """
    if not densities:
        raise ValueError("compare needs one density or more, such as section.densities(), not none")
    pairs = [section.pairs(label, against, density) for density in densities]
    seeds = tuple(sorted(set.intersection(*(set(mine) for mine in pairs))))
    first, second = ([statistics.fmean(mine[seed][at] for mine in pairs) for seed in seeds] for at in (0, 1))
    differences = [one - other for one, other in zip(first, second, strict=True)]
    mean = statistics.fmean(differences) if seeds else None
    margin = section.measure.margin
    found = Comparison(family, label, against, tuple(densities), seeds, len(seeds), mean, margin=margin)
    if len(seeds) < 2:
        return replace(found, note=f"n = {len(seeds)}: no test")
    if max(differences) - min(differences) <= _SAME * max(map(abs, (*first, *second))):
        return replace(found, note="all differences are equal: no test")
    interval = mean_interval(differences)
    return replace(found, t=interval.t, p=interval.p, low=interval.low, high=interval.high)


def section_tests(section: Section) -> tuple[Comparison, ...]:
    """Every comparison of one section, p values corrected within each family; none if nothing was trained.

    Raises:
        ImportError: SciPy is not installed.
    """
    require("scipy")
    if all(section.measure.of(record) is None for record in section.records):
        return ()
    found = [*_method_tests(section), *_ablation_tests(section)]
    corrected: dict[int, float] = {}
    for family in FAMILIES:
        tested = {at: test.p for at, test in enumerate(found) if test.family == family and test.p is not None}
        corrected |= dict(zip(tested, holm(list(tested.values())), strict=True))
    return tuple(replace(test, holm=corrected.get(at)) for at, test in enumerate(found))


def _reference_label(section: Section, method: str, *, step: int) -> str | None:
    """The label of `method`'s original runs pruned at `step`, or else before training; `None` if there is neither.

    Of several settings of the method the first by name counts.
    """
    labels = [label for label, found in section.methods() if found == method]
    wanted = (label for at in (step, 0) for label in labels if section.variants[label].step == at)
    return next(wanted, None)


def _method_tests(section: Section) -> list[Comparison]:
    found = []
    for label, method in section.methods():
        if method == DENSE:
            continue
        for name in REFERENCES:
            against = _reference_label(section, name, step=section.variants[label].step)
            if against is None or against == label or (method, name) == ("random", "magnitude"):
                continue  # magnitude against random is listed once
            densities = [
                density
                for density in section.densities()
                if section.finished(label=label, density=density) and section.finished(label=against, density=density)
            ]
            found += _each_and_mean(section, label, against, densities, "methods", "methods, mean over densities")
    return found


def _ablation_tests(section: Section) -> list[Comparison]:
    found = []
    for label, _ in section.methods(ablated=True):
        base = section.variants[label].base
        densities = [density for density in section.densities() if section.pairs(label, base, density)]
        found += _each_and_mean(section, label, base, densities, "ablations", "ablations, mean over densities")
    return found


def _each_and_mean(
    section: Section, label: str, against: str, densities: Sequence[float], each: Family, mean: Family
) -> list[Comparison]:
    """One comparison per density, and one over all that have pairs, if there are several."""
    found = [compare(section, label, against, [density], family=each) for density in densities]
    paired = [density for test in found if test.n for density in test.densities]
    return [*found, compare(section, label, against, paired, family=mean)] if len(paired) > 1 else found


def p_text(value: float | None) -> str:
    """A p value to two digits, `< 0.0001` below that, a dash for none."""
    if value is None:
        return "–"
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def change_text(section: Section, test: Comparison) -> str:
    """`+1.23 [0.40, 2.06]`: the difference and its confidence interval as shown; the note where there is no test."""
    if test.difference is None:
        return "–"
    change = section.measure.change
    if test.low is None or test.high is None:
        return change(test.difference)
    return f"{change(test.difference)} [{change(test.low)}, {change(test.high)}]"


def outcome_text(section: Section, test: Comparison) -> str:
    """`differs`, `equivalent within ±0.5` or `undecided`; a dash where there is no test."""
    if test.outcome == "equivalent" and test.margin is not None:
        return f"equivalent within ±{section.measure.factor * test.margin:g}"
    return test.outcome or "–"


def explanation(section: Section, tests: Sequence[Comparison]) -> list[str]:
    """What was tested and how far to trust it, in sentences; nothing for a section without comparisons."""
    if not tests:
        return []
    measure = section.measure
    unit = f", in {'percentage ' if measure.unit else ''}{measure.difference_unit}" if measure.difference_unit else ""
    families = [(family, sum(test.p is not None for test in tests if test.family == family)) for family in FAMILIES]
    counted = "; ".join(f"{count} of {family}" for family, count in families if count)
    found = [
        f"A difference is the mean over seeds of a run's {measure.name} minus that of the run of the same seed that it "
        f"is compared with{unit}; its 95 % confidence interval stands in brackets. Every seed counts once: over "
        "several densities its value is the mean of its differences.",
        "p is that of Student's two-sided paired t-test; p (Holm) is corrected for the number of tests in this section "
        f"({counted})."
        if counted
        else "No comparison has the two pairs that a test needs.",
    ]
    if counted:
        found.append(_outcomes_explained(section))
    sizes = sorted({test.n for test in tests if test.p is not None})
    if sizes and sizes[0] <= 5:
        found.append(
            f"With n = {sizes[0]} seeds the test has little power: |t| must exceed {critical(sizes[0]):.2f} for "
            "p < 0.05 before any correction."
        )
    return found


def _outcomes_explained(section: Section) -> str:
    """What the outcomes of tests mean."""
    measure = section.measure
    differs = "“differs”: p (Holm) is below 0.05"
    undecided = "“undecided”: neither, which is no evidence that there is no difference"
    if measure.margin is None:
        return f"{differs}; {undecided}."
    margin = f"{measure.factor * measure.margin:g}"
    return (
        f"“Equivalent within ±{margin}”: the whole interval lies within ±{margin} {measure.difference_unit} (two "
        f"one-sided tests at 2.5 %), even if it leaves out zero; otherwise {differs}; {undecided}."
    )


def critical(n: int) -> float:
    """The |t| above which a two-sided test of `n` pairs gives p < 0.05."""
    from scipy.stats import t

    return float(t.ppf(0.5 + CONFIDENCE / 2, n - 1))


_COLUMNS = """section data model measure family label against density densities n seeds
difference ci95_low ci95_high t p p_holm margin outcome note"""


def significance_csv(drawn: Iterable[Section]) -> str:
    """Every comparison as CSV, one row each; differences in the records' units (fractions for accuracy)."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS.split())
    for section in drawn:
        about = (section.title, section.data, section.model, section.measure.key)
        for test in section_tests(section):
            densities, seeds = (" ".join(map(str, values)) for values in (test.densities, test.seeds))
            whom = (test.family, test.label, test.against, test.density, densities, test.n, seeds)
            numbers = (test.difference, test.low, test.high, test.t, test.p, test.holm)
            # None is written as nothing
            writer.writerow([*about, *whom, *numbers, test.margin, test.outcome, test.note])
    return stream.getvalue()


def markdown_tests(records: Iterable[Record]) -> str:
    """The comparisons in GitHub's Markdown, one table per section that has any; text from records is escaped."""
    parts = []
    for section in sections(records):
        tests = section_tests(section)
        if not tests:
            continue
        lines = [f"### {markdown(section.title)}: differences", ""]
        lines += [f"{markdown(' '.join(explanation(section, tests)))}", ""]
        lines += ["| method | against | density | n | difference [95 % CI] | t | p | p (Holm) | outcome |"]
        lines += ["|---|---|---:|---:|---:|---:|---:|---:|---|"]
        for test in tests:
            cells = [test.label, test.against, test.where, str(test.n), change_text(section, test)]
            cells += [test.note, "–", "–"] if test.t is None else [f"{test.t:.2f}", p_text(test.p), p_text(test.holm)]
            cells.append(outcome_text(section, test))
            lines.append(f"| {' | '.join(map(markdown, cells))} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n" if parts else ""
