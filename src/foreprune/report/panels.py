"""The main panel: accuracy (or test loss) against density; and what several panels share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from foreprune.report.charts import Axis, Chart, Panel, Series, View, panel
from foreprune.report.colors import DENSE, Style
from foreprune.report.measures import Measure, Spread, band, density_label, density_texts, spread
from foreprune.report.sections import Section
from foreprune.report.tables import Row, section_rows


def styles(section: Section) -> dict[str, Style]:
    """The style of every label and name of the section: color and marker by method, dash by variant of the method."""
    named = section.styles
    return named | {label: named[section.name(label)] for label in section.variants}


def seeds_words(seeds: Iterable[int]) -> str:
    """`seed 0` or `seeds 0, 1, 2`."""
    listed = [str(seed) for seed in seeds]
    return f"seed{'s' if len(listed) > 1 else ''} {', '.join(listed)}"


def dense_words(series: Sequence[Series]) -> str:
    """The sentence that explains the dashed line, if there is one."""
    return "The dashed line is the dense network. " if any(line.reference for line in series) else ""


def result_note(label: str, where: str, measure: Measure, value: Spread, seeds: Iterable[int]) -> str:
    """The hover text of one result."""
    unit = f" {measure.unit}" if measure.unit else ""
    return f"{label}, {where}: {measure.text(value)}{unit}, n = {value.n}, {seeds_words(seeds)}"


def result_line(
    section: Section,
    rows: Sequence[tuple[float, str, Row]],
    *,
    name: str,
    label: str,
    style: Style,
) -> Series:
    """The results of `rows`, each `(place on the x axis, its words, row)`, as one line with a band."""
    measure = section.measure
    known = [(x, words, row, value) for x, words, row in rows if (value := row.value(measure)) is not None]
    return Series(
        label=name,
        style=style,
        x=tuple(x for x, _, _, _ in known),
        y=tuple(measure.factor * value.mean for _, _, _, value in known),
        band=tuple(band(value, factor=measure.factor) for _, _, _, value in known),
        notes=tuple(result_note(label, words, measure, value, row.seeds) for _, words, row, value in known),
    )


def dense_line(section: Section, places: Sequence[float]) -> Series | None:
    """The dense network's result as a reference over `places`, or `None` if it was not run."""
    measure = section.measure
    runs = section.finished(label=DENSE)
    value = spread(measure.of(record) for record in runs)
    if value is None:
        return None
    note = result_note(DENSE, density_label(1.0), measure, value, (record.experiment.seed for record in runs))
    return Series(
        label=DENSE,
        style=section.styles[DENSE],
        x=tuple(places),
        y=(measure.factor * value.mean,) * len(places),
        band=(band(value, factor=measure.factor),) * len(places),
        notes=(note,) * len(places),
        reference=True,
    )


@panel("accuracy")
def accuracy(section: Section) -> Panel | None:
    """The last epoch's top-1 test accuracy (test loss without classes) against density, mean and one std over seeds.

    Ablated runs, and those of methods pruned at several steps, have panels of their own.
    """
    measure = section.measure
    rows = section_rows(section)
    densities = sorted({row.density for row in rows if row.method != DENSE and row.value(measure) is not None})
    if not densities:
        return None
    low, high = _limits(densities)
    dense = dense_line(section, [low, *densities, high])
    lines = [] if dense is None else [dense]
    for line in section.lines():
        if line.method != DENSE:
            mine = [(row.density, density_label(row.density), row) for row in rows if row.label == line.label]
            look = section.styles[line.name]
            lines.append(result_line(section, mine, name=line.name, label=line.label, style=look))
    drawn = tuple(line for line in lines if line.x)
    if not any(not line.reference for line in drawn):
        return None
    what = measure.name.removeprefix("top-1 ")
    return Panel(
        name="accuracy" if measure.unit else "test-loss",
        title="Accuracy against density" if measure.unit else "Test loss against density",
        description=(
            f"{what.capitalize()} after the last epoch for each method ({measure.sentence}), against the fraction of "
            "weights kept on a logarithmic axis. Lines are means over seeds, bands are one standard deviation. "
            f"{dense_words(drawn)}The table below holds the same numbers."
        ),
        views=(View(label="", charts=(Chart(x=density_axis(densities), y=result_axis(measure), series=drawn),)),),
    )


def result_axis(measure: Measure, *, limits: tuple[float, float] | None = None) -> Axis:
    """The axis of results."""
    return Axis(label=measure.axis, limits=limits)


def _limits(densities: Sequence[float]) -> tuple[float, float]:
    return densities[0] / 1.25, densities[-1] * 1.25


def density_axis(densities: Sequence[float]) -> Axis:
    """The logarithmic axis of densities (ascending), with the sparsity under each."""
    return Axis(
        label="density, with sparsity below it",
        scale="log",
        ticks=tuple((density, "\n".join(density_texts(density))) for density in _thinned_densities(densities)),
        limits=_limits(densities),
    )


def _thinned_densities(densities: Sequence[float]) -> list[float]:
    """Those densities that are far enough apart on a logarithmic axis for their labels to stand side by side."""
    width = math.log(densities[-1] / densities[0]) or 1.0
    chosen = [densities[-1]]
    for density in reversed(densities[:-1]):
        if math.log(chosen[-1] / density) / width >= 0.09:
            chosen.append(density)
    return chosen
