"""The panel of training curves, which waits on the page until it is asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable

from foreprune.analysis.statistics import spread
from foreprune.records import Epoch
from foreprune.report.charts import Axis, Chart, Panel
from foreprune.report.colors import DENSE
from foreprune.report.lines import dense_words, density_views, mean_line
from foreprune.report.measures import plus_minus
from foreprune.report.panels import panel
from foreprune.report.sections import Condition, Section

Value = Callable[[Epoch], float | None]


@panel("curves")
def curves(section: Section) -> Panel:
    """Test result and training loss of every epoch, per method and density, with the dense network for reference."""

    def charts(density: float, condition: Condition) -> list[Chart | None]:
        lines_of = functools.partial(_chart, section, density, condition)
        if section.measure.unit:
            test = lines_of("test accuracy (%)", lambda epoch: epoch.test_top1, factor=100)
        else:
            test = lines_of("test loss", lambda epoch: epoch.test_loss)
        return [test, lines_of("training loss", lambda epoch: epoch.train_loss)]

    views = density_views(section, charts)
    return Panel(
        name="curves",
        title="Training curves",
        description=(
            f"Test {'accuracy' if section.measure.unit else 'loss'} and training loss after every epoch for each "
            "method: mean over seeds, with a band of one standard deviation. "
            f"{dense_words(views[0].charts if views else ())}"
        ).strip(),
        views=views,
        shown=False,
    )


def _chart(
    section: Section, density: float, condition: Condition, name: str, value: Value, factor: float = 1.0
) -> Chart | None:
    lines = []
    for label, runs in {DENSE: section.finished(label=DENSE), **section.pruned(density, condition)}.items():
        measured: dict[int, list[float | None]] = {}
        for epoch in (epoch for run in runs for epoch in run.curve):
            measured.setdefault(epoch.epoch, []).append(value(epoch))
        points = []
        for at, values in sorted(measured.items()):
            found = spread(values)
            if found is not None:
                text = plus_minus(found, factor=factor, mean=".4g", std=".2g")
                points.append((at, found, f"{label}, epoch {at}: {name} {text}, n = {found.n}"))
        if points:
            lines.append(mean_line(label, section.styles[label], points, factor=factor, reference=label == DENSE))
    if all(line.reference for line in lines):
        return None
    return Chart(x=Axis(label="epoch"), y=Axis(label=name), series=tuple(lines))
