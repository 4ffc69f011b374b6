"""Panels as Plotly figures: plain dictionaries of `data` and `layout`, which the page's script hands to plotly.js.

Text from records is escaped here for Plotly, which reads tags such as `<a href>` in its texts.
"""

from __future__ import annotations

import math
from typing import Any

from foreprune.report.charts import Axis, Chart, Panel, Series
from foreprune.report.colours import translucent

_INK = "#1d2430"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def plotly_source() -> str:
    """The source text of plotly.js, to be embedded.

    Raises:
        ImportError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ImportError("the interactive page needs plotly: pip install 'foreprune[interactive]'") from error
    return str(get_plotlyjs())


def escape(text: str) -> str:
    """Make text safe inside Plotly's pseudo-HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def panel_figures(panel: Panel) -> list[dict[str, Any]]:
    """One entry per view: its `label` and its `charts`, each a Plotly figure as plain JSON values."""
    return [{"label": view.label, "charts": [figure(chart) for chart in view.charts]} for view in panel.views]


def figure(chart: Chart) -> dict[str, Any]:
    """One chart as `{"data": [...], "layout": {...}}`; each trace carries its label in `legendgroup`."""
    data = []
    for series in sorted(chart.series, key=lambda series: not series.reference):
        data += _traces(series)
    layout = {
        "font": {"family": _FONT, "size": 13, "color": _INK},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "margin": {"l": 56, "r": 14, "t": 30, "b": 48},
        "height": 400 if chart.x.slanted else 360,
        "showlegend": False,
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "bgcolor": "#ffffff", "font": {"color": _INK, "size": 13}, "namelength": 0},
        "xaxis": _axis(chart.x),
        "yaxis": _axis(chart.y),
    }
    return {"data": data, "layout": layout}


def _traces(series: Series) -> list[dict[str, Any]]:
    common = {"type": "scatter", "legendgroup": series.label, "showlegend": False}
    known = [(x, band) for x, band in zip(series.x, series.band, strict=True) if band] if series.band else []
    traces: list[dict[str, Any]] = []
    if len(known) > 1:
        outline = [(x, band[1]) for x, band in known] + [(x, band[0]) for x, band in reversed(known)]
        traces.append(
            common
            | {
                "mode": "lines",
                "x": [x for x, _ in outline],
                "y": [y for _, y in outline],
                "fill": "toself",
                "fillcolor": translucent(series.style.colour, 0.13),
                "line": {"width": 0},
                "hoverinfo": "skip",
            }
        )
    markers = series.style.marker is not None
    line: dict[str, Any] = common | {
        "name": escape(series.label),
        "mode": "lines+markers" if markers else "lines",
        "x": list(series.x),
        "y": list(series.y),
        "line": {"color": series.style.colour, "dash": series.style.dash, "width": 2},
        "text": [wrapped(escape(note)) for note in series.notes],
        "hoverinfo": "text" if series.notes else "x+y",
    }
    if markers:
        line["marker"] = {
            "color": series.style.colour,
            "symbol": series.style.marker,
            "size": 5 if len(series.x) > 12 else 8,
        }
    if len(known) == 1 and len(series.x) == 1:
        low, high = known[0][1]
        line["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [high - series.y[0]],
            "arrayminus": [series.y[0] - low],
            "color": series.style.colour,
            "thickness": 1.5,
        }
    return [*traces, line]


def wrapped(text: str, *, width: int = 44) -> str:
    """Break a hover text at spaces into lines of about `width` characters, so that it fits on a phone."""
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(lines)


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
