"""`Analysis` as a rich table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group

    from foreprune.analysis.analyzed import Analysis


def table(analysis: Analysis) -> Group:
    """A summary, one line for each layer, and the notes."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    summary = Table(box=None, pad_edge=False, show_header=False)
    for name, value in _summary(analysis):
        summary.add_row(Text(name, style="bold"), Text(value))
    layers = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("layer", "shape"):
        layers.add_column(column)
    for column in ("kept density", "effective", "units fed", "connected", "MACs"):
        layers.add_column(column, justify="right")
    for name, density in analysis.layer_densities.items():
        width, macs = analysis.widths[name], analysis.layer_macs.get(name)
        reached = None if analysis.effective_layer_densities is None else analysis.effective_layer_densities[name]
        layers.add_row(
            Text(name),
            "x".join(map(str, analysis.shapes[name])),
            f"{density:.4f}",
            "-" if reached is None else f"{reached:.4f}",
            f"{width.fed}/{width.units}",
            "-" if width.connected is None else f"{width.connected}/{width.units}",
            "-" if macs is None else f"{macs.macs:,}",
            style="red" if name in analysis.dead_layers else None,
        )
    notes = [Text(f"note: {note}", style="yellow") for note in analysis.notes]
    return Group(summary, Text(), layers, *notes)


def _summary(analysis: Analysis) -> list[tuple[str, str]]:
    kept = f"{analysis.kept:,} of {analysis.total:,} weights"
    rows = [
        ("density", f"{analysis.density:.6g} (sparsity {analysis.sparsity:.6g}, {kept})"),
        ("effective density", "-" if analysis.effective_density is None else f"{analysis.effective_density:.6g}"),
        ("dead layers", f"{len(analysis.dead_layers)} of {len(analysis.widths)}" + _names(analysis.dead_layers)),
        ("collapsed units", f"{analysis.units_by_sparsity.get(1.0, math.nan):.2%}"),
        ("paths", f"{analysis.paths:,}" if analysis.paths is not None else _power(analysis.log10_paths)),
        ("path norm", _quantity(analysis.path_norm, analysis.log10_path_norm)),
        ("SynFlow objective", _quantity(analysis.synflow, analysis.log10_synflow)),
        ("path-kernel trace", _quantity(analysis.path_kernel_trace, analysis.log10_path_kernel_trace)),
        ("multiply-adds", f"{analysis.macs:,} of {analysis.dense_macs:,}"),
        ("prunable", f"{analysis.total:,} of {analysis.parameters:,} parameters ({analysis.prunable_share:.2%})"),
        ("parameters", f"{analysis.kept_parameters:,} of {analysis.parameters:,}"),
        ("bytes (values)", f"{analysis.bytes:,} of {analysis.dense_bytes:,}"),
    ]
    if analysis.ntk_trace is not None:
        rows.append(("tangent-kernel trace", f"{analysis.ntk_trace:.6g} on {analysis.ntk_samples} samples"))
    if analysis.ntk_largest is not None and analysis.ntk_condition_number is not None:
        rows.append(("  largest eigenvalue", f"{analysis.ntk_largest:.6g}"))
        rows.append(("  condition number", f"{analysis.ntk_condition_number:.6g}"))
    return rows


def _names(names: tuple[str, ...]) -> str:
    return f": {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" if names else ""


def _power(log10: float | None) -> str:
    return "-" if log10 is None else f"10^{log10:.2f}"


def _quantity(value: float | None, log10: float | None) -> str:
    return _power(log10) if value is None else f"{value:.6g}"
