"""What several commands share: the consoles, the training arguments, a line about the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from foreprune.experiments.plan import shortened
from foreprune.training.recipes import Recipe, default_recipe, recipe

Device = Literal["auto", "cpu", "cuda"]
screen = Console()
errors = Console(stderr=True)


@dataclass(frozen=True)
class Training:
    """How networks are trained. Without anything, the recipe that suits data and model."""

    recipe: str | None = None
    """a recipe of the papers by name; `foreprune methods --recipes` lists them"""
    epochs: int | None = None
    """passes over the training data; milestones move in proportion"""
    batch_size: int | None = None
    """images per step"""
    lr: float | None = None
    """learning rate"""

    def resolve(self, data: str, model: str) -> Recipe:
        """The recipe these arguments mean for `model` on `data`."""
        chosen = recipe(self.recipe) if self.recipe else default_recipe(data, model)
        given = {"batch_size": self.batch_size, "lr": self.lr}
        settings = chosen.model_dump() | {key: value for key, value in given.items() if value is not None}
        chosen = Recipe.model_validate(settings)
        return chosen if self.epochs is None else shortened(chosen, self.epochs)


def print_report(page: Path) -> None:
    """Say where the report is."""
    screen.print(f"report: {page.resolve()}", highlight=False, soft_wrap=True)
