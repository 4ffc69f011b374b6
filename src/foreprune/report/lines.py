"""What panels are made of: lines of means over seeds, axes, and a view for each density and condition."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace

from foreprune.ablations import Changed
from foreprune.analysis.statistics import Spread
from foreprune.report.charts import Axis, Chart, Heatmap, Series, View
from foreprune.report.colors import DENSE, Style
from foreprune.report.labels import ablation_called
from foreprune.report.measures import Measure, density_label, density_texts
from foreprune.report.sections import Condition, Row, Section

Point = tuple[float, Spread, str]  # place on the x axis, value, text on hover


def mean_line(
    label: str,
    style: Style,
    points: Iterable[Point],
    *,
    factor: float = 1.0,
    within: tuple[float, float] = (-math.inf, math.inf),
    reference: bool = False,
) -> Series:
    """Means over seeds, times `factor`, with a band of one standard deviation; both are cut to what lies `within`."""
    known = list(points)

    def cut(value: float) -> float:
        return min(max(factor * value, within[0]), within[1])

    return Series(
        label=label,
        style=style,
        x=tuple(float(x) for x, _, _ in known),
        y=tuple(cut(value.mean) for _, value, _ in known),
        band=tuple(
            None if value.std is None else (cut(value.mean - value.std), cut(value.mean + value.std))
            for _, value, _ in known
        ),
        notes=tuple(note for _, _, note in known),
        reference=reference,
    )


def result_line(
    section: Section, rows: Iterable[tuple[float, str, Row]], *, name: str, style: Style, label: str = ""
) -> Series:
    """The results of `rows`, each `(place on the x axis, its words, row)`, called `name`, or `label` on hover."""
    points = [
        (x, value, _result_note(section.measure, label or name, words, value, row.seeds))
        for x, words, row in rows
        if (value := row.value(section.measure)) is not None
    ]
    return mean_line(name, style, points, factor=section.measure.factor)


def level(section: Section, row: Row, places: Sequence[float]) -> Series:
    """One result as a line across the chart."""
    name, value = section.name(row.label), row.value(section.measure)
    points = []
    if value is not None:
        note = _result_note(section.measure, row.label, density_label(row.density), value, row.seeds)
        points = [(place, value, note) for place in places]
    return mean_line(name, section.styles[name], points, factor=section.measure.factor, reference=True)


def dense_level(section: Section, places: Sequence[float]) -> list[Series]:
    """The dense network's result as a line across the chart; none if it was not run."""
    lines = [level(section, row, places) for row in section.rows() if row.method == DENSE]
    return [line for line in lines if line.x]


def _result_note(measure: Measure, label: str, where: str, value: Spread, seeds: Iterable[int]) -> str:
    unit = f" {measure.unit}" if measure.unit else ""
    return f"{label}, {where}: {measure.text(value)}{unit}, n = {value.n}, {seeds_words(seeds)}"


def seeds_words(seeds: Iterable[int]) -> str:
    """`seed 0` or `seeds 0, 1, 2`."""
    listed = [str(seed) for seed in seeds]
    return f"seed{'s' if len(listed) > 1 else ''} {', '.join(listed)}"


def dense_words(charts: Iterable[Chart | Heatmap]) -> str:
    """The sentence that explains the dashed line, if there is one."""
    lines = [line for chart in charts if isinstance(chart, Chart) for line in chart.series]
    return "The dashed line is the dense network. " if any(line.reference for line in lines) else ""


def density_limits(densities: Sequence[float]) -> tuple[float, float]:
    """The ends of an axis of densities."""
    return min(densities) / 1.25, max(densities) * 1.25


def density_axis(densities: Sequence[float]) -> Axis:
    """The logarithmic axis of densities (ascending), with the sparsity under each.

    Labels that would run into the next, counted from the densest, are left out.
    """
    width = math.log(densities[-1] / densities[0]) or 1.0
    chosen = [densities[-1]]
    for density in reversed(densities[:-1]):
        if math.log(chosen[-1] / density) / width >= 0.09:
            chosen.append(density)
    return Axis(
        label="density, with sparsity below it",
        scale="log",
        ticks=tuple((density, "\n".join(density_texts(density))) for density in chosen),
        limits=density_limits(densities),
    )


def density_views(
    section: Section,
    draw: Callable[[float, Condition], Iterable[Chart | None]],
    *,
    changed: Container[Changed] = ("masks", "weights", "method"),
) -> tuple[View, ...]:
    """A view for each condition and density of which there are charts.

    Of ablations only those count that have `changed` one of these: the others would look like the original.
    """
    found = []
    for condition in section.conditions():
        ablation = ablation_called(condition.ablation)
        if ablation is not None and ablation.changes not in changed:
            continue
        for density in section.densities():
            charts = tuple(chart for chart in draw(density, condition) if chart is not None)
            if charts:
                found.append(View(condition.words(density), charts, secondary=not condition.plain))
    return leading(found)


def leading(views: Iterable[View]) -> tuple[View, ...]:
    """The views as they are, or all of them as main views if they are all secondary."""
    found = tuple(views)
    return tuple(replace(view, secondary=False) for view in found) if all(view.secondary for view in found) else found
