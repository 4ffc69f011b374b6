"""The panel of convergence: how far training moved weights and outputs, against the path kernel's trace.

After Gebhart, Saxena & Schrater 2021, section 5.1: a straight line through the natural logarithm of the trace at
initialization (figure 2) and an exponential curve (figure 1) predict each run's distance. One point is one run. Trace
and distance both grow with the number of weights kept, so the notes say what the trace adds to that number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from foreprune.analysis.prediction import Added, Exponential, added, correlation, exponential, levels
from foreprune.analysis.statistics import LeastSquares, least_squares, mean_interval
from foreprune.records import Record
from foreprune.report.charts import Axis, Chart, Panel, Series, View
from foreprune.report.colors import DENSE_COLOR, Style, prunes_later
from foreprune.report.extras import require
from foreprune.report.measures import density_texts
from foreprune.report.panels import panel
from foreprune.report.sections import Section

OVERALL = "all methods"
CURVE = "exponential, rate fitted"
PAPER_CURVE = "exponential, η = 0.001"
PAPER_RATE = 0.001  # the learning rate in the paper's curve, whatever the network was trained with
_SURE = 1 - 1e-9  # the correlation beyond which Fisher's transform is not taken
_FEWEST = 3  # points for a line whose R squared says anything
Value = Callable[[Record], float | None]


@dataclass(frozen=True)
class Point:
    """One run: natural logarithm of its trace, its distance, and what it is."""

    x: float
    y: float
    run: Record

    @property
    def root(self) -> float:
        """Square root of the number of weights kept: how far they move if each moves equally far."""
        return math.sqrt(self.run.kept or 0)


def trace(record: Record) -> float | None:
    """Natural logarithm of the trace of the path kernel of the pruned initial network."""
    value = record.analysis.get("log10_path_kernel_trace")
    return None if value is None else value * math.log(10)


# axis label -> what to read off a record
_WEIGHTS = "distance of the weights"
_DISTANCES: dict[str, Value] = {
    _WEIGHTS: lambda record: record.analysis.get("weight_distance"),
    "distance of the outputs": lambda record: record.analysis.get("output_distance"),
}
_LOSS: dict[str, Value] = {
    "final training loss": lambda record: record.curve[-1].train_loss if record.curve else None,
}


@panel("convergence")
def convergence(section: Section) -> Panel | None:
    """ln of the path kernel's trace against the distances of weights and outputs and the final training loss.

    Original runs of methods that prune before training only; the dense network is left out.
    """
    points = {name: found for name, value in _DISTANCES.items() if any((found := _points(section, value)).values())}
    if not points:  # the loss of records without distances is no panel
        return None
    require("scipy")
    losses = {name: found for name, value in _LOSS.items() if any((found := _points(section, value)).values())}
    charts, notes = [], []
    for name, mine in (points | losses).items():
        lines = [_line(label, own, section.styles[label]) for label, own in mine.items()]
        every = [point for own in mine.values() for point in own]
        lines.append(_line(OVERALL, every, Style(color=DENSE_COLOR, marker=None, dash="dash")))
        curves = _curves(name, every) if name in points else []
        fitted = [line for line in (*lines, *curves) if line is not None]
        loose = [_loose(label, own, section.styles[label], name) for label, own in mine.items() if own]
        charts.append(Chart(x=Axis(label="ln trace of the path kernel"), y=Axis(label=name), series=(*loose, *fitted)))
        if fitted:
            said = [line.notes[0].removesuffix(", least squares") for line in fitted]
            notes.append(f"{name.capitalize()}: {'; '.join(said)}.")
        if name in points:
            notes += beyond_size(name, every)
    return Panel(
        name="convergence",
        title="Path-kernel trace and convergence",
        description=(
            "One point per run: the natural logarithm of the path kernel's trace before training, against the "
            "Euclidean distance that training moved the kept weights, the mean distance that it moved the outputs on "
            "test images, and the training loss of the last epoch. Thin lines are least-squares fits of each method, "
            "the dashed line of all methods. The curves are the exponential (1 - e) a + e b of Gebhart et al., "
            "e = exp(-η T t), T the trace, t the epochs trained, b = 0 for weights: with their η = 0.001, and with η "
            "fitted too."
        ),
        views=(View(label="", charts=tuple(charts)),),
        notes=tuple(notes),
    )


def _points(section: Section, value: Value) -> dict[str, list[Point]]:
    """Label -> its points."""
    found = {}
    for label, runs in section.pruned().items():
        early = [run for run in runs if not (run.experiment.prune_at or prunes_later(run.experiment.method))]
        mine = [(trace(run), value(run), run) for run in early]
        found[label] = [Point(x, y, run) for x, y, run in mine if x is not None and y is not None]
    return found


def _loose(label: str, points: Sequence[Point], style: Style, name: str) -> Series:
    return Series(
        label=label,
        style=style,
        x=tuple(point.x for point in points),
        y=tuple(point.y for point in points),
        notes=tuple(
            f"{label}, density {density_texts(point.run.experiment.density)[0]}, seed {point.run.experiment.seed}: "
            f"ln trace {point.x:.4g}, {name} {point.y:.4g}"
            for point in points
        ),
        joined=False,
    )


def straight_line(points: Sequence[tuple[float, float]]) -> LeastSquares | None:
    """Slope and intercept through `(x, y)` points; `None` for fewer than three, or where all x or all y agree."""
    if len(points) < _FEWEST or any(len(set(values)) == 1 for values in zip(*points, strict=True)):
        return None
    x, y = zip(*points, strict=True)
    return least_squares((x, 1), y)


def _line(name: str, points: Sequence[Point], style: Style) -> Series | None:
    """The line through the points, from end to end, if there is one."""
    found = straight_line([(point.x, point.y) for point in points])
    if found is None:
        return None
    slope, intercept = found.coefficients
    ends = (min(point.x for point in points), max(point.x for point in points))
    words = f"{name} R² = {max(found.r2, 0.0):.3f} (slope {slope:.3g}, n = {found.n}), least squares"
    values = tuple(intercept + slope * x for x in ends)
    look = Style(color=style.color, marker=None, dash=style.dash)
    return Series(label=name, style=look, x=ends, y=values, notes=(words, words), reference=True)


def _curves(name: str, points: Sequence[Point]) -> list[Series]:
    """The exponential curve through the points of all methods, with the paper's rate and with a fitted one."""
    epochs = max((point.run.experiment.recipe.epochs for point in points), default=0)
    x, y = [point.x for point in points], [point.y for point in points]
    found = []
    for label, rate, dash in ((CURVE, None, "dot"), (PAPER_CURVE, PAPER_RATE * epochs, "dashdot")):
        fit = exponential(x, y, rate=rate, from_zero=name == _WEIGHTS) if epochs else None
        if fit is not None:
            style = Style(color=DENSE_COLOR, marker=None, dash=dash)
            found.append(_curve(label, fit, (min(x), max(x)), epochs, style))
    return found


