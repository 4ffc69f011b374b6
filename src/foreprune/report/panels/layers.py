"""Panels of the layers: density and remaining width of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from foreprune.analysis.statistics import Spread, spread
from foreprune.records import LayerRecord
from foreprune.report.charts import Axis, Chart, Panel
from foreprune.report.labels import printable
from foreprune.report.lines import density_views, mean_line
from foreprune.report.measures import percent
from foreprune.report.panels import panel
from foreprune.report.sections import Condition, Section

_MOST_TICKS = 18


def _layer_lines(
    section: Section,
    density: float,
    condition: Condition,
    share: Callable[[LayerRecord], tuple[int, int]],
) -> tuple[list[str], dict[str, list[tuple[int, Spread, str]]]]:
    """Names of the layers, and line -> points `(layer's place, spread over seeds of a share, the first seeds' counts)`.

    `share` gives a part and the whole of a layer; layers of which the whole is nothing are left out.
    """
    runs_of = section.pruned(density, condition)
    names = list(dict.fromkeys(layer.name for runs in runs_of.values() for run in runs for layer in run.layers))

    def points(line: str) -> Iterator[tuple[int, Spread, str]]:
        for at, name in enumerate(names):
            shares = [share(layer) for run in runs_of[line] for layer in run.layers if layer.name == name]
            value = spread(part / whole for part, whole in shares if whole)
            if value is not None:
                yield at, value, " / ".join(f"{part:,} of {whole:,}" for part, whole in shares[:3])

    lines = {line: list(points(line)) for line in runs_of}
    return names, {line: found for line, found in lines.items() if found}


def _layer_axis(names: Sequence[str]) -> Axis:
    step = math.ceil(len(names) / _MOST_TICKS)
    ticks = tuple((float(at), short_name(names[at])) for at in range(0, len(names), step))
    return Axis(label="layer, from input to output", ticks=ticks, limits=(-0.5, len(names) - 0.5), slanted=True)


def short_name(name: str) -> str:
    """A layer's name for an axis: without a final `.weight`, its middle left out beyond 22 characters."""
    name, bracket, label = printable(name).partition("[")
    name = name.removesuffix(".weight") + bracket + label
    return name if len(name) <= 22 else f"{name[:8]}…{name[-13:]}"


@panel("layer-density")
def layer_density(section: Section) -> Panel:
    """Density of every layer, per method, at each density asked for; an emptied layer sits on a line of its own."""
    return Panel(
        name="layer-density",
        title="Density of each layer",
        description=(
            "The fraction of weights each method keeps in each layer, on a logarithmic axis: mean over seeds, with a "
            "band of one standard deviation. A point at “none” is a layer that lost every weight."
        ),
        views=density_views(section, lambda *view: [_density_chart(section, *view)], changed=("method",)),
    )


def _density_chart(section: Section, density: float, condition: Condition) -> Chart | None:
    names, lines = _layer_lines(section, density, condition, lambda layer: (layer.kept, layer.total))
    if not lines:
        return None
    means = [value.mean for points in lines.values() for _, value, _ in points]
    lowest = 10.0 ** math.floor(math.log10(min((mean for mean in means if mean > 0), default=density)))
    empty = 0 in means
    floor = lowest / 10 if empty else lowest
    exponents = range(round(math.log10(lowest)), 1)
    step = math.ceil(len(exponents) / 7)
    ticks = [(10.0**power, f"{10.0**power:g}") for power in sorted(exponents, reverse=True)[::step]]
    if empty:
        ticks.append((floor, "none"))
    series = []
    for name, points in lines.items():
        noted = [
            (at, value, f"{name}, {printable(names[at])}: density {value.mean:.4g}, kept {counts}")
            for at, value, counts in points
        ]
        series.append(mean_line(name, section.styles[name], noted, within=(floor, math.inf)))
    y = Axis(label="layer density", scale="log", ticks=tuple(ticks), limits=(floor / 1.3, 1.3))
    return Chart(x=_layer_axis(names), y=y, series=tuple(series))


@panel("layer-width")
def layer_width(section: Section) -> Panel:
    """Share of each layer's output units that are still fed by at least one weight, per method and density."""
    return Panel(
        name="layer-width",
        title="Remaining width of each layer",
        description=(
            "The share of each layer's output units (neurons or channels) that still have an incoming weight, for each "
            "method: mean over seeds, with a band of one standard deviation. Units that are not fed can be removed."
        ),
        views=density_views(section, lambda *view: [_width_chart(section, *view)], changed=("masks", "method")),
    )


def _width_chart(section: Section, density: float, condition: Condition) -> Chart | None:
    names, lines = _layer_lines(section, density, condition, lambda layer: (layer.units_alive, layer.units))
    series = []
    for name, points in lines.items():
        noted = [
            (at, value, f"{name}, {printable(names[at])}: {percent(value)} % of units alive, {counts}")
            for at, value, counts in points
        ]
        series.append(mean_line(name, section.styles[name], noted, factor=100, within=(0.0, 100.0)))
    y = Axis(label="units alive (%)", limits=(-4.0, 104.0))
    return Chart(x=_layer_axis(names), y=y, series=tuple(series)) if series else None
