"""The panel of neuron collapse: how many units lost most or all of their incoming weights."""

from __future__ import annotations

from foreprune.analysis.statistics import BINS, sparse_units, spread
from foreprune.records import Record
from foreprune.report.charts import Axis, Chart, Panel
from foreprune.report.lines import density_views, mean_line
from foreprune.report.measures import percent
from foreprune.report.panels import panel
from foreprune.report.sections import Condition, Section


def sparse_shares(record: Record) -> tuple[float, ...] | None:
    """Share of units with a sparsity of at least 0, 5, ..., 100 %, over all prunable layers.

    `None` for records that do not hold the counts, or hold other bins.
    """
    layers = [layer for layer in record.layers if layer.units]
    if not layers or any(len(layer.unit_densities) != BINS for layer in layers):
        return None
    return sparse_units(layer.unit_densities for layer in layers)


@panel("neuron-collapse")
def neuron_collapse(section: Section) -> Panel:
    """Percent of units with sparsity of at least s (Frankle et al. 2021, figure 5), per method and density."""
    return Panel(
        name="neuron-collapse",
        title="Neuron collapse",
        description=(
            "Percent of units (neurons or channels, over all prunable layers) whose incoming weights are at least so "
            "sparse, for each method. The rightmost point is the share of units that lost every incoming weight. Means "
            "over seeds with a band of one standard deviation."
        ),
        views=density_views(section, lambda *view: [_chart(section, *view)], changed=("masks", "method")),
    )


def _chart(section: Section, density: float, condition: Condition) -> Chart | None:
    series = []
    for name, runs in section.pruned(density, condition).items():
        found = [shares for run in runs if (shares := sparse_shares(run)) is not None]
        values = [value for column in zip(*found, strict=True) if (value := spread(column)) is not None]
        points = [
            (at, value, f"{name}: {percent(value)} % of units have a sparsity of {at} % or more, n = {value.n}")
            for at, value in zip(range(0, 101, 5), values, strict=False)
        ]
        if points:
            series.append(mean_line(name, section.styles[name], points, factor=100, within=(0.0, 100.0)))
    if not series:
        return None
    return Chart(
        x=Axis(label="sparsity of a unit, at least (%)", limits=(-3.0, 103.0)),
        y=Axis(label="units (%)", limits=(-4.0, 104.0)),
        series=tuple(series),
    )
