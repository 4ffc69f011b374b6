"""The panels of the report: one function each, from a section's records to a `Panel`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from foreprune.experiments.spec import Epoch, Layer, Record
from foreprune.report.charts import Axis, Chart, Panel, Series, View, panel
from foreprune.report.colours import DENSE, Style, style_of
from foreprune.report.tables import Section, Spread, density_texts, percent, printable, section_rows, spread

_MOST_TICKS = 18


def styles(section: Section) -> dict[str, Style]:
    """The style of every label of the section: colour and marker by method, dash by variant of the method."""
    found: dict[str, Style] = {}
    variants: dict[str, int] = {}
    for label, method in section.methods():
        variant = variants.get(method, 0)
        variants[method] = variant + 1
        found[label] = style_of(method, variant=variant)
    return found


def _band(value: Spread) -> tuple[float, float] | None:
    return None if value.std is None else (value.mean - value.std, value.mean + value.std)


def _density_label(density: float) -> str:
    kept, removed = density_texts(density)
    return f"density {kept} ({removed} removed)"


def _seeds(seeds: Iterable[int]) -> str:
    listed = [str(seed) for seed in seeds]
    return f"seed{'s' if len(listed) > 1 else ''} {', '.join(listed)}"


def _dense_words(series: Sequence[Series]) -> str:
    return "The dashed line is the dense network. " if any(line.reference for line in series) else ""


@panel("accuracy")
def accuracy(section: Section) -> Panel | None:
    """Top-1 test accuracy of the last epoch against density, mean and one standard deviation over seeds."""
    rows = [row for row in section_rows(section) if row.top1 is not None]
    densities = sorted({row.density for row in rows if row.method != DENSE})
    if not densities:
        return None
    limits = _limits(densities)
    style = styles(section)
    lines: list[Series] = []
    for label, method in section.methods():
        mine = [(row, row.top1) for row in rows if row.label == label and row.top1 is not None]
        notes = [
            f"{label}, {_density_label(row.density)}: {percent(value)} %, n = {value.n}, {_seeds(row.seeds)}"
            for row, value in mine
        ]
        bands = [_band(value) for _, value in mine]
        means = [100 * value.mean for _, value in mine]
        places = [row.density for row, _ in mine]
        if method == DENSE and mine:
            places = [limits[0], *densities, limits[1]]
            means, bands, notes = means * len(places), bands * len(places), notes * len(places)
        lines.append(
            Series(
                label=label,
                style=style[label],
                x=tuple(places),
                y=tuple(means),
                band=tuple(None if band is None else (100 * band[0], 100 * band[1]) for band in bands),
                notes=tuple(notes),
                reference=method == DENSE,
            )
        )
    chart = Chart(
        x=density_axis(densities),
        y=Axis(label="top-1 test accuracy (%)"),
        series=tuple(line for line in lines if line.x),
    )
    return Panel(
        name="accuracy",
        title="Accuracy against density",
        description=(
            "Test accuracy after the last epoch for each method, against the fraction of weights kept on a logarithmic "
            "axis. Lines are means over seeds, bands are one standard deviation. "
            f"{_dense_words(chart.series)}The table below holds the same numbers."
        ),
        views=(View(label="", charts=(chart,)),),
    )


def _limits(densities: Sequence[float]) -> tuple[float, float]:
    return densities[0] / 1.25, densities[-1] * 1.25


def density_axis(densities: Sequence[float]) -> Axis:
    """The logarithmic axis of densities (ascending), with the sparsity under each."""
    return Axis(
        label="density, with sparsity below it",
        scale="log",
        ticks=tuple((density, "\n".join(density_texts(density))) for density in _thinned_densities(densities)),
        limits=_limits(densities),
    )


def _thinned_densities(densities: Sequence[float]) -> list[float]:
    """Those densities that are far enough apart on a logarithmic axis for their labels to stand side by side."""
    width = math.log(densities[-1] / densities[0]) or 1.0
    chosen = [densities[-1]]
    for density in reversed(densities[:-1]):
        if math.log(chosen[-1] / density) / width >= 0.09:
            chosen.append(density)
    return chosen


def _layer_lines(
    section: Section, density: float, quantity: Callable[[Layer], float | None], note: Callable[[Layer], str]
) -> tuple[list[str], list[tuple[str, list[tuple[int, Spread, str]]]]]:
    """Names of the layers, and per label the points `(layer index, spread over seeds, the first seeds' counts)`."""
    runs_of = {
        label: section.finished(label=label, density=density) for label, method in section.methods() if method != DENSE
    }
    names = list(dict.fromkeys(layer.name for runs in runs_of.values() for run in runs for layer in run.layers))
    lines = []
    for label, runs in runs_of.items():
        points = []
        for at, name in enumerate(names):
            found = [layer for run in runs for layer in run.layers if layer.name == name]
            value = spread(quantity(layer) for layer in found)
            if value is not None:
                points.append((at, value, " / ".join(note(layer) for layer in found[:3])))
        if points:
            lines.append((label, points))
    return names, lines


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
    style = styles(section)
    views = []
    for density in section.densities():
        names, lines = _layer_lines(
            section,
            density,
            lambda layer: layer.kept / layer.total if layer.total else None,
            lambda layer: f"{layer.kept:,} of {layer.total:,}",
        )
        if not lines:
            continue
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
        for label, points in lines:
            band = [_band(value) for _, value, _ in points]
            series.append(
                Series(
                    label=label,
                    style=style[label],
                    x=tuple(float(at) for at, _, _ in points),
                    y=tuple(max(value.mean, floor) for _, value, _ in points),
                    band=tuple(pair and (max(pair[0], floor), max(pair[1], floor)) for pair in band),
                    notes=tuple(
                        f"{label}, {printable(names[at])}: density {value.mean:.4g}, kept {counts}"
                        for at, value, counts in points
                    ),
                )
            )
        y = Axis(label="layer density", scale="log", ticks=tuple(ticks), limits=(floor / 1.3, 1.3))
        chart = Chart(x=_layer_axis(names), y=y, series=tuple(series))
        views.append(View(label=_density_label(density), charts=(chart,)))
    if not views:
        return None
    return Panel(
        name="layer-density",
        title="Density of each layer",
        description=(
            "The fraction of weights each method keeps in each layer, on a logarithmic axis: mean over seeds, with a "
            "band of one standard deviation. A point at “none” is a layer that lost every weight."
        ),
        views=tuple(views),
    )


@panel("layer-width")
def layer_width(section: Section) -> Panel | None:
    """Share of each layer's output units that are still fed by at least one weight, per method and density."""
    style = styles(section)
    views = []
    for density in section.densities():
        names, lines = _layer_lines(
            section,
            density,
            lambda layer: layer.units_alive / layer.units if layer.units else None,
            lambda layer: f"{layer.units_alive:,} of {layer.units:,}",
        )
        series = tuple(
            Series(
                label=label,
                style=style[label],
                x=tuple(float(at) for at, _, _ in points),
                y=tuple(100 * value.mean for _, value, _ in points),
                band=tuple(
                    pair and (max(100 * pair[0], 0.0), min(100 * pair[1], 100.0))
                    for pair in (_band(value) for _, value, _ in points)
                ),
                notes=tuple(
                    f"{label}, {printable(names[at])}: {percent(value)} % of units alive, {counts}"
                    for at, value, counts in points
                ),
            )
            for label, points in lines
        )
        if series:
            y = Axis(label="units alive (%)", limits=(-4.0, 104.0))
            views.append(View(label=_density_label(density), charts=(Chart(x=_layer_axis(names), y=y, series=series),)))
    if not views:
        return None
    return Panel(
        name="layer-width",
        title="Remaining width of each layer",
        description=(
            "The share of each layer's output units (neurons or channels) that still have an incoming weight, for each "
            "method: mean over seeds, with a band of one standard deviation. Units that are not fed can be removed."
        ),
        views=tuple(views),
    )


