"""The panel of neuron collapse: how many units lost most or all of their incoming weights."""

from __future__ import annotations

import itertools

from foreprune.records import Record
from foreprune.report.charts import Axis, Chart, Panel, Series, View, leading, panel
from foreprune.report.colors import DENSE
from foreprune.report.measures import Spread, band, percent, spread
from foreprune.report.sections import Condition, Section

BINS = 21  # of Layer.unit_densities: none kept, then twenty of width 0.05, open below and closed above


def sparse_units(record: Record) -> tuple[float, ...] | None:
    """Share of units with a sparsity of at least 0, 5, ..., 100 %, over all prunable layers.

    A unit (neuron or channel) is an output of a layer, its sparsity the fraction of its incoming weights that were
    removed. `None` for records that do not hold the counts, or hold other bins.
    """
    layers = [layer for layer in record.layers if layer.units]
    if not layers or any(len(layer.unit_densities) != BINS for layer in layers):
        return None
    counts = [sum(layer.unit_densities[at] for layer in layers) for at in range(BINS)]
    units = sum(counts)
    if not units:
        return None
    # a sparsity of at least 1 - i / 20 is a density of at most i / 20: the first i + 1 bins
    return tuple(count / units for count in itertools.accumulate(counts))[::-1]


@panel("neuron-collapse")
def neuron_collapse(section: Section) -> Panel | None:
    """Percent of units with sparsity of at least s (Frankle et al. 2021, figure 5), per method and density."""
    views = []
    for condition in section.conditions():
        if condition.ablation.startswith("reinitialized"):
            continue  # new weights, the same masks
        for density in section.densities():
            chart = _chart(section, density, condition)
            if chart is not None:
                views.append(View(condition.words(density), (chart,), secondary=not condition.plain))
    if not views:
        return None
    return Panel(
        name="neuron-collapse",
        title="Neuron collapse",
        description=(
            "Percent of units (neurons or channels, over all prunable layers) whose incoming weights are at least so "
            "sparse, for each method. The rightmost point is the share of units that lost every incoming weight. Means "
            "over seeds with a band of one standard deviation."
        ),
        views=leading(views),
    )


def _chart(section: Section, density: float, condition: Condition) -> Chart | None:
    series = []
    for line in section.lines(condition):
        found = [
            shares
            for run in section.finished(label=line.label, density=density)
            if line.method != DENSE and (shares := sparse_units(run)) is not None
        ]
        if not found:
            continue
        values = [value for at in range(BINS) if (value := spread(shares[at] for shares in found)) is not None]
        series.append(
            Series(
                label=line.name,
                style=section.styles[line.name],
                x=tuple(float(5 * at) for at in range(BINS)),
                y=tuple(100 * value.mean for value in values),
                band=tuple(_inside(value) for value in values),
                notes=tuple(
                    f"{line.name}: {percent(value)} % of units have a sparsity of {5 * at} % or more, n = {value.n}"
                    for at, value in enumerate(values)
                ),
            )
        )
    if not series:
        return None
    return Chart(
        x=Axis(label="sparsity of a unit, at least (%)", limits=(-3.0, 103.0)),
        y=Axis(label="units (%)", limits=(-4.0, 104.0)),
        series=tuple(series),
    )


def _inside(value: Spread) -> tuple[float, float] | None:
    found = band(value, factor=100)
    return found and (max(found[0], 0.0), min(found[1], 100.0))
