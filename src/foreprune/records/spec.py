"""What one run is (`Experiment`), what it measured (`Record`), and the stable id that names it.

Nothing here imports torch: the command line and the report read and write these values in milliseconds.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from foreprune.training.history import Epoch
from foreprune.training.recipes import Recipe

__all__ = ["FORMAT", "Ablation", "Epoch", "Experiment", "Layer", "Record", "Scalar"]

FORMAT = "foreprune-record/1"
Scalar = bool | int | float | str | None
Ablation = Literal["none", "shuffle", "reinit", "reinit-layer", "reinit-neuron", "invert", "widen"]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Experiment(_Value):
    """One run: which network, on which data, pruned how, trained how. Its `id` depends on nothing else.

    `density` is the fraction of prunable weights kept; the method `"dense"` is the unpruned reference (density 1).
    `prune_at` trains the dense network for so many optimizer steps first; the pruned network then trains for the whole
    recipe again (Frankle et al. 2021, section 6).
    `ablation` changes the masks or weights after pruning, or inverts the scores (`foreprune.ablations`); `widen` is the
    fraction of the lost units that the ablation of that name brings back.
    `train_size` limits the training images to the first so many of a seeded permutation (0: all).
    """

    data: str
    model: str
    method: str
    density: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    hyper: dict[str, Scalar] = {}
    scope: Literal["global", "local"] = "global"
    prune_at: Annotated[int, Field(ge=0)] = 0
    ablation: Ablation = "none"
    widen: Annotated[float, Field(ge=0, le=1)] = 1.0
    init: str = "kaiming-normal-fan-in"
    samples_per_class: Annotated[int, Field(ge=1)] = 10
    train_size: Annotated[int, Field(ge=0)] = 0
    recipe: Recipe = Recipe()

    @model_validator(mode="after")
    def _dense_is_whole(self) -> Experiment:
        if self.method == "dense" and self.density != 1.0:
            raise ValueError(f"the dense reference keeps every weight: density must be 1, not {self.density:g}")
        if self.method == "dense" and self.ablation != "none":
            raise ValueError(
                f"the dense reference has nothing to ablate: ablation must be 'none', not {self.ablation!r}"
            )
        if self.method == "dense" and self.prune_at:
            raise ValueError(f"the dense reference is never pruned: prune_at must be 0, not {self.prune_at}")
        if self.widen != 1.0 and self.ablation != "widen":
            raise ValueError(f"widen={self.widen:g} belongs to ablation='widen', not {self.ablation!r}")
        return self

    @property
    def sparsity(self) -> float:
        """Fraction of prunable weights removed, `1 - density`."""
        return round(1.0 - self.density, 12)

    @property
    def id(self) -> str:
        """A readable name with a hash of the settings that differ from their defaults.

        Because defaults are left out, adding a setting with a default never changes the id of an earlier run.
        """
        settings = self.model_dump(mode="json", exclude_defaults=True)
        canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:10]
        words = [self.data, self.model, self.method, f"d{self.density:g}", f"s{self.seed}", digest]
        return "_".join(re.sub(r"[^A-Za-z0-9.+-]+", "-", word) for word in words)


class Layer(_Value):
    """One prunable weight tensor: how many entries were kept, and how many of its output units are still fed.

    `unit_densities` counts the output units by the fraction of their incoming weights that was kept: the first entry
    those that keep nothing, then twenty of width 0.05, open below and closed above, so that their sum is `units`. Empty
    in records of earlier versions.
    """

    name: str
    shape: tuple[int, ...]
    kept: int
    total: int
    units: int
    units_alive: int
    unit_densities: tuple[int, ...] = ()


class Record(_Value):
    """What one run measured. `status` is "finished" or "failed"; a failed run carries `error` and no accuracy.

    `top1` and `top5` are test accuracies of the *last* epoch, fractions in [0, 1] (`top5` only with 6 classes or more).
    `analysis` holds the numbers of `foreprune.analyze` on the pruned initial network: effective_density, width (mean
    over layers of the share of units on a kept path), dead_layers, log10_paths, log10_path_norm,
    log10_path_kernel_trace, macs, dense_macs; and two that training adds, weight_distance and output_distance: the
    Euclidean distance of the kept weights, and the mean over up to 1,000 test images of that of the outputs, between
    the first and the last step (Gebhart et al. 2021, figures 1-2). None where they have no meaning or are infinite.
    `warnings` are what the library warned of, such as layers that lost all their weights. `attempts` counts the
    processes that the last sweep started for the run: more than one if some of them died.
    """

    format: Literal["foreprune-record/1"] = "foreprune-record/1"
    id: str
    experiment: Experiment
    status: Literal["finished", "failed"]
    error: str | None = None
    top1: float | None = None
    top5: float | None = None
    kept: int | None = None
    total: int | None = None
    layers: tuple[Layer, ...] = ()
    analysis: dict[str, float | int | None] = {}
    curve: tuple[Epoch, ...] = ()
    seconds_prune: float | None = None
    seconds_train: float | None = None
    warnings: tuple[str, ...] = ()
    attempts: int = 1
    environment: dict[str, Any] = {}

    @property
    def test_loss(self) -> float | None:
        """Test loss of the last epoch, the result where there are no classes to count."""
        return self.curve[-1].test_loss if self.curve else None

    @property
    def density(self) -> float | None:
        """Fraction of prunable weights really kept, from the counts."""
        return None if not self.total or self.kept is None else self.kept / self.total
