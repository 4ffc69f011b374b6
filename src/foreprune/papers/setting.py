"""A network on a data set, as a paper trains it: what the runs of a figure share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from foreprune.experiments import grid, shortened
from foreprune.papers.entry import Runs
from foreprune.training.recipes import Recipe, recipe

DIGITS = 1442  # training images of scikit-learn's digits


@dataclass(frozen=True)
class Setting:
    """One network on one data set.

    Attributes:
        data, model, recipe: as in `Experiment`.
        densities: the fractions kept.
        seeds: how many.
        images: training images used; `train_size` of the runs wherever `limited`.
        limited: whether that is fewer than there are.
        matching: the lowest density at which magnitude pruning after training still matches the dense network.
        rewind_to: the step that lottery-ticket rewinding goes back to.
        init: distribution of the initial weights.
    """

    data: str
    model: str
    recipe: Recipe
    densities: tuple[float, ...]
    images: int
    seeds: int = 3
    limited: bool = False
    matching: float = 1.0
    rewind_to: int = 0
    init: str = "kaiming-normal-fan-in"

    @property
    def steps(self) -> int:
        """Optimizer steps of one training."""
        return self.recipe.epochs * self.recipe.steps_per_epoch(self.images)

    def shrunk(self, *, epochs: int, images: int = 0, densities: Sequence[float], seeds: int = 3) -> Setting:
        """The same with fewer epochs, images (0: all), densities and seeds; the step to rewind to moves along."""
        small = replace(
            self,
            recipe=shortened(self.recipe, epochs),
            densities=tuple(densities),
            seeds=seeds,
            images=images or self.images,
            limited=bool(images) or self.limited,
        )
        return replace(small, rewind_to=self.scaled(self.rewind_to, small))

    def scaled(self, step: int, other: Setting) -> int:
        """The step of `other` that is as far into training as `step` is here."""
        return round(step * other.steps / self.steps)

    def runs(
        self,
        *methods: str,
        densities: Sequence[float] | None = None,
        ablations: Sequence[str] = (),
        init: str = "",
        plain: bool = True,
        dense: bool = True,
        pruning_only: bool = False,
    ) -> Runs:
        """Every method at every density with every seed, as `grid` makes them.

        Args:
            densities: others than those of the setting.
            init: another distribution than that of the setting.
            plain: also without any ablation.
            dense: also the dense network.
            pruning_only: prune and measure, but do not train.
        """
        found = grid(
            data=self.data,
            model=self.model,
            methods=methods or ("dense",),
            densities=self.densities if densities is None else densities,
            seeds=range(self.seeds),
            recipe=shortened(self.recipe, 0) if pruning_only else self.recipe,
            ablations=ablations,
            init=init or self.init,
            train_size=self.images if self.limited else 0,
        )
        return tuple(run for run in found if (dense if run.method == "dense" else plain or run.ablation != "none"))


def powers(base: float, exponents: Iterable[float]) -> tuple[float, ...]:
    """`base` to each exponent, rounded to twelve digits so that names of runs do not hang on the last bit."""
    return tuple(round(base**exponent, 12) for exponent in exponents)


def smoke(model: str, *, data: str = "digits", seeds: int = 1) -> Setting:
    """The setting of every smoke test: scikit-learn's digits, two epochs, two densities."""
    return Setting(
        data=data,
        model=model,
        recipe=shortened(recipe("digits"), 2),
        densities=(0.2, 0.05),
        images=DIGITS,
        seeds=seeds,
        matching=0.2,
        rewind_to=5,
    )
