"""The panel of convergence: how far training moved weights and outputs, against the path kernel's trace.

After Gebhart, Saxena & Schrater 2021, section 5.1 and figure 2: a straight line through the natural logarithm of the
trace at initialization predicts each run's distance. One point is one run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from foreprune.analysis.statistics import LeastSquares, least_squares
from foreprune.records import Record
from foreprune.report.charts import Axis, Chart, Panel, Series, View
from foreprune.report.colors import DENSE_COLOR, Style, prunes_later
from foreprune.report.measures import density_texts
from foreprune.report.panels import panel
from foreprune.report.sections import Section

OVERALL = "all methods"
_FEWEST = 3  # points for a line whose R squared says anything
Value = Callable[[Record], float | None]


def trace(record: Record) -> float | None:
    """Natural logarithm of the trace of the path kernel of the pruned initial network."""
    value = record.analysis.get("log10_path_kernel_trace")
    return None if value is None else value * math.log(10)


# axis label -> what to read off a record
_DISTANCES: dict[str, Value] = {
    "distance of the weights": lambda record: record.analysis.get("weight_distance"),
    "distance of the outputs": lambda record: record.analysis.get("output_distance"),
}
_LOSS: dict[str, Value] = {
    "final training loss": lambda record: record.curve[-1].train_loss if record.curve else None,
}


@panel("convergence")
def convergence(section: Section) -> Panel:
    """ln of the path kernel's trace against the distances of weights and outputs and the final training loss.

    Original runs of methods that prune before training only; the dense network is left out.
    """
    drawn = {name: found for name, value in _DISTANCES.items() if (found := _chart(section, name, value))}
    if drawn:  # the loss of records without distances is no panel
        drawn |= {name: found for name, value in _LOSS.items() if (found := _chart(section, name, value))}
    return Panel(
        name="convergence",
        title="Path-kernel trace and convergence",
        description=(
            "One point per run: the natural logarithm of the path kernel's trace before training, against the "
            "Euclidean distance that training moved the kept weights, the mean distance that it moved the outputs on "
            "test images, and the training loss of the last epoch. Thin lines are least-squares fits of each method, "
            "the dashed line of all methods."
        ),
        views=(View(label="", charts=tuple(chart for chart, _ in drawn.values())),),
        notes=tuple(f"{name.capitalize()}: {'; '.join(fits)}." for name, (_, fits) in drawn.items() if fits),
    )


def _chart(section: Section, name: str, value: Value) -> tuple[Chart, list[str]] | None:
    """The points and fits of one quantity, and the fits in words; `None` without points."""
    points: list[Series] = []
    fits: list[Series] = []
    every: list[tuple[float, float]] = []
    for label, runs in section.pruned().items():
        early = [run for run in runs if not (run.experiment.prune_at or prunes_later(run.experiment.method))]
        mine = [(x, y, run) for run in early if (x := trace(run)) is not None and (y := value(run)) is not None]
        if not mine:
            continue
        style = section.styles[label]
        points.append(
            Series(
                label=label,
                style=style,
                x=tuple(x for x, _, _ in mine),
                y=tuple(y for _, y, _ in mine),
                notes=tuple(
                    f"{label}, density {density_texts(run.experiment.density)[0]}, seed {run.experiment.seed}: "
                    f"ln trace {x:.4g}, {name} {y:.4g}"
                    for x, y, run in mine
                ),
                joined=False,
            )
        )
        pairs = [(x, y) for x, y, _ in mine]
        every += pairs
        fits += _fitted(label, pairs, Style(color=style.color, marker=None, dash=style.dash))
    if not points:
        return None
    fits += _fitted(OVERALL, every, Style(color=DENSE_COLOR, marker=None, dash="dash"))
    chart = Chart(x=Axis(label="ln trace of the path kernel"), y=Axis(label=name), series=(*points, *fits))
    return chart, [line.notes[0].removesuffix(", least squares") for line in fits]


def straight_line(points: Sequence[tuple[float, float]]) -> LeastSquares | None:
    """Slope and intercept through `(x, y)` points; `None` for fewer than three, or where all x or all y agree."""
    if len(points) < _FEWEST or any(len(set(values)) == 1 for values in zip(*points, strict=True)):
        return None
    x, y = zip(*points, strict=True)
    return least_squares((x, 1), y)


def _fitted(name: str, points: Sequence[tuple[float, float]], style: Style) -> list[Series]:
    """The line through the points, from end to end, if there is one."""
    found = straight_line(points)
    if found is None:
        return []
    slope, intercept = found.coefficients
    ends = (min(x for x, _ in points), max(x for x, _ in points))
    words = f"{name} R² = {max(found.r2, 0.0):.3f} (slope {slope:.3g}, n = {found.n}), least squares"
    values = tuple(intercept + slope * x for x in ends)
    return [Series(label=name, style=style, x=ends, y=values, notes=(words, words), reference=True)]
