"""Panels as Plotly figures: plain dictionaries of `data` and `layout`, which the page's script hands to plotly.js.

Text from records is escaped here for Plotly, which reads tags such as `<a href>` in its texts.
"""

from __future__ import annotations

import html
import math
import textwrap
from typing import Any

from foreprune.report.charts import Axis, Chart, Heatmap, Panel, Series
from foreprune.report.colors import translucent
from foreprune.report.extras import require
from foreprune.report.figures import HEAT

_INK = "#1d2430"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def plotly_source() -> str:
    """The source text of plotly.js, to be embedded.

    Raises:
        ImportError: plotly is not installed.
    """
    require("plotly.offline")
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def escape(text: str) -> str:
    """Make text safe inside Plotly's pseudo-HTML."""
    return html.escape(text, quote=False)


def panel_figures(panel: Panel) -> list[dict[str, Any]]:
    """One entry per view: its `label` and its `charts`, each a Plotly figure as plain JSON values."""
    small = panel.across > 2
    return [
        {
            "label": view.label,
            "charts": [
                heatmap(chart) if isinstance(chart, Heatmap) else figure(chart, small=small) for chart in view.charts
            ],
        }
        for view in panel.views
    ]


def figure(chart: Chart, *, small: bool = False) -> dict[str, Any]:
    """One chart as `{"data": [...], "layout": {...}}`; each trace carries its label in `legendgroup`.

    The layout's `meta` is the chart's title, which is the name of the method it belongs to, if to one.
    """
    data = []
    for series in sorted(chart.series, key=lambda series: not series.reference):
        data += _traces(series)
    layout = _layout(chart.title) | {
        "height": 400 if chart.x.slanted else 300 if small else 360,
        "xaxis": _axis(chart.x),
        "yaxis": _axis(chart.y),
    }
    return {"data": data, "layout": layout}


def heatmap(chart: Heatmap) -> dict[str, Any]:
    """One heatmap as `{"data": [...], "layout": {...}}`; the trace's `meta` holds its names as they are."""
    names = [escape(name) for name in chart.names]
    trace = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": [[_rounded(value) for value in row] for row in chart.values],
        "text": [list(row) for row in chart.texts()],
        "texttemplate": "%{text}",
        "textfont": {"color": _INK},
        "hovertext": [[wrapped(escape(note)) for note in row] for row in chart.notes],
        "hoverinfo": "text",
        "zmin": 0,
        "zmax": chart.limit,
        "colorscale": [[at / (len(HEAT) - 1), color] for at, color in enumerate(HEAT)],
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
        "meta": list(chart.names),
    }
    axis: dict[str, Any] = {"type": "category", "automargin": True, "ticks": "", "showgrid": False, "showline": False}
    layout = _layout(chart.title) | {
        "height": 420,
        "xaxis": axis | {"tickangle": -60},
        "yaxis": axis | {"autorange": "reversed"},
    }
    layout["meta"] = ""
    return {"data": [trace], "layout": layout}


def _layout(title: str) -> dict[str, Any]:
    """What all charts share."""
    found: dict[str, Any] = {
        "font": {"family": _FONT, "size": 13, "color": _INK},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "margin": {"l": 56, "r": 14, "t": 30, "b": 48},
        "showlegend": False,
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "bgcolor": "#ffffff", "font": {"color": _INK, "size": 13}, "namelength": 0},
        "meta": title,
    }
    if title:
        found["title"] = {"text": escape(title), "font": {"size": 14}, "x": 0, "xref": "paper", "xanchor": "left"}
    return found


def _rounded(value: float | None) -> float | None:
    """Six significant digits: finer than any screen, and half the size of the page."""
    return None if value is None else float(f"{value:.6g}")


def _traces(series: Series) -> list[dict[str, Any]]:
    common = {"type": "scatter", "legendgroup": series.label, "showlegend": False}
    known = series.known_band()
    traces: list[dict[str, Any]] = []
    if len(known) > 1:
        outline = [(x, band[1]) for x, band in known] + [(x, band[0]) for x, band in reversed(known)]
        traces.append(
            common
            | {
                "mode": "lines",
                "x": [_rounded(x) for x, _ in outline],
                "y": [_rounded(y) for _, y in outline],
                "fill": "toself",
                "fillcolor": translucent(series.style.color, 0.13),
                "line": {"width": 0},
                "hoverinfo": "skip",
            }
        )
    markers = series.style.marker is not None
    mode = "markers" if not series.joined else "lines+markers" if markers else "lines"
    line: dict[str, Any] = common | {
        "name": escape(series.label),
        "mode": mode,
        "x": [_rounded(x) for x in series.x],
        "y": [_rounded(y) for y in series.y],
        "line": {"color": series.style.color, "dash": series.style.dash, "width": 2},
        "text": [wrapped(escape(note)) for note in series.notes],
        "hoverinfo": "text" if series.notes else "x+y",
    }
    if markers:
        line["marker"] = {
            "color": series.style.color,
            "symbol": series.style.marker,
            "size": 5 if len(series.x) > 12 and series.joined else 8,
        }
    if len(known) == 1 and len(series.x) == 1:
        low, high = known[0][1]
        line["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [high - series.y[0]],
            "arrayminus": [series.y[0] - low],
            "color": series.style.color,
            "thickness": 1.5,
        }
    return [*traces, line]


def wrapped(text: str, *, width: int = 44) -> str:
    """Break a hover text at spaces into lines of about `width` characters, so that it fits on a phone."""
    return "<br>".join(textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False))


def _axis(axis: Axis) -> dict[str, Any]:
    found: dict[str, Any] = {
        "title": {"text": escape(axis.label), "standoff": 10},
        "type": axis.scale,
        "automargin": True,
        "gridcolor": "#e3e7ec",
        "linecolor": "#8a93a0",
        "showline": True,
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": "#8a93a0",
    }
    if axis.ticks:
        found["tickvals"] = [at for at, _ in axis.ticks]
        found["ticktext"] = [escape(text).replace("\n", "<br>") for _, text in axis.ticks]
        found["tickangle"] = 0
        found["minor"] = {"showgrid": False}
    if axis.limits is not None:
        found["range"] = [math.log10(at) for at in axis.limits] if axis.scale == "log" else list(axis.limits)
    if axis.slanted:
        found |= {"tickangle": -60, "tickfont": {"size": 11}}
    return found
