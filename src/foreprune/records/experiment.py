"""What one run is (`Experiment`), and the stable id that names it. Nothing here imports torch."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from foreprune.ablations import get_ablation
from foreprune.training.recipes import Recipe

Scalar = bool | int | float | str | None


class Experiment(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
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
    ablation: str = "none"
    widen: Annotated[float, Field(ge=0, le=1)] = 1.0
    init: str = "kaiming-normal-fan-in"
    samples_per_class: Annotated[int, Field(ge=1)] = 10
    train_size: Annotated[int, Field(ge=0)] = 0
    recipe: Recipe = Recipe()

    @model_validator(mode="after")
    def _settings_fit(self) -> Experiment:
        if self.method == "dense" and self.density != 1.0:
            raise ValueError(f"the dense reference keeps every weight: density must be 1, not {self.density:g}")
        if self.method == "dense" and self.ablation != "none":
            raise ValueError(
                f"the dense reference has nothing to ablate: ablation must be 'none', not {self.ablation!r}"
            )
        if self.method == "dense" and self.prune_at:
            raise ValueError(f"the dense reference is never pruned: prune_at must be 0, not {self.prune_at}")
        value = "" if self.ablation == "none" else get_ablation(self.ablation).value
        if self.widen != 1.0 and not value:
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
