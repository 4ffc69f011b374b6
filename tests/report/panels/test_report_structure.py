from __future__ import annotations

import io
import statistics

from rich.console import Console

from foreprune.records import Experiment, Record
from foreprune.report.panels.structure import structure, structure_table
from foreprune.report.sections import sections


def record(method: str, density: float, seed: int, **analysis: float | None) -> Record:
    experiment = Experiment(data="digits", model="m", method=method, density=density, seed=seed)
    return Record(
        id=experiment.id,
        experiment=experiment,
        status="finished",
        top1=0.9,
        kept=round(1000 * density),
        total=1000,
        analysis=analysis,
    )


def records() -> list[Record]:
    return [
        record("snip", 0.1, 0, effective_density=0.09, width=0.5, log10_path_kernel_trace=2.0),
        record("snip", 0.1, 1, effective_density=0.08, width=0.7, log10_path_kernel_trace=3.0),
        record("phew", 0.1, 0, effective_density=0.1, width=1.0, log10_path_kernel_trace=None),
        record("dense", 1.0, 0, effective_density=1.0, width=1.0, log10_path_kernel_trace=9.0),
    ]


def test_panel_shows_means_over_seeds_in_axis_units() -> None:
    (section,) = sections(records())
    panel = structure(section)
    assert panel is not None
    effective, width, trace = panel.views[0].charts
    by_label = [{line.label: line for line in chart.series} for chart in (effective, width, trace)]
    assert by_label[0]["snip"].y == (statistics.mean([90.0, 80.0]),)
    assert by_label[1]["snip"].y == (statistics.mean([50.0, 70.0]),)
    spread = statistics.stdev([2.0, 3.0])
    assert by_label[2]["snip"].band == ((2.5 - spread, 2.5 + spread),)
    assert by_label[0]["phew"].band == (None,)
    assert "phew" not in by_label[2], "a missing trace was drawn"
    assert all("dense" not in labels for labels in by_label)


def test_table_has_a_row_for_each_method_and_density() -> None:
    (table,) = structure_table(records())
    console = Console(width=80, file=io.StringIO())
    console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert table.row_count == 2
    assert "85.00 ± 7.07" in text
    assert "2.50 ± 0.71" in text
    assert "100.00" in text


def test_records_without_analysis_have_neither() -> None:
    bare = [record("snip", 0.1, 0)]
    (section,) = sections(bare)
    assert structure(section) is None
    assert structure_table(bare) == []
