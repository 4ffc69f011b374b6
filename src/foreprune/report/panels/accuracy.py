"""The main panel: accuracy (or test loss) against density."""

from __future__ import annotations

from foreprune.report.charts import Axis, Chart, Panel, View
from foreprune.report.colors import DENSE
from foreprune.report.lines import dense_level, dense_words, density_axis, density_limits, result_line
from foreprune.report.measures import density_label
from foreprune.report.panels import panel
from foreprune.report.sections import Section


@panel("accuracy")
def accuracy(section: Section) -> Panel | None:
    """The last epoch's top-1 test accuracy (test loss without classes) against density, mean and one std over seeds.

    Ablated runs, and those of methods pruned at several steps, have panels of their own.
    """
    measure = section.measure
    rows = [row for row in section.rows() if row.method != DENSE and row.value(measure) is not None]
    densities = sorted({row.density for row in rows})
    lines = []
    for name, label in section.lines().items():
        mine = [(row.density, density_label(row.density), row) for row in rows if row.label == label]
        if mine:
            lines.append(result_line(section, mine, name=name, style=section.styles[name], label=label))
    if not lines:
        return None
    low, high = density_limits(densities)
    drawn = (*dense_level(section, [low, *densities, high]), *lines)
    chart = Chart(x=density_axis(densities), y=Axis(label=measure.axis), series=drawn)
    return Panel(
        name="accuracy" if measure.unit else "test-loss",
        title="Accuracy against density" if measure.unit else "Test loss against density",
        description=(
            f"{measure.short.capitalize()} after the last epoch for each method ({measure.sentence}), against the "
            "fraction of weights kept on a logarithmic axis. Lines are means over seeds, bands are one standard "
            f"deviation. {dense_words([chart])}The table below holds the same numbers."
        ),
        views=(View(label="", charts=(chart,)),),
    )
