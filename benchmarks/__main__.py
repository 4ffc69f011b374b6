"""`python -m benchmarks [part ...]`: the table of docs/performance.md, for this machine."""

from __future__ import annotations

import platform
import sys

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import ntk_sap, phew, scoring, selection, startup, training

PARTS = {
    "snip": scoring.snip_rows,
    "synflow": scoring.synflow_rows,
    "phew": phew.rows,
    "ntk-sap": ntk_sap.rows,
    "selection": selection.rows,
    "training": training.rows,
    "startup": startup.rows,
}


def main() -> None:
    chosen = sys.argv[1:] or list(PARTS)
    unknown = [name for name in chosen if name not in PARTS]
    if unknown:
        sys.exit(f"no benchmark {unknown[0]!r}; there are {', '.join(PARTS)}")
    console = Console()
    console.print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}; "
        "median of alternating runs [first to third quartile]",
        highlight=False,
    )
    table = Table("claim", "against", "ours ms", "reference ms", "ratio", "target", "", box=None, pad_edge=False)
    for name in chosen:
        for row in PARTS[name]():
            table.add_row(
                row.claim,
                row.reference,
                f"{row.ours_ms:.1f}",
                f"{row.reference_ms:.1f}",
                f"{row.ratio:.2f} [{row.low:.2f}-{row.high:.2f}]",
                f"<= {row.target:g}",
                "met" if row.met else "MISSED",
            )
            console.print(f"{row.claim}: {row.ratio:.2f}", highlight=False)
    console.print(table, markup=False)


if __name__ == "__main__":
    main()
