"""`RunContext`: one run with all it stands on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from foreprune.procedures.dense_steps import dense_of
from foreprune.records import Experiment
from foreprune.training.fit import steps_per_epoch
from foreprune.zoo import datasets
from foreprune.zoo.images import Images
from foreprune.zoo.models import create

DENSE = "dense"  # folder below the output folder


@dataclass(frozen=True, eq=False)
class RunContext:
    """One run with all it stands on.

    Attributes:
        experiment: the run.
        data: its data set.
        train: the training images, those of `train_size` only.
        out: output folder.
        device: where to compute.
        snapshots: steps at which a dense training that has to be done saves its weights.
    """

    experiment: Experiment
    data: datasets.DataSet
    train: Images
    out: Path
    device: str
    snapshots: tuple[int, ...] = ()

    @property
    def steps(self) -> int:
        """Optimizer steps of one training by the recipe."""
        recipe = self.experiment.recipe
        return recipe.epochs * steps_per_epoch(self.train, recipe)

    @property
    def dense_folder(self) -> Path:
        """Where the dense training keeps what it shares."""
        return self.out / DENSE / dense_of(self.experiment).id

    def network(self) -> nn.Module:
        """The network at its initial weights, on its device."""
        of, data = self.experiment, self.data
        model = create(of.model, input_shape=data.shape, classes=data.classes, init=of.init, seed=of.seed)
        return model.to(self.device)
