"""Panels of the layers: density and remaining width of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from foreprune.records import LayerRecord
from foreprune.report.charts import Axis, Chart, Panel, Series, View, leading, panel
from foreprune.report.colors import DENSE
from foreprune.report.labels import printable
from foreprune.report.measures import Spread, band, percent, spread
from foreprune.report.sections import Condition, Section

_MOST_TICKS = 18
_Points = list[tuple[int, Spread, str]]


def _layer_lines(
    section: Section,
    density: float,
    condition: Condition,
    quantity: Callable[[LayerRecord], float | None],
    note: Callable[[LayerRecord], str],
) -> tuple[list[str], list[tuple[str, _Points]]]:
    """Names of the layers, and per line the points `(layer index, spread over seeds, the first seeds' counts)`."""
    runs_of = {
        line.name: section.finished(label=line.label, density=density)
        for line in section.lines(condition)
        if line.method != DENSE
    }
    names = list(dict.fromkeys(layer.name for runs in runs_of.values() for run in runs for layer in run.layers))
    lines = []
    for name, runs in runs_of.items():
        points = []
        for at, layer_name in enumerate(names):
            found = [layer for run in runs for layer in run.layers if layer.name == layer_name]
            value = spread(quantity(layer) for layer in found)
            if value is not None:
                points.append((at, value, " / ".join(note(layer) for layer in found[:3])))
        if points:
            lines.append((name, points))
    return names, lines


def _conditions(section: Section, *kinds: str) -> list[Condition]:
    """The conditions whose layers differ from those of the original: other steps, and ablations of these kinds."""
    return [each for each in section.conditions() if not each.ablation or each.ablation.startswith(kinds)]


def _layer_axis(names: Sequence[str]) -> Axis:
    step = math.ceil(len(names) / _MOST_TICKS)
    ticks = tuple((float(at), short_name(names[at])) for at in range(0, len(names), step))
    return Axis(label="layer, from input to output", ticks=ticks, limits=(-0.5, len(names) - 0.5), slanted=True)


def short_name(name: str) -> str:
    """A parameter's name for an axis: without a final `.weight`, its middle left out beyond 22 characters."""
    name = printable(name).removesuffix(".weight")
    return name if len(name) <= 22 else f"{name[:8]}…{name[-13:]}"


@panel("layer-density")
def layer_density(section: Section) -> Panel | None:
    """Density of every layer, per method, at each density asked for; an emptied layer sits on a line of its own."""
    views = []
    for condition in _conditions(section, "inverted"):
        for density in section.densities():
            chart = _density_chart(section, density, condition)
            if chart is not None:
                views.append(View(condition.words(density), (chart,), secondary=not condition.plain))
    if not views:
        return None
    return Panel(
        name="layer-density",
        title="Density of each layer",
        description=(
            "The fraction of weights each method keeps in each layer, on a logarithmic axis: mean over seeds, with a "
            "band of one standard deviation. A point at “none” is a layer that lost every weight."
        ),
        views=leading(views),
    )


def _density_chart(section: Section, density: float, condition: Condition) -> Chart | None:
    names, lines = _layer_lines(
        section,
        density,
        condition,
        lambda layer: layer.kept / layer.total if layer.total else None,
        lambda layer: f"{layer.kept:,} of {layer.total:,}",
    )
    if not lines:
        return None
    positive = [value.mean for _, points in lines for _, value, _ in points if value.mean > 0]
    lowest = 10.0 ** math.floor(math.log10(min(positive, default=density)))
    empty = any(value.mean == 0 for _, points in lines for _, value, _ in points)
    floor = lowest / 10 if empty else lowest
    exponents = range(round(math.log10(lowest)), 1)
    step = math.ceil(len(exponents) / 7)
    ticks = [(10.0**power, f"{10.0**power:g}") for power in sorted(exponents, reverse=True)[::step]]
    if empty:
        ticks.append((floor, "none"))
    series = []
    for name, points in lines:
        bands = [band(value) for _, value, _ in points]
        series.append(
            Series(
                label=name,
                style=section.styles[name],
                x=tuple(float(at) for at, _, _ in points),
                y=tuple(max(value.mean, floor) for _, value, _ in points),
                band=tuple(pair and (max(pair[0], floor), max(pair[1], floor)) for pair in bands),
                notes=tuple(
                    f"{name}, {printable(names[at])}: density {value.mean:.4g}, kept {counts}"
                    for at, value, counts in points
                ),
            )
        )
    y = Axis(label="layer density", scale="log", ticks=tuple(ticks), limits=(floor / 1.3, 1.3))
    return Chart(x=_layer_axis(names), y=y, series=tuple(series))


@panel("layer-width")
def layer_width(section: Section) -> Panel | None:
    """Share of each layer's output units that are still fed by at least one weight, per method and density."""
    views = []
    for condition in _conditions(section, "shuffled", "inverted", "widened"):
        for density in section.densities():
            names, lines = _layer_lines(
                section,
                density,
                condition,
                lambda layer: layer.units_alive / layer.units if layer.units else None,
                lambda layer: f"{layer.units_alive:,} of {layer.units:,}",
            )
            series = tuple(
                Series(
                    label=name,
                    style=section.styles[name],
                    x=tuple(float(at) for at, _, _ in points),
                    y=tuple(100 * value.mean for _, value, _ in points),
                    band=tuple(
                        pair and (max(pair[0], 0.0), min(pair[1], 100.0))
                        for pair in (band(value, factor=100) for _, value, _ in points)
                    ),
                    notes=tuple(
                        f"{name}, {printable(names[at])}: {percent(value)} % of units alive, {counts}"
                        for at, value, counts in points
                    ),
                )
                for name, points in lines
            )
            if series:
                y = Axis(label="units alive (%)", limits=(-4.0, 104.0))
                chart = Chart(x=_layer_axis(names), y=y, series=series)
                views.append(View(condition.words(density), (chart,), secondary=not condition.plain))
    if not views:
        return None
    return Panel(
        name="layer-width",
        title="Remaining width of each layer",
        description=(
            "The share of each layer's output units (neurons or channels) that still have an incoming weight, for each "
            "method: mean over seeds, with a band of one standard deviation. Units that are not fed can be removed."
        ),
        views=leading(views),
    )
