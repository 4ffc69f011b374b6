"""The panel of pruning later: results against the optimizer step at which the network was pruned."""

from __future__ import annotations

from foreprune.report.charts import Axis, Chart, Panel, Series, View, leading, panel
from foreprune.report.colors import DENSE, LATER
from foreprune.report.measures import band, density_label
from foreprune.report.panels import dense_line, dense_words, result_axis, result_line, result_note
from foreprune.report.sections import Section
from foreprune.report.tables import Row, section_rows


def _place(step: int, first: int) -> float:
    """Where a step stands on the logarithmic axis; pruning at initialization a factor of three before the first."""
    return float(step) if step else first / 3


@panel("pruned-later")
def pruned_later(section: Section) -> Panel | None:
    """Results against the step of pruning, for sections in which a method was pruned at several (Frankle et al. 2021,
    figures 6 and 10); methods that look at the trained network are horizontal references."""
    rows = {
        False: section_rows(section),
        True: section_rows(section, ablated=True),
    }
    views = []
    for ablation in dict.fromkeys(condition.ablation for condition in section.conditions()):
        mine = [row for row in rows[bool(ablation)] if section.variants[row.label].ablation == ablation and row.seeds]
        for density in section.densities():
            chart = _chart(section, [row for row in mine if row.density == density], ablation)
            if chart is not None:
                label = density_label(density) + (f", {ablation}" if ablation else "")
                views.append(View(label, (chart,), secondary=bool(ablation)))
    if not views:
        return None
    what = section.measure.name.removeprefix("top-1 ").capitalize()
    lines = [line for view in views for chart in view.charts if isinstance(chart, Chart) for line in chart.series]
    across = any(line.reference and line.label != DENSE for line in lines)
    return Panel(
        name="pruned-later",
        title="Pruning later in training",
        description=(
            f"{what} against the optimizer step at which the network was pruned, on a logarithmic axis that begins "
            "with pruning at initialization; every network then trained for the whole schedule. Means over seeds with "
            f"a band of one standard deviation. {dense_words(lines)}"
            + ("Long dashes across the chart are methods that look at the trained network." if across else "")
        ),
        views=leading(views),
    )


def _chart(section: Section, rows: list[Row], ablation: str) -> Chart | None:
    """The chart of one density and ablation; `None` where no method was pruned at several steps."""
    timed: dict[str, list[tuple[int, Row]]] = {}
    later: list[Row] = []
    for row in rows:
        variant = section.variants[row.label]
        if row.method == DENSE or row.value(section.measure) is None:
            continue
        if row.method in LATER and not section.condition(row.label).step:
            later.append(row)
        else:
            timed.setdefault(section.name(row.label), []).append((variant.step, row))
    if not any(len(found) > 1 for found in timed.values()):
        return None
    steps = sorted({step for found in timed.values() for step, _ in found})
    first = next(step for step in steps if step)
    ticks = tuple((_place(step, first), f"{step:,}" if step else "init") for step in steps)
    limits = (ticks[0][0] / 1.4, ticks[-1][0] * 1.4)
    ends = [limits[0], *(place for place, _ in ticks), limits[1]]
    lines: list[Series] = []
    dense = dense_line(section, ends)
    if dense is not None:
        lines.append(dense)
    lines += [_across(section, row, ends) for row in later]
    for name, found in timed.items():
        points = [
            (_place(step, first), f"{density_label(row.density)}, {f'step {step:,}' if step else 'at init'}", row)
            for step, row in sorted(found, key=lambda pair: pair[0])
        ]
        label = f"{name}, {ablation}" if ablation else name
        lines.append(result_line(section, points, name=name, label=label, style=section.styles[name]))
    axis = Axis(label="optimizer step of pruning", scale="log", ticks=ticks, limits=limits)
    return Chart(x=axis, y=result_axis(section.measure), series=tuple(line for line in lines if line.x))


def _across(section: Section, row: Row, ends: list[float]) -> Series:
    """One result as a line across the chart."""
    measure, name = section.measure, section.name(row.label)
    value = row.value(measure)
    assert value is not None
    return Series(
        label=name,
        style=section.styles[name],
        x=tuple(ends),
        y=(measure.factor * value.mean,) * len(ends),
        band=(band(value, factor=measure.factor),) * len(ends),
        notes=(result_note(row.label, density_label(row.density), measure, value, row.seeds),) * len(ends),
        reference=True,
    )
