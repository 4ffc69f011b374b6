"""`foreprune methods`: what there is."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from foreprune.cli.shared import screen
from foreprune.training.recipes import RECIPES


@dataclass(frozen=True)
class Methods:
    """List the pruning methods: what each keeps, where it comes from, what it needs.

    With names, everything about those: formula, settings, what the authors' code does differently.
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """methods to describe in full"""
    recipes: bool = False
    """list the training recipes instead"""

    def run(self) -> int:
        if self.recipes:
            _print_recipes()
            return 0
        from foreprune.methods import method, methods

        for name in self.names:
            found = method(name)
            paragraphs = [" ".join(part.split()) for part in found.doc.split("\n\n")[1:]]
            screen.print("\n\n".join([str(found), *paragraphs]) + "\n", markup=False, highlight=False)
        if not self.names:
            from rich.table import Table

            table = Table("method", "needs", "settings", "paper", box=None, pad_edge=False, header_style="bold")
            for found in methods():
                needs = "labels" if "labels" in found.needs else "input shape" if found.needs else "-"
                settings = ", ".join(f"{key}={value}" for key, value in found.hyper.items()) or "-"
                table.add_row(found.name, needs, settings, found.paper)
            screen.print(table, markup=False)
        return 0


def _print_recipes() -> None:
    from rich.table import Table

    from foreprune.training.recipes import SOURCES

    table = Table(
        "recipe", "epochs", "batch", "optimizer", "lr", "source", box=None, pad_edge=False, header_style="bold"
    )
    for name, value in RECIPES.items():
        table.add_row(name, str(value.epochs), str(value.batch_size), value.optimizer, f"{value.lr:g}", SOURCES[name])
    screen.print(table, markup=False)
