"""What a panel is: plain frozen values, drawn alike by `figures` (PNG, SVG) and `interactive` (HTML)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from foreprune.report.colors import Style


@dataclass(frozen=True)
class Series:
    """One line: `x`, `y` and, where known, the band `low`..`high`, all of one length; `notes` are the texts on hover.

    `x` and `y` are in axis units. A `reference` is drawn behind the others, dashed and without markers. `band` is empty
    or holds one `(low, high)` per point, `None` where the spread is unknown. `joined` is false for loose points.
    """

    label: str
    style: Style
    x: tuple[float, ...]
    y: tuple[float, ...]
    band: tuple[tuple[float, float] | None, ...] = ()
    notes: tuple[str, ...] = ()
    reference: bool = False
    joined: bool = True

    def __post_init__(self) -> None:
        sizes = {len(self.x), len(self.y), len(self.band or self.x), len(self.notes or self.x)}
        if len(sizes) > 1:
            raise ValueError(
                f"series {self.label!r}: x, y, band and notes must be of one length, not "
                f"{len(self.x)}, {len(self.y)}, {len(self.band)} and {len(self.notes)}; leave unknown ones out"
            )

    def known_band(self) -> list[tuple[float, tuple[float, float]]]:
        """Places on the x axis where the spread is known, with the ends of the band."""
        return [(x, ends) for x, ends in zip(self.x, self.band, strict=False) if ends]


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
    """One pair of axes with its lines. `title` tells it from its neighbors; it is hidden with the method so named."""

    x: Axis
    y: Axis
    series: tuple[Series, ...]
    title: str = ""


@dataclass(frozen=True)
class Heatmap:
    """A square of numbers, a row and a column for each of `names`, colored from 0 to `limit`.

    `values[i][j]` belongs to row i (from the top) and column j; `None` leaves the cell empty. `notes` are the texts on
    hover, of the same shape.
    """

    title: str
    names: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    notes: tuple[tuple[str, ...], ...]
    limit: float

    def __post_init__(self) -> None:
        size = len(self.names)
        for what, rows in (("values", self.values), ("notes", self.notes)):
            if len(rows) != size or any(len(row) != size for row in rows):
                raise ValueError(
                    f"heatmap {self.title!r}: {what} must be {size} rows of {size}, one for each name, not "
                    f"{len(rows)} of {sorted({len(row) for row in rows})}"
                )

    def texts(self) -> tuple[tuple[str, ...], ...]:
        """Every value as it stands in its cell: two decimals, or two digits where all are small; nothing for `None`."""
        form = ".2f" if self.limit >= 0.1 else ".2g"
        return tuple(tuple("" if value is None else format(value, form) for value in row) for row in self.values)


@dataclass(frozen=True)
class View:
    """One state of a panel, such as one density; `label` names it in the selector and above the small multiples.

    A `secondary` view can be chosen on the page, but is left out of the image files.
    """

    label: str
    charts: tuple[Chart | Heatmap, ...]
    secondary: bool = False


@dataclass(frozen=True)
class Panel:
    """A titled figure. `description` is its alternative text: what is drawn and how to read it.

    `notes` are facts to read beside it, such as a fit's numbers. A panel that is not `shown` waits on the page until it
    is switched on; `opens` is the place among the main views of the one that is chosen at first. Without views only the
    notes are shown.
    """

    name: str
    title: str
    description: str
    views: tuple[View, ...]
    notes: tuple[str, ...] = ()
    shown: bool = True
    opens: int = -1

    @property
    def chosen(self) -> int:
        """The place among all views of the one that is chosen at first."""
        main = [at for at, view in enumerate(self.views) if not view.secondary]
        return main[self.opens] if main else 0

    @property
    def across(self) -> int:
        """How many charts stand side by side in the widest view."""
        return max((len(view.charts) for view in self.views), default=0)

    def labels(self) -> tuple[tuple[str, Style], ...]:
        """Every line's label and style, once, in drawing order: the legend."""
        seen: dict[str, Style] = {}
        for view in self.views:
            for chart in view.charts:
                for series in chart.series if isinstance(chart, Chart) else ():
                    seen.setdefault(series.label, series.style)
        return tuple(seen.items())
