"""Reports of records: tables, figures and one self-contained page. Reads records and mask files only, without torch."""

from foreprune.report.charts import Axis, Chart, Heatmap, Panel, Series, View
from foreprune.report.panels import panel
from foreprune.report.panels.structure import structure_table
from foreprune.report.render import write_report
from foreprune.report.tables import console_table, markdown_table

__all__ = [
    "Axis",
    "Chart",
    "Heatmap",
    "Panel",
    "Series",
    "View",
    "console_table",
    "markdown_table",
    "panel",
    "structure_table",
    "write_report",
]
