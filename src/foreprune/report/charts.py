"""What a panel is: plain frozen values, drawn alike by `figures` (PNG, SVG) and `interactive` (HTML).

A new panel is one function from a section to a `Panel`, registered with `@panel("its-name")` in `panels.py`:

    @panel("seconds")
    def seconds(section: Section) -> Panel | None:
        '''Seconds spent pruning, per method.'''
        ...

Everything else (page, image files, legends, colours, the density selector) follows from the value it returns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from foreprune.report.colours import Style
from foreprune.report.tables import Section


@dataclass(frozen=True)
class Series:
    """One line: `x`, `y` and, where known, the band `low`..`high`, all of one length; `notes` are the texts on hover.

    `x` and `y` are in axis units. A `reference` is drawn behind the others, dashed and without markers. `band` is empty
    or holds one `(low, high)` per point, `None` where the spread is unknown.
    """

    label: str
    style: Style
    x: tuple[float, ...]
    y: tuple[float, ...]
    band: tuple[tuple[float, float] | None, ...] = ()
    notes: tuple[str, ...] = ()
    reference: bool = False

    def __post_init__(self) -> None:
        sizes = {len(self.x), len(self.y), len(self.band or self.x), len(self.notes or self.x)}
        if len(sizes) > 1:
            raise ValueError(
                f"series {self.label!r}: x, y, band and notes must be of one length, not "
                f"{len(self.x)}, {len(self.y)}, {len(self.band)} and {len(self.notes)}; leave unknown ones out"
            )


@dataclass(frozen=True)
class Axis:
    """One axis. `ticks` are `(position, text)`, the renderer's own where empty; `limits` are in axis units."""

    label: str
    scale: Literal["linear", "log"] = "linear"
    ticks: tuple[tuple[float, str], ...] = ()
    limits: tuple[float, float] | None = None
    slanted: bool = False


@dataclass(frozen=True)
class Chart:
    """One pair of axes with its lines."""

    x: Axis
    y: Axis
    series: tuple[Series, ...]


@dataclass(frozen=True)
class View:
    """One state of a panel, such as one density; `label` names it in the selector and above the small multiples."""

    label: str
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Panel:
    """A titled figure. `description` is its alternative text: what is drawn and how to read it."""

    name: str
    title: str
    description: str
    views: tuple[View, ...]

    def labels(self) -> tuple[tuple[str, Style], ...]:
        """Every line's label and style, once, in drawing order: the legend."""
        seen: dict[str, Style] = {}
        for view in self.views:
            for chart in view.charts:
                for series in chart.series:
                    seen.setdefault(series.label, series.style)
        return tuple(seen.items())


PanelFunction = Callable[[Section], Panel | None]
PANELS: dict[str, PanelFunction] = {}


def panel(name: str) -> Callable[[PanelFunction], PanelFunction]:
    """Register a panel under `name`, which also names its files; panels appear in order of registration.

    The function returns `None` for a section that holds nothing to draw.

    Raises:
        ValueError: the name is taken, or not of lower-case letters, digits and dashes.
    """
    if name in PANELS:
        raise ValueError(f"there is a panel {name!r} already; choose another name (taken: {', '.join(PANELS)})")
    if not name or not all(mark.isascii() and (mark.islower() or mark.isdigit() or mark == "-") for mark in name):
        raise ValueError(
            f"a panel's name is of lower-case letters, digits and dashes, such as 'layer-density', not {name!r}"
        )

    def register(function: PanelFunction) -> PanelFunction:
        PANELS[name] = function
        return function

    return register


def build_panels(section: Section) -> tuple[Panel, ...]:
    """Every registered panel that has something to draw for `section`."""
    import foreprune.report.panels  # registers the built-in panels
    import foreprune.report.structure  # noqa: F401

    drawn = (function(section) for function in PANELS.values())
    return tuple(found for found in drawn if found is not None)
