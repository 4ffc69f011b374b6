"""Paired tests over seeds: every method against random and magnitude pruning, every ablation against its original.

A difference pairs two runs of the same seed, which share initial weights, order of the data and scoring images. The
test is Student's two-sided paired t-test; Holm's method (1979) corrects its p values within each family of a section.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from foreprune.records import Record
from foreprune.report.colors import DENSE
from foreprune.report.extras import require
from foreprune.report.measures import density_texts
from foreprune.report.sections import Section, sections
from foreprune.report.tables import markdown

Family = Literal["methods", "ablations", "ablations, all densities", "ablations, mean over densities"]
FAMILIES: tuple[Family, ...] = get_args(Family)
REFERENCES = ("random", "magnitude")
CONFIDENCE = 0.95
_SAME = 1e-12  # relative spread of differences below which they differ by rounding only


@dataclass(frozen=True)
class Comparison:
    """One comparison of two labels.

    `difference` is the mean over `n` pairs of `label` minus `against`, in the record's units (fractions for accuracy);
    `low` and `high` are its 95 % confidence interval, `t` and `p` the statistic and two-sided p value of the paired
    t-test, `holm` the p value corrected within the family. All five are `None` where `note` says why there is no test.
    `density` is `None` for comparisons over several densities.
    """

    family: Family
    label: str
    against: str
    density: float | None
    seeds: tuple[int, ...]
    n: int
    difference: float | None
    low: float | None = None
    high: float | None = None
    t: float | None = None
    p: float | None = None
    holm: float | None = None
    note: str = ""

    @property
    def where(self) -> str:
        """The density in a word or two."""
        if self.density is not None:
            return density_texts(self.density)[0]
        return "all densities" if self.family == "ablations, all densities" else "mean over densities"


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


def _tested(
    family: Family,
    label: str,
    against: str,
    density: float | None,
    pairs: Sequence[tuple[float, float]],
    seeds: Iterable[int],
) -> Comparison:
    """The comparison of paired results, without the correction."""
    differences = [one - other for one, other in pairs]
    mean = statistics.fmean(differences) if differences else None
    found = Comparison(family, label, against, density, tuple(seeds), len(pairs), mean)
    if len(pairs) < 2:
        return replace(found, note=f"n = {len(pairs)}: no test")
    largest = max(abs(value) for pair in pairs for value in pair)
    if max(differences) - min(differences) <= _SAME * largest:
        return replace(found, note="all differences are equal: no test")
    from scipy.stats import ttest_rel

    first, second = zip(*pairs, strict=True)
    result = ttest_rel(first, second)
    low, high = map(float, result.confidence_interval(CONFIDENCE))
    return replace(found, t=float(result.statistic), p=float(result.pvalue), low=low, high=high)


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
        densities = sorted({r.experiment.density for r in section.finished(label=label)}, reverse=True)
        for name in REFERENCES:
            against = _reference_label(section, name, step=section.variants[label].step)
            if against is None or against == label or (method, name) == ("random", "magnitude"):
                continue  # magnitude against random is listed once
            for density in densities:
                if section.finished(label=against, density=density):
                    pairs = section.pairs(label, against, density)
                    found.append(_tested("methods", label, against, density, list(pairs.values()), pairs))
    return found


def _ablation_tests(section: Section) -> list[Comparison]:
    found = []
    for label, _ in section.methods(ablated=True):
        base = section.variants[label].base
        pairs = {density: mine for density in section.densities() if (mine := section.pairs(label, base, density))}
        for density, mine in pairs.items():
            found.append(_tested("ablations", label, base, density, list(mine.values()), mine))
        if len(pairs) < 2:
            continue
        every = [pair for mine in pairs.values() for pair in mine.values()]
        seeds = sorted({seed for mine in pairs.values() for seed in mine})
        found.append(_tested("ablations, all densities", label, base, None, every, seeds))
        whole = [seed for seed in seeds if all(seed in mine for mine in pairs.values())]
        means = [_mean_pair([mine[seed] for mine in pairs.values()]) for seed in whole]
        found.append(_tested("ablations, mean over densities", label, base, None, means, whole))
    return found


def _mean_pair(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    first, second = zip(*pairs, strict=True)
    return statistics.fmean(first), statistics.fmean(second)


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
        f"is compared with{unit}; its 95 % confidence interval stands in brackets.",
        "p is that of Student's two-sided paired t-test; p (Holm) is corrected for the number of tests in this section "
        f"({counted})."
        if counted
        else "No comparison has the two pairs that a test needs.",
    ]
    sizes = sorted({test.n for test in tests if test.p is not None and test.density is not None})
    if sizes and sizes[0] <= 5:
        found.append(
            f"With n = {sizes[0]} pairs the test has little power: |t| must exceed {critical(sizes[0]):.2f} for "
            "p < 0.05 before any correction. A difference that is not significant is no evidence that there is none; "
            "look at the interval."
        )
    if any(test.family == "ablations, all densities" for test in tests):
        found.append(
            "“All densities” takes every pair of seed and density as one of n, as if the densities of one seed were "
            "independent; “mean over densities” takes one mean per seed and is the cautious reading."
        )
    return found


def critical(n: int) -> float:
    """The |t| above which a two-sided test of `n` pairs gives p < 0.05."""
    from scipy.stats import t

    return float(t.ppf(0.5 + CONFIDENCE / 2, n - 1))


_COLUMNS = """section data model measure family label against density n seeds
difference ci95_low ci95_high t p p_holm note"""


def significance_csv(drawn: Iterable[Section]) -> str:
    """Every comparison as CSV, one row each; differences in the records' units (fractions for accuracy)."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS.split())
    for section in drawn:
        about = (section.title, section.data, section.model, section.measure.key)
        for test in section_tests(section):
            whom = (test.family, test.label, test.against, test.density, test.n, " ".join(map(str, test.seeds)))
            numbers = (test.difference, test.low, test.high, test.t, test.p, test.holm)
            writer.writerow([*about, *whom, *numbers, test.note])  # None is written as nothing
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
        lines += ["| method | against | density | n | difference [95 % CI] | t | p | p (Holm) |"]
        lines += ["|---|---|---:|---:|---:|---:|---:|---:|"]
        for test in tests:
            cells = [test.label, test.against, test.where, str(test.n), change_text(section, test)]
            cells += [test.note, "–", "–"] if test.t is None else [f"{test.t:.2f}", p_text(test.p), p_text(test.holm)]
            lines.append(f"| {' | '.join(map(markdown, cells))} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n" if parts else ""
