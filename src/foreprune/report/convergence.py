"""The panel of convergence: how far training moved weights and outputs, against the path kernel's trace.

After Gebhart, Saxena & Schrater 2021, section 5.1 and figure 2: a straight line through the natural logarithm of the
trace at initialization predicts each run's distance. One point is one run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from foreprune.records import Record
from foreprune.report.charts import Axis, Chart, Panel, Series, View, panel
from foreprune.report.colors import DENSE, DENSE_COLOR, LATER, Style
from foreprune.report.measures import density_texts
from foreprune.report.sections import Section

OVERALL = "all methods"
_FEWEST = 3  # points for a line whose R squared says anything


@dataclass(frozen=True)
class Fit:
    """A least-squares line y = intercept + slope * x through n points; r2 is its coefficient of determination."""

    intercept: float
    slope: float
    r2: float
    n: int


def fit(points: Sequence[tuple[float, float]]) -> Fit | None:
    """The least-squares line through `(x, y)` points; `None` for fewer than three, or where all x or all y agree."""
    import numpy as np

    if len(points) < _FEWEST:
        return None
    x, y = np.array(points, dtype=np.float64).T
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    dx, dy = x - x.mean(), y - y.mean()
    slope = float(dx @ dy / (dx @ dx))
    r2 = float(1 - ((dy - slope * dx) ** 2).sum() / (dy @ dy))
    return Fit(intercept=float(y.mean() - slope * x.mean()), slope=slope, r2=max(r2, 0.0), n=len(points))


def trace(record: Record) -> float | None:
    """Natural logarithm of the trace of the path kernel of the pruned initial network."""
    value = record.analysis.get("log10_path_kernel_trace")
    return None if value is None else value * math.log(10)


def _analysis(name: str) -> Callable[[Record], float | None]:
    return lambda record: record.analysis.get(name)


# axis label -> what to read off a record
_QUANTITIES: dict[str, Callable[[Record], float | None]] = {
    "distance of the weights": _analysis("weight_distance"),
    "distance of the outputs": _analysis("output_distance"),
    "final training loss": lambda record: record.curve[-1].train_loss if record.curve else None,
}
_DISTANCES = 2


@panel("convergence")
def convergence(section: Section) -> Panel | None:
    """ln of the path kernel's trace against the distances of weights and outputs and the final training loss.

    Original runs of methods that prune before training only; the dense network is left out.
    """
    charts: list[Chart] = []
    notes = []
    for at, (name, value) in enumerate(_QUANTITIES.items()):
        chart, fits = _chart(section, name, value)
        if chart is None:
            if at < _DISTANCES:
                continue
            break
        if at >= _DISTANCES and not charts:
            break  # records without distances
        charts.append(chart)
        if fits:
            notes.append(f"{name.capitalize()}: " + "; ".join(fits) + ".")
    if not charts:
        return None
    return Panel(
        name="convergence",
        title="Path-kernel trace and convergence",
        description=(
            "One point per run: the natural logarithm of the path kernel's trace before training, against the "
            "Euclidean distance that training moved the kept weights, the mean distance that it moved the outputs on "
            "test images, and the training loss of the last epoch. Thin lines are least-squares fits of each method, "
            "the dashed line of all methods."
        ),
        views=(View(label="", charts=tuple(charts)),),
        notes=tuple(notes),
    )


def _chart(section: Section, name: str, value: Callable[[Record], float | None]) -> tuple[Chart | None, list[str]]:
    points: list[Series] = []
    fits: list[Series] = []
    texts: list[str] = []
    every: list[tuple[float, float]] = []
    for line in section.lines():
        if line.method == DENSE or line.method in LATER:
            continue
        mine = [
            (x, y, record)
            for record in section.finished(label=line.label)
            if (x := trace(record)) is not None and (y := value(record)) is not None and not record.experiment.prune_at
        ]
        if not mine:
            continue
        style = section.styles[line.name]
        points.append(
            Series(
                label=line.name,
                style=style,
                x=tuple(x for x, _, _ in mine),
                y=tuple(y for _, y, _ in mine),
                notes=tuple(
                    f"{line.name}, density {density_texts(record.experiment.density)[0]}, seed "
                    f"{record.experiment.seed}: ln trace {x:.4g}, {name} {y:.4g}"
                    for x, y, record in mine
                ),
                joined=False,
            )
        )
        pairs = [(x, y) for x, y, _ in mine]
        every += pairs
        found = fit(pairs)
        if found is not None:
            look = Style(color=style.color, marker=None, dash=style.dash)
            fits.append(_fitted(line.name, found, pairs, look))
            texts.append(_words(line.name, found))
    if not points:
        return None, []
    found = fit(every)
    if found is not None:
        fits.append(_fitted(OVERALL, found, every, Style(color=DENSE_COLOR, marker=None, dash="dash")))
        texts.append(_words(OVERALL, found))
    axes = Axis(label="ln trace of the path kernel"), Axis(label=name)
    return Chart(x=axes[0], y=axes[1], series=(*points, *fits)), texts


def _words(name: str, found: Fit) -> str:
    return f"{name} R² = {found.r2:.3f} (slope {found.slope:.3g}, n = {found.n})"


def _fitted(name: str, found: Fit, points: Sequence[tuple[float, float]], style: Style) -> Series:
    ends = (min(x for x, _ in points), max(x for x, _ in points))
    return Series(
        label=name,
        style=style,
        x=ends,
        y=tuple(found.intercept + found.slope * x for x in ends),
        notes=(f"{_words(name, found)}, least squares",) * 2,
        reference=True,
    )
