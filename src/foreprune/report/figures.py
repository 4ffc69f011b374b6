"""Panels as image files, drawn by matplotlib: PNG for a README, SVG with its text as text.

Drawing uses `matplotlib.figure.Figure` alone, so no window system, backend or global figure list is touched.
"""

from __future__ import annotations

import io
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from foreprune.report.charts import Axis, Chart, Heatmap, Panel, Series
from foreprune.report.extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = {
    "circle": "o",
    "square": "s",
    "triangle-up": "^",
    "diamond": "D",
    "triangle-down": "v",
    "cross": "P",
    "pentagon": "p",
    "star": "*",
}
_DASHES: dict[str, Any] = {
    "solid": "-",
    "dash": (0, (5, 2.5)),
    "dot": (0, (1.2, 1.6)),
    "dashdot": (0, (5, 1.6, 1.2, 1.6)),
    "longdash": (0, (9, 2.5)),
}
_SETTINGS: Any = {
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.parse_math": False,  # a dollar sign in a method's name is a dollar sign
    "svg.fonttype": "none",
    "svg.hashsalt": "foreprune",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#5b6470",
    "axes.labelcolor": "#1d2430",
    "axes.unicode_minus": True,
    "xtick.color": "#3b4450",
    "ytick.color": "#3b4450",
}
_WIDTH = 8.0
HEAT = ("#f7f9fb", "#7ba3d9")  # of heatmaps, from nothing to the limit; dark text can be read on all of it


def image_files(panel: Panel, *, heading: str) -> dict[str, bytes]:
    """The panel as `{"png": ..., "svg": ...}`; several views become small multiples on one sheet.

    `heading` names the section in the figure's title. PNG files have 200 pixels per inch, twice a screen's density.

    Raises:
        ImportError: matplotlib is not installed.
    """
    require("matplotlib")
    from matplotlib import style

    with style.context(_SETTINGS, after_reset=True):  # a user's own style must not decide what the report looks like
        figure = draw(panel, heading=heading)
        files = {}
        for kind in ("png", "svg"):
            stream = io.BytesIO()
            about = {"Title": panel.title, "Description": panel.description}
            metadata = about | ({"Date": None, "Creator": "foreprune"} if kind == "svg" else {"Software": "foreprune"})
            figure.savefig(stream, format=kind, dpi=200, metadata=metadata)
            files[kind] = stream.getvalue()
    return files


