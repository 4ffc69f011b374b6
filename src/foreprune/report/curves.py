"""The panel of training curves, which waits on the page until it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from foreprune.records import Epoch, Record
from foreprune.report.charts import Axis, Chart, Panel, Series, View, leading, panel
from foreprune.report.colors import DENSE
from foreprune.report.measures import Spread, band, spread
from foreprune.report.panels import dense_words
from foreprune.report.sections import Condition, Section


@panel("curves")
def curves(section: Section) -> Panel | None:
    """Test result and training loss of every epoch, per method and density, with the dense network for reference."""
    views = []
    for condition in section.conditions():
        for density in section.densities():
            charts = [
                _curve_chart(section, density, condition, "test accuracy (%)", lambda epoch: epoch.test_top1, 100.0)
                if section.measure.unit
                else _curve_chart(section, density, condition, "test loss", lambda epoch: epoch.test_loss, 1.0),
                _curve_chart(section, density, condition, "training loss", lambda epoch: epoch.train_loss, 1.0),
            ]
            drawn = tuple(chart for chart in charts if any(not line.reference for line in chart.series))
            if drawn:
                views.append(View(condition.words(density), drawn, secondary=not condition.plain))
    if not views:
        return None
    return Panel(
        name="curves",
        title="Training curves",
        description=(
            f"Test {'accuracy' if section.measure.unit else 'loss'} and training loss after every epoch for each "
            "method: mean over seeds, with a band of one standard deviation. "
            f"{dense_words([line for chart in views[0].charts if isinstance(chart, Chart) for line in chart.series])}"
        ).strip(),
        views=leading(views),
        shown=False,
    )


def _curve_chart(
    section: Section,
    density: float,
    condition: Condition,
    name: str,
    value: Callable[[Epoch], float | None],
    factor: float,
) -> Chart:
    drawn = [(line.name, section.finished(label=line.label, density=density)) for line in section.lines(condition)]
    drawn = [(label, runs) for label, runs in drawn if label != DENSE]
    lines = []
    for label, runs in [(DENSE, section.finished(label=DENSE)), *drawn]:
        points = _epoch_spreads(runs, value)
        if points:
            lines.append(
                Series(
                    label=label,
                    style=section.styles[label],
                    x=tuple(float(epoch) for epoch, _ in points),
                    y=tuple(factor * found.mean for _, found in points),
                    band=tuple(band(found, factor=factor) for _, found in points),
                    notes=tuple(
                        f"{label}, epoch {epoch}: {name} {factor * found.mean:.4g}"
                        + ("" if found.std is None else f" ± {factor * found.std:.2g}")
                        + f", n = {found.n}"
                        for epoch, found in points
                    ),
                    reference=label == DENSE,
                )
            )
    return Chart(x=Axis(label="epoch"), y=Axis(label=name), series=tuple(lines))


def _epoch_spreads(runs: Sequence[Record], value: Callable[[Epoch], float | None]) -> list[tuple[int, Spread]]:
    measured: dict[int, list[float | None]] = {}
    for run in runs:
        for epoch in run.curve:
            measured.setdefault(epoch.epoch, []).append(value(epoch))
    found = ((epoch, spread(values)) for epoch, values in sorted(measured.items()))
    return [(epoch, there) for epoch, there in found if there is not None]
