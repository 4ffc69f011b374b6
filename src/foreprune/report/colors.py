"""One color and one marker per method, the same in every panel, table and file.

The eight colors reach a contrast of 3:1 on white and stay apart for readers with protanopia, deuteranopia or
tritanopia (tested); markers tell methods apart where a color has to serve twice or the page is printed in gray.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from foreprune.procedures import registry

COLORS = ("#173F81", "#BA0D01", "#1F7265", "#D066B1", "#773AC1", "#55243E", "#979836", "#3480FC")
MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "pentagon", "star")
DASHES = ("solid", "dot", "dashdot", "longdash")
DENSE = "dense"
DENSE_COLOR = "#111111"

# (color, marker) of the methods people compare most; the order is the order of legends and rows.
_KNOWN = {
    "random": (6, 0),
    "uniform": (6, 5),
    "er": (0, 5),
    "erk": (0, 1),
    "magnitude": (5, 1),
    "snip": (1, 2),
    "iterative-snip": (1, 7),
    "force": (1, 5),
    "grasp": (7, 3),
    "synflow": (2, 4),
    "synflow-dist": (2, 3),
    "synflow-l2": (0, 0),
    "synflow-l2-dist": (0, 6),
    "phew": (3, 5),
    "ntk-sap": (4, 6),
    "prospr": (5, 3),
    "px": (3, 0),
}
# Markers of the procedures people compare most, in their order.
_PROCEDURES = {"magnitude-after": 1, "ltr": 7, "imp": 3, "gmp": 5}
# what was done to a pruned network -> (color, marker, dash)
_ABLATIONS = {
    "original": (0, 0, 0),
    "shuffled": (6, 1, 0),
    "reinitialized": (2, 2, 0),
    "reinitialized per layer": (2, 3, 1),
    "reinitialized per neuron": (2, 6, 2),
    "inverted": (1, 4, 0),
}


@dataclass(frozen=True)
class Style:
    """How a method is drawn: `color` is `#RRGGBB`, `marker` one of `MARKERS` (none for the dense reference)."""

    color: str
    marker: str | None
    dash: str = "solid"


def prunes_later(method: str) -> bool:
    """Whether `method` is a procedure, which looks at weights that were trained.

    Such methods are upper references, in the dense network's color, after those that prune before training.
    """
    return method in registry()


def style_of(method: str, *, variant: int = 0) -> Style:
    """The style of `method`; its variants (other settings, counted from 0) share color and marker and differ in dash.

    A method without an entry of its own gets a style from a hash of its name: the same one in every report.
    """
    if method == DENSE:
        return Style(color=DENSE_COLOR, marker=None, dash="dash")
    digest = hashlib.sha256(method.encode()).digest()
    if prunes_later(method):
        dash = DASHES[(variant + DASHES.index("longdash")) % len(DASHES)]
        return Style(color=DENSE_COLOR, marker=MARKERS[_PROCEDURES.get(method, digest[1] % len(MARKERS))], dash=dash)
    color, marker = _KNOWN.get(method, (digest[0] % len(COLORS), digest[1] % len(MARKERS)))
    return Style(color=COLORS[color], marker=MARKERS[marker], dash=DASHES[variant % len(DASHES)])


def method_order(method: str) -> tuple[int, str]:
    """Sort key of methods: dense, the known ones with baselines first, others by name, then procedures in this way."""
    if method == DENSE:
        return (-1, method)
    later = prunes_later(method)
    known = [*_PROCEDURES] if later else [*_KNOWN]
    place = known.index(method) if method in known else len(known)
    return (place + later * (len(_KNOWN) + 1), method)


def ablation_styles(words: Iterable[str]) -> dict[str, Style]:
    """The style of each ablation, such as "shuffled"; those without an entry of their own are told apart by dash."""
    found: dict[str, Style] = {}
    others = itertools.count()
    for each in words:
        color, marker, dash = _ABLATIONS.get(each) or (4, 5, next(others))
        found[each] = Style(color=COLORS[color], marker=MARKERS[marker], dash=DASHES[dash % len(DASHES)])
    return found


def translucent(color: str, alpha: float) -> str:
    """`#RRGGBB` as a CSS `rgba(...)` with the given opacity in [0, 1]."""
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"
