"""Amounts in words and tables: how many, how long, how much."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from foreprune.records import Experiment

_YEAR = 365.25 * 86_400
_UNITS = ((60.0, "s", 1.0), (3600.0, "min", 60.0), (48 * 3600.0, "h", 3600.0), (2 * _YEAR, "days", 86_400.0))


def count(number: int, word: str) -> str:
    """ "1 run", "2 runs", "3 densities"."""
    plural = {"density": "densities"}.get(word, f"{word}s")
    return f"{number:,} {word if number == 1 else plural}"


def duration(seconds: float) -> str:
    """ "40 s", "5 min", "3.4 h", "12 days", "15 years"."""
    for limit, unit, size in _UNITS:
        if seconds < limit:
            value = seconds / size
            return f"{value:.1f} {unit}" if unit in ("h", "days") and value < 10 else f"{value:,.0f} {unit}"
    return f"{seconds / _YEAR:,.0f} years"


def flops(number: float) -> str:
    """ "3.1e+18" as "3.1e18"; nothing at all as "-"."""
    return f"{number:.1e}".replace("e+", "e") if number else "-"


def networks_table(experiments: Sequence[Experiment]) -> Table:
    """One line for each network on its data: images, epochs, and how many densities, seeds and runs."""
    groups: dict[tuple[str, str, int, int], list[Experiment]] = {}
    for run in experiments:
        groups.setdefault((run.model, run.data, run.train_size, run.recipe.epochs), []).append(run)
    table = Table("network", "data", "images", box=None, pad_edge=False, header_style="bold")
    for heading in ("epochs", "densities", "seeds", "runs"):
        table.add_column(heading, justify="right")
    table.columns[2].justify = "right"
    for (model, data, size, epochs), runs in groups.items():
        pruned = {run.density for run in runs if run.method != "dense"}
        seeds = {run.seed for run in runs}
        images = f"{size:,}" if size else "all"
        table.add_row(model, data, images, str(epochs), str(len(pruned)), str(len(seeds)), f"{len(runs):,}")
    return table
