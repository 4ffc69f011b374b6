"""What pruning leaves of the network: effective density, width and path-kernel trace, as a panel and as a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from foreprune.records import Record
from foreprune.report.charts import Axis, Chart, Panel, Series, View, panel
from foreprune.report.colors import DENSE
from foreprune.report.measures import Spread, band, density_texts, spread
from foreprune.report.panels import density_axis
from foreprune.report.sections import Section, sections

if TYPE_CHECKING:
    from rich.table import Table

# name in Record.analysis -> (axis label, factor, column head)
_MEASURES = {
    "effective_density": ("effective of kept weights (%)", 100.0, "effective\n%"),
    "width": ("connected units (%)", 100.0, "width\n%"),
    "log10_path_kernel_trace": ("log10 path-kernel trace", 1.0, "log10\ntrace"),
}


def measure(record: Record, name: str) -> float | None:
    """One number of a record's analysis, in the units of its axis; effective density relative to the density kept."""
    value = record.analysis.get(name)
    if value is None:
        return None
    factor = _MEASURES[name][1]
    if name == "effective_density":
        return factor * value / record.density if record.density else None
    return factor * value


@panel("structure")
def structure(section: Section) -> Panel | None:
    """Effective density, remaining width and path-kernel trace of the pruned initial network against density."""
    densities = sorted(section.densities())
    charts = []
    for name, (label, _, _) in _MEASURES.items():
        series = []
        for line in section.lines():
            if line.method == DENSE:
                continue
            points = [(density, _over_seeds(section, line.label, density, name)) for density in densities]
            known = [(density, value) for density, value in points if value is not None]
            series.append(
                Series(
                    label=line.name,
                    style=section.styles[line.name],
                    x=tuple(density for density, _ in known),
                    y=tuple(value.mean for _, value in known),
                    band=tuple(band(value) for _, value in known),
                    notes=tuple(
                        f"{line.name}, density {density_texts(density)[0]}: {_text(value)}, n = {value.n}"
                        for density, value in known
                    ),
                )
            )
        drawn = tuple(line for line in series if line.x)
        if drawn:
            charts.append(Chart(x=density_axis(densities), y=Axis(label=label), series=drawn))
    if not charts:
        return None
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


def _over_seeds(section: Section, label: str, density: float, name: str) -> Spread | None:
    return spread(measure(record, name) for record in section.finished(label=label, density=density))


def _text(value: Spread) -> str:
    return f"{value.mean:.2f}" if value.std is None else f"{value.mean:.2f} ± {value.std:.2f}"


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
        for head in ("density", *(head for _, _, head in _MEASURES.values())):
            table.add_column(head, justify="right", no_wrap=True)
        for label, method in section.methods():
            for density in section.densities() if method != DENSE else ():
                found = [_over_seeds(section, label, density, name) for name in _MEASURES]
                if any(found):
                    texts = (Text(_text(value)) if value else Text("-") for value in found)
                    table.add_row(Text(label), density_texts(density)[0], *texts)
        if table.row_count:
            tables.append(table)
    return tables