def _curve(label: str, fit: Exponential, ends: tuple[float, float], epochs: int, style: Style) -> Series:
    x = tuple(np.linspace(*ends, 81).tolist())
    own = f", η = {fit.rate / epochs:.2g}" if label == CURVE else ""
    low = f", b = {fit.low:.3g}" if fit.low else ""
    words = f"{label} R² = {fit.r2:.3f} (a = {fit.high:.3g}{low}{own}, t = {epochs}, n = {fit.n}), least squares"
    return Series(label=label, style=style, x=x, y=fit.at(x), notes=(words,) * len(x), reference=True)


def beyond_size(name: str, points: Sequence[Point]) -> list[str]:
    """What the trace adds to the number of weights kept, in sentences: overall, and at each number for itself."""
    y = [point.y for point in points]
    x = [point.x for point in points]
    root = added([point.root for point in points], y, given=(1,))
    given_root = added(x, y, given=([point.root for point in points], 1))
    given_density = added(x, y, given=levels([point.run.experiment.density for point in points]))
    found = []

    def percent(fit: Added) -> str:
        return f"{100 * fit.partial:.0f} %"

    if root is not None and given_root is not None:
        found.append(
            f"{name.capitalize()}, all methods: R² = {root.alone:.3f} on √kept alone, {given_root.alone:.3f} on ln "
            f"trace alone, {given_root.both:.3f} on both. Given √kept, ln trace explains {percent(given_root)} of "
            f"the rest, slope {_slope(points, by_density=False)}."
        )
    if given_density is not None:
        found.append(
            f"{name.capitalize()}, given the density (a level for each): ln trace explains "
            f"{percent(given_density)} of the rest, slope {_slope(points, by_density=True)}. Correlation with ln "
            f"trace over methods at one density: {_correlations(points)}."
        )
    return found


def _seeds(points: Sequence[Point]) -> list[list[Point]]:
    ordered = sorted(points, key=lambda point: point.run.experiment.seed)
    return [list(mine) for _, mine in groupby(ordered, key=lambda point: point.run.experiment.seed)]


def _slope(points: Sequence[Point], *, by_density: bool) -> str:
    """The coefficient of ln trace, fitted to each seed for itself: mean and 95 % interval over seeds."""
    slopes = []
    for mine in _seeds(points):
        size = levels([point.run.experiment.density for point in mine]) if by_density else None
        found = added(
            [point.x for point in mine],
            [point.y for point in mine],
            given=size or ([point.root for point in mine], 1),
        )
        slopes += [] if found is None else [found.coefficient]
    return _over_seeds(slopes, "+.3g", "one fit per seed")


def _correlations(points: Sequence[Point]) -> str:
    """Per density the correlation over methods, with its 95 % interval over seeds, both of Fisher's transform."""
    parts = []
    for density in sorted({point.run.experiment.density for point in points}, reverse=True):
        here = [point for point in points if point.run.experiment.density == density]
        values = [correlation([point.x for point in mine], [point.y for point in mine]) for mine in _seeds(here)]
        known = [math.atanh(max(-_SURE, min(_SURE, value))) for value in values if value is not None]
        if known:
            parts.append(f"{density_texts(density)[0]}: {_over_seeds(known, '+.2f', '', back=math.tanh)}")
    return "; ".join(parts) or "too few methods"


def _over_seeds(
    values: Sequence[float], form: str, words: str, *, back: Callable[[float], float] = lambda value: value
) -> str:
    """Mean, interval and number of seeds, transformed back."""
    if not values:
        return "unknown"
    if len(values) == 1:
        return f"{back(values[0]):{form}} (one seed)"
    found = mean_interval(values)
    ends = f"[{back(found.low):{form}}, {back(found.high):{form}}]"
    return f"{back(found.mean):{form}} {ends} ({', '.join(part for part in (words, f'n = {found.n}') if part)})"
