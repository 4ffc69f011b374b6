"""Panels as image files, drawn by matplotlib: PNG for a README, SVG with its text as text.

Drawing uses `matplotlib.figure.Figure` alone, so no window system, backend or global figure list is touched.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

from foreprune.report.charts import Axis, Chart, Panel, Series

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


def require_matplotlib() -> None:
    """Raise an `ImportError` that names the extra if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'foreprune[report]'") from error


def image_files(panel: Panel, *, heading: str) -> dict[str, bytes]:
    """The panel as `{"png": ..., "svg": ...}`; several views become small multiples on one sheet.

    `heading` names the section in the figure's title. PNG files have 200 pixels per inch, twice a screen's density.

    Raises:
        ImportError: matplotlib is not installed.
    """
    require_matplotlib()
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

    across = max(len(view.charts) for view in panel.views)
    columns = across if across > 1 else len(panel.views) if len(panel.views) < 3 else 2 if len(panel.views) == 4 else 3
    cells = [(view, view.charts[at] if at < len(view.charts) else None) for view in panel.views for at in range(across)]
    rows = math.ceil(len(cells) / columns)
    labels = panel.labels()
    longest = max(len(label) for label, _ in labels)
    legend_columns = max(1, min(len(labels), int(_WIDTH * 10 / (longest + 6))))
    legend_rows = math.ceil(len(labels) / legend_columns)
    height = (4.2 if len(cells) == 1 else 2.9) * rows + 0.24 * legend_rows + 0.7
    layout = ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.07)  # inches
    figure = Figure(figsize=(_WIDTH, height), layout=layout, facecolor="white")
    figure.suptitle(f"{panel.title} – {heading}", fontsize=12, fontweight="bold", color="#1d2430", wrap=True)
    grid = figure.subplots(rows, columns, squeeze=False)
    for at, axes in enumerate(grid.flat):
        view, chart = cells[at] if at < len(cells) else (panel.views[-1], None)
        if chart is None:
            axes.set_axis_off()
            continue
        below = at + columns < len(cells)
        beside = at % columns > 0
        _draw_chart(axes, chart, x_named=not (chart.x.slanted and below), y_named=across > 1 or not beside)
        if view.label and (across == 1 or at % across == 0):
            axes.set_title(view.label, fontsize=8.5 if columns > 2 else 10, loc="left", color="#1d2430")
    handles = [
        Line2D([], [], color=style.colour, linestyle=_DASHES[style.dash], marker=_marker(style.marker), markersize=6)
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


def _legend_text(label: str) -> str:
    """Matplotlib leaves labels with a leading underscore out of legends; an invisible mark before it prevents that."""
    return f"\N{ZERO WIDTH SPACE}{label}" if label.startswith("_") else label


def _marker(name: str | None) -> str:
    return "" if name is None else _MARKERS[name]


def _draw_chart(axes: Axes, chart: Chart, *, x_named: bool, y_named: bool) -> None:
    _set_axis(axes, chart.x, "x", named=x_named)
    _set_axis(axes, chart.y, "y", named=y_named)
    axes.grid(True, color="#e3e7ec", linewidth=0.8)
    axes.set_axisbelow(True)
    for series in sorted(chart.series, key=lambda series: not series.reference):
        _draw_series(axes, series)


def _draw_series(axes: Axes, series: Series) -> None:
    known = [(x, band) for x, band in zip(series.x, series.band, strict=True) if band] if series.band else []
    if len(known) > 1:
        places = [x for x, _ in known]
        low, high = zip(*(band for _, band in known), strict=True)
        axes.fill_between(places, low, high, color=series.style.colour, alpha=0.13, linewidth=0)
    elif known and not series.reference:
        place, ends = known[0]
        axes.vlines(place, *ends, color=series.style.colour, linewidth=1.4)
    dense_points = len(series.x) > 12
    axes.plot(
        series.x,
        series.y,
        color=series.style.colour,
        linestyle=_DASHES[series.style.dash],
        linewidth=1.7,
        marker=_marker(series.style.marker),
        markersize=3.6 if dense_points else 5.5,
        markeredgewidth=0,
        markevery=max(1, len(series.x) // 12),
    )


def _set_axis(axes: Axes, axis: Axis, which: str, *, named: bool) -> None:
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
    elif which == "x":
        mine.set_tick_params(labelbottom=False)
