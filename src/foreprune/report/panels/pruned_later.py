"""The panel of pruning later: results against the optimizer step at which the network was pruned."""

from __future__ import annotations

from foreprune.report.charts import Axis, Chart, Panel, View
from foreprune.report.colors import DENSE, prunes_later
from foreprune.report.lines import dense_level, dense_words, leading, level, result_line
from foreprune.report.measures import density_label
from foreprune.report.panels import panel
from foreprune.report.sections import Row, Section


@panel("pruned-later")
def pruned_later(section: Section) -> Panel | None:
    """Results against the step of pruning, for sections in which a method was pruned at several (Frankle et al. 2021,
    figures 6 and 10); methods that look at the trained network are horizontal references."""
    rows = [*section.rows(), *section.rows(ablated=True)]
    views = []
    for ablation in dict.fromkeys(condition.ablation for condition in section.conditions()):
        mine = [row for row in rows if section.variants[row.label].ablation == ablation and row.seeds]
        for density in section.densities():
            chart = _chart(section, [row for row in mine if row.density == density], ablation)
            if chart is not None:
                label = density_label(density) + (f", {ablation}" if ablation else "")
                views.append(View(label, (chart,), secondary=bool(ablation)))
    charts = [chart for view in views for chart in view.charts]
    lines = [line for chart in charts if isinstance(chart, Chart) for line in chart.series]
    across = any(line.reference and line.label != DENSE for line in lines)
    return Panel(
        name="pruned-later",
        title="Pruning later in training",
        description=(
            f"{section.measure.short.capitalize()} against the optimizer step at which the network was pruned, on a "
            "logarithmic axis that begins with pruning at initialization; every network then trained for the whole "
            f"schedule. Means over seeds with a band of one standard deviation. {dense_words(charts)}"
            + ("Long dashes across the chart are methods that look at the trained network." if across else "")
        ),
        views=leading(views),
    )


def _chart(section: Section, rows: list[Row], ablation: str) -> Chart | None:
    """The chart of one density and ablation; `None` where no method was pruned at several steps."""
    timed: dict[str, dict[int, Row]] = {}
    later: list[Row] = []
    for row in rows:
        if row.method == DENSE or row.value(section.measure) is None:
            continue
        if prunes_later(row.method) and not section.condition(row.label).step:
            later.append(row)
        else:
            timed.setdefault(section.name(row.label), {})[section.variants[row.label].step] = row
    if not any(len(found) > 1 for found in timed.values()):
        return None
    steps = sorted({step for found in timed.values() for step in found})
    first = next(step for step in steps if step)
    # on a logarithmic axis; pruning at initialization stands a factor of three before the first step
    places = {step: float(step) if step else first / 3 for step in steps}
    limits = (places[steps[0]] / 1.4, places[steps[-1]] * 1.4)
    ends = [limits[0], *places.values(), limits[1]]
    lines = [*dense_level(section, ends), *(level(section, row, ends) for row in later)]
    for name, found in timed.items():
        points = [
            (places[step], f"{density_label(row.density)}, {f'step {step:,}' if step else 'at init'}", row)
            for step, row in sorted(found.items())
        ]
        label = f"{name}, {ablation}" if ablation else name
        lines.append(result_line(section, points, name=name, style=section.styles[name], label=label))
    ticks = tuple((place, f"{step:,}" if step else "init") for step, place in places.items())
    axis = Axis(label="optimizer step of pruning", scale="log", ticks=ticks, limits=limits)
    return Chart(x=axis, y=Axis(label=section.measure.axis), series=tuple(lines))
