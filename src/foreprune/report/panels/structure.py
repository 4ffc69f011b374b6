"""What pruning leaves of the network: effective density, width and path-kernel trace, as a panel and as a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from foreprune.analysis.statistics import Spread, spread
from foreprune.records import Record
from foreprune.report.charts import Axis, Chart, Panel, View
from foreprune.report.colors import DENSE
from foreprune.report.lines import Point, density_axis, mean_line
from foreprune.report.measures import density_texts, plus_minus
from foreprune.report.panels import panel
from foreprune.report.sections import Section, sections

if TYPE_CHECKING:
    from rich.table import Table

# name in Record.analysis -> (axis label, factor, column head)
_QUANTITIES = {
    "effective_density": ("effective of kept weights (%)", 100.0, "effective\n%"),
    "width": ("connected units (%)", 100.0, "width\n%"),
    "log10_path_kernel_trace": ("log10 path-kernel trace", 1.0, "log10\ntrace"),
}


def _over_seeds(runs: Iterable[Record], quantity: str) -> Spread | None:
    """A number of the runs' analyses in the units of its axis; effective density relative to the density kept."""
    factor, values = _QUANTITIES[quantity][1], []
    for run in runs:
        value = run.analysis.get(quantity)
        if value is not None and quantity == "effective_density":
            value = factor * value / run.density if run.density else None
        elif value is not None:
            value = factor * value
        values.append(value)
    return spread(values)


@panel("structure")
def structure(section: Section) -> Panel:
    """Effective density, remaining width and path-kernel trace of the pruned initial network against density."""
    densities = sorted(section.densities())
    charts = []
    for quantity, (label, _, _) in _QUANTITIES.items():
        points: dict[str, list[Point]] = {name: [] for name in section.lines()}
        for density in densities:
            for name, runs in section.pruned(density).items():
                value = _over_seeds(runs, quantity)
                if value is not None:
                    where = f"{name}, density {density_texts(density)[0]}"
                    points[name].append((density, value, f"{where}: {plus_minus(value)}, n = {value.n}"))
        series = tuple(mean_line(name, section.styles[name], found) for name, found in points.items() if found)
        if series:
            charts.append(Chart(x=density_axis(densities), y=Axis(label=label), series=series))
    return Panel(
        name="structure",
        title="What is left of the network",
        description=(
            "The pruned network before training, against density: the share of kept weights that lie on a path from "
            "input to output (effective); the share of units on such a path (connected), mean over layers; and the "
            "trace of the path kernel. Means over seeds with a band of one standard deviation."
        ),
        views=(View(label="", charts=tuple(charts)),),
    )


def structure_table(records: Iterable[Record]) -> list[Table]:
    """Rich tables of the same numbers, a row for each method and density, one table per section; none without any."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    tables = []
    for section in sections(records):
        table = Table(
            title=Text(f"{section.title}: what is left", style="bold"),
            caption="effective: share of kept weights on a path from input to output; width: share of units on one, "
            "mean over layers; trace of the path kernel; before training, mean ± standard deviation over seeds",
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
        )
        table.add_column("method", overflow="fold")
        for head in ("density", *(head for _, _, head in _QUANTITIES.values())):
            table.add_column(head, justify="right", no_wrap=True)
        for label, method in section.methods():
            for density in section.densities() if method != DENSE else ():
                runs = section.finished(label=label, density=density)
                found = [_over_seeds(runs, quantity) for quantity in _QUANTITIES]
                if any(found):
                    texts = (Text(plus_minus(value) if value else "-") for value in found)
                    table.add_row(Text(label), density_texts(density)[0], *texts)
        if table.row_count:
            tables.append(table)
    return tables
