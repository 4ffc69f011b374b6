"""`foreprune methods`: what there is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import tyro

from foreprune.ablations import Ablation, list_ablations
from foreprune.cli.consoles import screen
from foreprune.procedures import list_procedures
from foreprune.training.recipes import RECIPES

# what an ablation changes, for a sentence with its words
_SUBJECTS = {"masks": "The masks are", "weights": "The weights are", "method": "The scores are"}


@dataclass(frozen=True)
class Methods:
    """List methods, procedures and ablations: what each does, needs and comes from.

    With names: formula, settings, and what the authors' code does differently.

      foreprune methods
      foreprune methods grasp ltr
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """methods to describe in full"""
    recipes: bool = False
    """list the training recipes instead"""

    def run(self) -> int:
        if self.recipes:
            if self.names:
                raise ValueError(f"--recipes lists all recipes; leave out {' '.join(self.names)}, or --recipes")
            _print_recipes()
            return 0
        from foreprune.methods import get_method, list_methods

        for name in self.names:
            found = get_method(name)
            paragraphs = [" ".join(part.split()) for part in found.doc.split("\n\n")[1:]]
            screen.print("\n\n".join([str(found), *paragraphs]) + "\n", markup=False, highlight=False)
        if not self.names:
            screen.print("Methods: prune a network as it is, at initialization or after some steps", style="bold")
            _print_entries(
                (found.name, found.summary, found.requirements, found.settings, found.paper) for found in list_methods()
            )
            screen.print("\nProcedures: prune after training or during it; for compare and sweep", style="bold")
            _print_entries(
                (found.name, found.summary, "a training", found.settings, found.paper) for found in list_procedures()
            )
            screen.print("\nAblations: change what a method gave; for compare --ablations", style="bold")
            _print_entries(
                (found.name, f"{_SUBJECTS[found.changes]} {found.words}.", _value(found), {}, found.paper)
                for found in list_ablations()
            )
        return 0


def _value(ablation: Ablation) -> str:
    return f"a value, {ablation.meaning}: {ablation.name}:0.5" if ablation.value else ""


def _print_entries(entries: Iterable[tuple[str, str, str, Mapping[str, object], str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for name, text, needs, values, paper in entries:
        settings = ", ".join(f"{key}={value}" for key, value in values.items())
        facts = [*([f"needs {needs}"] if needs else []), *([settings] if settings else []), paper]
        table.add_row(name, Text.assemble(text, "\n", ("; ".join(facts), "dim")))
    screen.print(table)


def _print_recipes() -> None:
    from foreprune.training.recipes import SOURCES

    for_each = "{0.epochs} epochs, batches of {0.batch_size}, {0.optimizer}, lr {0.lr:g}"
    _print_entries((name, for_each.format(value), "", {}, SOURCES[name]) for name, value in RECIPES.items())