def draw(panel: Panel, *, heading: str) -> Figure:
    """The panel as a matplotlib figure (see `image_files`), its legend below the axes."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D

    cells, columns = _cells(panel)
    rows = math.ceil(len(cells) / columns)
    labels = panel.labels()
    longest = max((len(label) for label, _ in labels), default=0)
    legend_columns = max(1, min(len(labels), int(_WIDTH * 10 / (longest + 6))))
    legend_rows = math.ceil(len(labels) / legend_columns)
    one = next(cell for cell in cells if cell)[1]
    high = 4.0 if isinstance(one, Heatmap) else 4.2 if len(cells) == 1 else 2.9
    layout = ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.07)  # inches
    size = (_WIDTH, high * rows + 0.24 * legend_rows + 0.7)
    figure = Figure(figsize=size, layout=layout, facecolor="white")
    figure.suptitle(f"{panel.title} – {heading}", fontsize=12, fontweight="bold", color="#1d2430", wrap=True)
    grid = figure.subplots(rows, columns, squeeze=False)
    for at, axes in enumerate(grid.flat):
        cell = cells[at] if at < len(cells) else None
        if cell is None:
            axes.set_axis_off()
            continue
        title, chart = cell
        if isinstance(chart, Heatmap):
            _draw_heatmap(axes, chart)
        else:
            below = at + columns < len(cells) and cells[at + columns] is not None
            alike = bool(chart.title) or panel.across == 1
            beside = at % columns > 0 and alike
            named = not ((chart.x.slanted or chart.title) and below)
            _draw_chart(axes, chart, x_named=named, y_named=not beside, narrow=columns > 2)
        if title:
            axes.set_title(title, fontsize=8.5 if columns > 2 else 10, loc="left", color="#1d2430")
    if not labels:
        return figure
    handles = [
        Line2D([], [], color=style.color, linestyle=_DASHES[style.dash], marker=_marker(style.marker), markersize=6)
        for _, style in labels
    ]
    figure.legend(
        handles,
        [_legend_text(label) for label, _ in labels],
        loc="outside lower center",
        ncols=legend_columns,
        frameon=False,
        fontsize=9.5,
        handlelength=2.6,
    )
    return figure


def _cells(panel: Panel) -> tuple[list[tuple[str, Chart | Heatmap] | None], int]:
    """What stands in each cell of the sheet, row by row, and the number of columns; `None` leaves a cell empty.

    Secondary views are left out. A view of several charts begins on a line of its own.
    """
    views = [view for view in panel.views if not view.secondary]
    across = max(len(view.charts) for view in views)
    if across == 1:
        columns = len(views) if len(views) < 3 else 2 if len(views) == 4 else 3
        return [(view.label, view.charts[0]) for view in views], columns
    columns = min(across, 3)
    cells: list[tuple[str, Chart | Heatmap] | None] = []
    for view in views:
        for at, chart in enumerate(view.charts):
            label = view.label if len(views) > 1 and (at == 0 or chart.title) else ""
            cells.append((": ".join(text for text in (label, chart.title) if text), chart))
        cells += [None] * (-len(cells) % columns)
    while cells[-1] is None:
        cells.pop()
    return cells, columns


def _legend_text(label: str) -> str:
    """Matplotlib leaves labels with a leading underscore out of legends; an invisible mark before it prevents that."""
    return f"\N{ZERO WIDTH SPACE}{label}" if label.startswith("_") else label


def _marker(name: str | None) -> str:
    return "" if name is None else _MARKERS[name]


def _draw_heatmap(axes: Axes, chart: Heatmap) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    scale = LinearSegmentedColormap.from_list("overlap", HEAT)
    values = [[math.nan if value is None else value for value in row] for row in chart.values]
    axes.imshow(values, cmap=scale, vmin=0, vmax=chart.limit, aspect="equal")
    places = range(len(chart.names))
    names = [_legend_text(short) for short in chart.names]
    small = 8 if len(chart.names) < 9 else 6.5
    axes.set_xticks(places, labels=names, rotation=90, fontsize=small)
    axes.set_yticks(places, labels=names, fontsize=small)
    axes.tick_params(length=0)
    for row, texts in enumerate(chart.texts()):
        for column, text in enumerate(texts):
            place: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": small - 1}
            axes.text(column, row, text, color="#1d2430", **place)


def _draw_chart(axes: Axes, chart: Chart, *, x_named: bool, y_named: bool, narrow: bool) -> None:
    x = replace(chart.x, ticks=_thinned(chart.x)) if narrow else chart.x
    _set_axis(axes, x, "x", named=x_named, ticked=x_named or not chart.x.slanted)
    _set_axis(axes, chart.y, "y", named=y_named)
    axes.grid(True, color="#e3e7ec", linewidth=0.8)
    axes.set_axisbelow(True)
    for series in sorted(chart.series, key=lambda series: not series.reference):
        _draw_series(axes, series)


def _thinned(axis: Axis) -> tuple[tuple[float, str], ...]:
    """The ticks of a narrow chart whose labels do not run into each other, counted from the right."""
    if axis.limits is None or axis.slanted:
        return axis.ticks
    scale = math.log if axis.scale == "log" else float
    low, high = map(scale, axis.limits)
    kept: list[tuple[float, str]] = []
    for at, text in sorted(axis.ticks, reverse=True):
        wide = max(map(len, text.split("\n"))) * 0.048
        if not kept or (scale(kept[-1][0]) - scale(at)) / (high - low) >= wide:
            kept.append((at, text))
    return tuple(reversed(kept))


def _draw_series(axes: Axes, series: Series) -> None:
    known = series.known_band()
    if len(known) > 1:
        places = [x for x, _ in known]
        low, high = zip(*(band for _, band in known), strict=True)
        axes.fill_between(places, low, high, color=series.style.color, alpha=0.13, linewidth=0)
    elif known and not series.reference:
        place, ends = known[0]
        axes.vlines(place, *ends, color=series.style.color, linewidth=1.4)
    dense_points = len(series.x) > 12
    axes.plot(
        series.x,
        series.y,
        color=series.style.color,
        linestyle=_DASHES[series.style.dash] if series.joined else "none",
        linewidth=1.7 if len(series.x) > 2 or not series.reference else 1.2,
        marker=_marker(series.style.marker),
        markersize=3.6 if dense_points else 5.5,
        markeredgewidth=0,
        markevery=max(1, len(series.x) // 12) if series.joined else 1,
    )


def _set_axis(axes: Axes, axis: Axis, which: str, *, named: bool, ticked: bool = True) -> None:
    from matplotlib.ticker import NullLocator

    mine = axes.xaxis if which == "x" else axes.yaxis
    if axis.scale == "log":
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    if axis.limits is not None:
        (axes.set_xlim if which == "x" else axes.set_ylim)(*axis.limits)
    if axis.ticks:
        mine.set_minor_locator(NullLocator())
        mine.set_ticks([at for at, _ in axis.ticks], labels=[text for _, text in axis.ticks])
    if axis.slanted:
        axes.tick_params(axis="x", labelrotation=90, labelsize=8)
    if named:
        mine.set_label_text(axis.label)
    elif not ticked:
        mine.set_tick_params(labelbottom=False)
