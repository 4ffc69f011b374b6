"""`python -m benchmarks speed [PART ...]`: the table of docs/performance.md, for this machine."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import grasp, machine, ntk_sap, phew, selection, snip, startup, synflow, training
from benchmarks.timing import Row

PARTS = {
    "snip": snip.rows,
    "synflow": synflow.rows,
    "grasp": grasp.rows,
    "ntk-sap": ntk_sap.rows,
    "phew": phew.rows,
    "selection": selection.rows,
    "training": training.rows,
    "startup": startup.rows,
    "demo": startup.demo_rows,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks speed", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    chosen = parser.parse_args(arguments)
    if odd := [name for name in chosen.parts if name not in PARTS]:
        parser.error(f"no part {odd[0]!r}; there are {', '.join(PARTS)}")
    console = Console()
    console.print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, "
        f"{machine.flops_per_second() / 1e9:.0f} GFLOP/s, {machine.bytes_per_second() / 1e9:.0f} GB/s; "
        "median of alternating runs [first to third quartile]",
        highlight=False,
        markup=False,
    )
    rows: list[Row] = []
    for name in chosen.parts or PARTS:
        for row in PARTS[name]():
            rows.append(row)
            console.print(
                f"{row.claim}: {row.ratio:.3g} {'' if row.met else '(MISSED) '}{row.agreement}", soft_wrap=True
            )
    console.print(_table(rows), markup=False)
    if chosen.markdown:
        chosen.markdown.write_text(_markdown(rows))


_COLUMNS = ("work", "against", "ratio", "target", "ms", "theirs", "bound", "MB", "theirs")


def _cells(row: Row) -> tuple[str, ...]:
    spread = f"{row.ratio:.3g} [{row.low:.3g}-{row.high:.3g}]"
    numbers = (row.ours_ms, row.reference_ms, row.bound_ms, row.ours_mb, row.reference_mb)
    return (row.claim, row.reference, spread, f"{row.target:.3g}", *("-" if n is None else f"{n:.3g}" for n in numbers))


def _table(rows: list[Row]) -> Table:
    table = Table(*_COLUMNS, "", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*_cells(row), "met" if row.met else "MISSED")
    return table


def _markdown(rows: list[Row]) -> str:
    lines = [" | ".join(_COLUMNS), " | ".join(["---", "---", *("---:" for _ in _COLUMNS[2:])])]
    for row in rows:
        cells = _cells(row)
        lines.append(" | ".join((*cells[:2], cells[2] if row.met else f"**{cells[2]}**", *cells[3:])))
    agreements = [f"* {row.claim}: {row.agreement}" for row in rows if row.agreement]
    return "\n".join([*(f"| {line} |" for line in lines), "", *agreements, ""])