@panel("curves")
def curves(section: Section) -> Panel | None:
    """Test accuracy and training loss of every epoch, per method and density, with the dense network for reference."""
    views = []
    for density in section.densities():
        charts = [
            _curve_chart(section, density, "test accuracy (%)", lambda epoch: epoch.test_top1, 100.0),
            _curve_chart(section, density, "training loss", lambda epoch: epoch.train_loss, 1.0),
        ]
        drawn = tuple(chart for chart in charts if any(not line.reference for line in chart.series))
        if drawn:
            views.append(View(label=_density_label(density), charts=drawn))
    if not views:
        return None
    return Panel(
        name="curves",
        title="Training curves",
        description=(
            "Test accuracy and training loss after every epoch for each method: mean over seeds, with a band of one "
            f"standard deviation. {_dense_words(views[0].charts[0].series)}"
        ).strip(),
        views=tuple(views),
    )


def _curve_chart(
    section: Section, density: float, name: str, value: Callable[[Epoch], float | None], factor: float
) -> Chart:
    style = styles(section)
    lines = []
    for label, method in section.methods():
        runs = section.finished(label=label, density=None if method == DENSE else density)
        points = _epoch_spreads(runs, value)
        lines.append(
            Series(
                label=label,
                style=style[label],
                x=tuple(float(epoch) for epoch, _ in points),
                y=tuple(factor * found.mean for _, found in points),
                band=tuple(
                    pair and (factor * pair[0], factor * pair[1]) for pair in (_band(found) for _, found in points)
                ),
                notes=tuple(
                    f"{label}, epoch {epoch}: {name} {factor * found.mean:.4g}"
                    + ("" if found.std is None else f" ± {factor * found.std:.2g}")
                    + f", n = {found.n}"
                    for epoch, found in points
                ),
                reference=method == DENSE,
            )
        )
    return Chart(x=Axis(label="epoch"), y=Axis(label=name), series=tuple(line for line in lines if line.x))


def _epoch_spreads(runs: Sequence[Record], value: Callable[[Epoch], float | None]) -> list[tuple[int, Spread]]:
    measured: dict[int, list[float | None]] = {}
    for run in runs:
        for epoch in run.curve:
            measured.setdefault(epoch.epoch, []).append(value(epoch))
    found = ((epoch, spread(values)) for epoch, values in sorted(measured.items()))
    return [(epoch, there) for epoch, there in found if there is not None]
