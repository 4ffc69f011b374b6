"""Results over seeds as tables, of the console and of Markdown files.

Spreads are over seeds: the mean and the sample standard deviation (n - 1 in the denominator) of the *last* epoch's test
accuracy, or test loss where there are no classes. Nothing here needs more than the core dependencies.
"""

from __future__ import annotations

import html
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foreprune.records import Record
from foreprune.report.colors import DENSE
from foreprune.report.measures import MEASURES, Measure, Metric, density_texts
from foreprune.report.sections import Section, sections

if TYPE_CHECKING:
    from rich.table import Table

_GAP = 3  # between two columns of a Rich table: padding on both sides and the separator


@dataclass(frozen=True)
class Grid:
    """A section's results as text: a row per method, a column per density, the dense reference in every column."""

    title: str
    caption: str
    densities: tuple[float, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    notes: tuple[str, ...]


def grids(section: Section, *, metric: Metric = "top1") -> tuple[Grid, ...]:
    """The tables of one section: its original runs and, if there are any, its ablated ones.

    A section without classes shows its test loss whatever the metric. Runs that were not trained have no table.
    """
    measure = section.measure if section.measure.key == "test_loss" else MEASURES[metric]
    found = [_grid(section, measure, ablated=False)]
    if section.methods(ablated=True):
        found.append(_grid(section, measure, ablated=True))
    nothing = measure.text(None)
    return tuple(grid for grid in found if grid.notes or any(set(cells) != {nothing} for _, cells in grid.rows))


def _grid(section: Section, measure: Measure, *, ablated: bool) -> Grid:
    """One table. The caption gives the usual n; cells with another carry a star and a note."""
    rows = section.rows(ablated=ablated)
    densities = tuple(sorted({row.density for row in rows if row.method != DENSE}, reverse=True)) or (1.0,)
    cells = {(row.label, row.density): row.value(measure) for row in rows}
    sizes = [cell.n for cell in cells.values() if cell is not None]
    usual = statistics.mode(sizes) if sizes else 0
    body = []
    for label, method in section.methods(ablated=ablated):
        mine = [cells.get((label, 1.0 if method == DENSE else density)) for density in densities]
        body.append((label, tuple(measure.text(cell) + ("*" if cell and cell.n != usual else "") for cell in mine)))
    notes = []
    for row in rows:
        where, cell = f"{row.label} at density {density_texts(row.density)[0]}", cells[row.label, row.density]
        if cell and cell.n != usual:
            notes.append(f"* {where}: n = {cell.n}")
        if row.failed:
            notes.append(f"{where}: {row.failed} failed")
    caption = f"{measure.name} after the last epoch" + (f" in {measure.unit}" if measure.unit else "")
    if not measure.higher_is_better:
        caption += f" ({measure.sentence})"
    if sizes:
        spread_over_seeds = f"mean ± sample standard deviation over seeds, n = {usual}"
        caption += f": {spread_over_seeds if max(sizes) > 1 else 'one seed'}"
        caption += "" if len(set(sizes)) == 1 else " unless starred"
    if any(row.method == DENSE for row in rows):
        caption += "; dense is the unpruned network (density 1), repeated for comparison"
    return Grid(
        title=f"{section.title}: ablations" if ablated else section.title,
        caption=caption,
        densities=densities,
        rows=tuple(body),
        notes=tuple(notes),
    )


def _check_metric(metric: str) -> None:
    if metric not in MEASURES:
        raise ValueError(f"metric must be 'top1', 'top5' or 'test_loss', not {metric!r}")


def console_table(records: Iterable[Record], *, metric: Metric = "top1", width: int = 80) -> list[Table]:
    """Rich tables of mean ± std, methods by densities, one or more per section; ablated runs in tables of their own.

    A section with more densities than fit in `width` characters continues in further tables. The dense reference is the
    first row, repeated under every density for comparison. Failed runs are counted and named in the last caption.

    Raises:
        ValueError: `metric` is not "top1", "top5" or "test_loss".
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    _check_metric(metric)
    tables = []
    for found in (grid for section in sections(records) for grid in grids(section, metric=metric)):
        cell = max((len(text) for _, cells in found.rows for text in cells), default=5)
        cell = max(cell, *(len(text) for density in found.densities for text in density_texts(density)))
        longest = max((len(name) for name, _ in found.rows), default=0)
        first = max(len("sparsity"), min(longest, 28, width - 2 - 2 * (cell + _GAP)))
        per_table = max(1, (width - 2 - first) // (cell + _GAP))
        for start in range(0, len(found.densities), per_table):
            chosen = range(start, min(start + per_table, len(found.densities)))
            last = chosen.stop == len(found.densities)
            table = Table(
                title=Text(found.title if start == 0 else f"{found.title}, continued", style="bold"),
                caption=Text("\n".join([f"{found.caption}.", *found.notes]) if last else "continued below"),
                caption_justify="left",
                box=box.SIMPLE_HEAD,
                pad_edge=False,
            )
            table.add_column(Text("density\nsparsity"), width=first, overflow="fold")
            for at in chosen:
                table.add_column(Text("\n".join(density_texts(found.densities[at]))), justify="right", no_wrap=True)
            for name, cells in found.rows:
                table.add_row(Text(name), *(Text(cells[at]) for at in chosen), style="dim" if name == DENSE else None)
            tables.append(table)
    return tables


def markdown_table(records: Iterable[Record], *, metric: Metric = "top1") -> str:
    """The same tables in GitHub's Markdown, one per section, each under a heading; text from records is escaped.

    Raises:
        ValueError: `metric` is not "top1", "top5" or "test_loss".
    """
    _check_metric(metric)
    parts = []
    for found in (grid for section in sections(records) for grid in grids(section, metric=metric)):
        heads = ["method", *("<br>".join(density_texts(density)) for density in found.densities)]
        lines = [
            f"### {markdown(found.title)}",
            "",
            f"{found.caption[0].upper()}{found.caption[1:]}. Columns: density, sparsity.",
            "",
        ]
        lines += [f"| {' | '.join(heads)} |", f"|---|{'---:|' * len(found.densities)}"]
        lines += [f"| {markdown(name)} | {' | '.join(map(markdown, cells))} |" for name, cells in found.rows]
        if found.notes:
            lines += ["", *(f"- {markdown(note)}" for note in found.notes)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def markdown(text: str) -> str:
    """Escape what Markdown or HTML inside Markdown would interpret."""
    return "".join(f"\\{mark}" if mark in "\\`*_[]|#~!$" else mark for mark in html.escape(text, quote=False))
