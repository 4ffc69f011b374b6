"""Runs summed up on the screen: how many, how much, and what came out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from foreprune.cli.consoles import screen
from foreprune.records import Experiment, Record


def count(number: int, word: str) -> str:
    """ "1 run", "2 runs", "3 densities"."""
    plural = {"density": "densities"}.get(word, f"{word}s")
    return f"{number:,} {word if number == 1 else plural}"


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


def print_tables(records: Sequence[Record]) -> None:
    """Accuracies of the runs that trained, and what masks left of all networks."""
    from foreprune.report import console_table, structure_table

    trained = [record for record in records if record.experiment.recipe.epochs or record.status == "failed"]
    for table in [*console_table(trained, width=screen.width), *structure_table(records), *published_table(records)]:
        screen.print(table)


def published_table(records: Sequence[Record]) -> list[Table]:
    """What papers print for these very runs, with ours beside it; no table where they print nothing."""
    from foreprune.papers.published import beside
    from foreprune.records import row_of

    found = beside(map(row_of, records))
    if not found:
        return []
    table = Table("network", "density", "method", box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.title, table.title_style = "published numbers, in percent", "bold"
    for heading in ("published", "ours", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("within")
    for pair in found:
        number = pair.published
        method = number.method if number.ablation == "none" else f"{number.method}, {number.ablation}"
        verdict = f"{number.within:g}" if pair.agrees else f"[bold]no[/], {pair.difference:+.1f}"
        table.add_row(
            *(number.model, f"{number.density:.3g}", f"{method}: {number.measure}"),
            *(f"{number.value:g}", pair.text, str(pair.ours.n), verdict),
        )
    return [table]


def print_report(page: Path) -> None:
    """Say where the report is."""
    screen.print(f"report: {page.resolve()}", highlight=False, soft_wrap=True)
