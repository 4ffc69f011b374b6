"""Arguments that several commands take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from foreprune.experiments import shortened
from foreprune.training.recipes import Recipe, default_recipe, recipe

Device = Literal["auto", "cpu", "cuda"]


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
    precision: Literal["float32", "bfloat16", "float16"] | None = None
    """of activations in training; weights stay in float32"""

    def resolve(self, data: str, model: str) -> Recipe:
        """The recipe these arguments mean for `model` on `data`."""
        chosen = recipe(self.recipe) if self.recipe else default_recipe(data, model)
        given: dict[str, Any] = {"batch_size": self.batch_size, "lr": self.lr, "precision": self.precision}
        chosen = replace(chosen, **{key: value for key, value in given.items() if value is not None})
        return chosen if self.epochs is None else shortened(chosen, self.epochs)


@dataclass(frozen=True)
class Execution:
    """Where the runs are carried out, and how many at a time. Each has a process of its own."""

    data_dir: Path | None = None
    """folder with the data; default: the environment variable FOREPRUNE_DATA"""
    device: Device = "auto"
    """where to run; cuda takes every GPU there is"""
    jobs: int = 0
    """runs at a time; 0 for one per core or GPU"""
    retries: int = 1
    """how often a run whose process died (killed, out of memory) is started again"""
    executor: Literal["local", "ray"] = "local"
    """on this machine, or on a Ray cluster that sees the output folder under the same path"""
    address: str | None = None
    """of the Ray cluster, for --executor ray; default: start one here"""
    dry_run: bool = False
    """only say what would be run; writes nothing"""
