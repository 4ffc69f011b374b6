"""Procedures that prune after training or during it, by name, and what each needs of a dense training.

A procedure stands where a method's name does (`Experiment.method`), but takes more than one look at a network: it needs
weights from a dense training, or changes the masks while it trains. Nothing here imports torch.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from foreprune.records import Ablation, Experiment, Scalar

END = -1  # stands for the last step of the dense training, whose number only the data can tell


@dataclass(frozen=True)
class Procedure:
    """A way to prune that involves training.

    Attributes:
        name: what stands in `Experiment.method` and on the command line.
        summary: what it does.
        paper: where it comes from.
        hyper: hyperparameter -> default.
        ablations: those that mean something for it.
    """

    name: str
    summary: str
    paper: str
    hyper: Mapping[str, Scalar]
    ablations: tuple[Ablation, ...]

    def check_hyper(self, hyper: Mapping[str, Scalar]) -> None:
        """Raise TypeError for a hyperparameter that it does not have, ValueError for one out of range."""
        for name, value in hyper.items():
            if name not in self.hyper:
                near = difflib.get_close_matches(name, self.hyper, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(self.hyper) or 'none'}"
                raise TypeError(f"procedure {self.name!r} has no hyperparameter {name!r}; {hint}")
            _check_value(self.name, name, value)
        both = {**self.hyper, **hyper}
        begin, end = both.get("begin", 0), both.get("end", 1)
        if isinstance(begin, (int, float)) and isinstance(end, (int, float)) and begin > end:
            raise ValueError(
                f"procedure {self.name!r}: begin={begin} lies after end={end}; both are fractions of training"
            )


def _check_value(procedure: str, name: str, value: Scalar) -> None:
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    number = value if isinstance(value, (int, float)) and real else math.nan  # which no comparison lets through
    whole = real and isinstance(value, int)
    rules = {
        "rewind_to": (whole and number >= 0, "an optimizer step of the dense training, a whole number from 0 on"),
        "every": (whole and number >= 1, "a whole number of optimizer steps, at least 1"),
        "rate": (0 < number < 1, "the fraction of the weights that a round removes, between 0 and 1"),
        "begin": (0 <= number <= 1, "a fraction of training, from 0 to 1"),
        "end": (0 <= number <= 1, "a fraction of training, from 0 to 1"),
    }
    fits, rule = rules[name]
    if not fits:
        raise ValueError(f"procedure {procedure!r}: {name} must be {rule}, not {value!r}")


_REINIT: tuple[Ablation, ...] = ("reinit", "reinit-layer", "reinit-neuron")
_FRANKLE = "Frankle et al., ICLR 2021, arXiv:2009.08576, section 3"

PROCEDURES: Mapping[str, Procedure] = MappingProxyType(
    {
        found.name: found
        for found in (
            Procedure(
                "magnitude-after",
                "Train the dense network, keep its largest weights, compared over all layers, and train on from them "
                "by the whole recipe again.",
                f"Renda et al., ICLR 2020, arXiv:2003.02389 (learning-rate rewinding); {_FRANKLE}",
                {},
                ("shuffle", "widen", *_REINIT, "invert"),
            ),
            Procedure(
                "ltr",
                "Lottery-ticket rewinding: the masks of magnitude-after, with the weights that the dense training had "
                "at step rewind_to, trained by the whole recipe. Frankle et al. 2021, table A.3, rewind LeNet-300-100 "
                "to 0, ResNet-20 and ResNet-18 to 1000, VGG-16 to 2000, ResNet-50 to 6255.",
                f"Frankle et al., ICML 2020, arXiv:1912.05671; {_FRANKLE}",
                {"rewind_to": 0},
                ("shuffle", "widen", *_REINIT, "invert"),
            ),
            Procedure(
                "imp",
                "Iterative magnitude pruning: train, remove the smallest of the weights that are left, the fraction "
                "rate of them, go back to the weights of step rewind_to, and again. The last round removes fewer, so "
                "that the density is exact.",
                "Frankle & Carbin, ICLR 2019, arXiv:1803.03635; Frankle et al., ICML 2020, arXiv:1912.05671",
                {"rewind_to": 0, "rate": 0.2},
                ("shuffle", "widen", *_REINIT),
            ),
            Procedure(
                "gmp",
                "Gradual magnitude pruning: while the network trains, once, the smallest weights go every so many "
                "steps, at a rate that falls with the cube; begin and end are fractions of the training.",
                "Zhu & Gupta, 2017, arXiv:1710.01878",
                {"begin": 0.0, "end": 0.75, "every": 100},
                (),
            ),
        )
    }
)


def check_procedure(experiment: Experiment) -> None:
    """Raise for settings that the procedure of `experiment` cannot follow; other methods pass.

    Raises:
        TypeError: a hyperparameter it does not have.
        ValueError: one out of range, an ablation without meaning for it, or a step to prune at.
    """
    if experiment.method not in PROCEDURES:
        return
    found = PROCEDURES[experiment.method]
    found.check_hyper(experiment.hyper)
    if experiment.prune_at:
        raise ValueError(
            f"procedure {found.name!r} says itself when to prune: prune_at must be 0, not {experiment.prune_at}"
        )
    if experiment.ablation != "none" and experiment.ablation not in found.ablations:
        allowed = ", ".join(("none", *found.ablations))
        raise ValueError(f"procedure {found.name!r} takes no ablation {experiment.ablation!r}; allowed: {allowed}")


def hyper_of(experiment: Experiment) -> dict[str, Scalar]:
    """The settings of the procedure of `experiment`, defaults included; nothing for other methods."""
    return {**PROCEDURES[experiment.method].hyper, **experiment.hyper} if experiment.method in PROCEDURES else {}


def dense_of(experiment: Experiment) -> Experiment:
    """The dense training that `experiment` begins from, or is compared with.

    Its data, model, initial weights, seed, recipe and number of training images, and nothing of how it is pruned.
    """
    return Experiment(
        method="dense",
        data=experiment.data,
        model=experiment.model,
        init=experiment.init,
        seed=experiment.seed,
        train_size=experiment.train_size,
        recipe=experiment.recipe,
    )


def steps_of(experiment: Experiment) -> tuple[int, ...]:
    """The optimizer steps of the dense training whose weights `experiment` needs; `END` is the last.

    Step k is after k updates. Step 0 is left out: anyone can draw the initial weights.
    """
    if experiment.method in ("dense", "magnitude-after"):
        return (END,)
    if experiment.method in ("ltr", "imp"):
        step = hyper_of(experiment)["rewind_to"]
        return (step, END) if isinstance(step, int) and step > 0 else (END,)
    return (experiment.prune_at,) if experiment.prune_at and experiment.method not in PROCEDURES else ()


def steps_needed(experiments: Iterable[Experiment]) -> dict[str, tuple[int, ...]]:
    """Id of each dense training that any of `experiments` needs -> the steps at which to save weights.

    Give `run_experiment` those of `dense_of(experiment).id`, and one dense training serves all of them, its own record
    included, whichever run comes first. Without, what is missing is trained again up to the step.
    """
    needed: dict[str, set[int]] = {}
    for experiment in experiments:
        if steps := steps_of(experiment):
            needed.setdefault(dense_of(experiment).id, set()).update(steps)
    return {
        name: tuple(sorted(steps, key=lambda step: math.inf if step == END else step)) for name, steps in needed.items()
    }


def snapshots_for(experiment: Experiment, needed: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
    """What `run_experiment(..., snapshots=)` takes for `experiment`, of the answer of `steps_needed`."""
    return tuple(needed.get(dense_of(experiment).id, ()))


def gradual_count(
    step: int, *, steps: int, keep: int, total: int, begin: float = 0.0, end: float = 0.75, every: int = 100
) -> int | None:
    """How many of `total` weights gradual magnitude pruning keeps after `step` of `steps` updates; None: no change now.

    Zhu & Gupta 2017, equation 1: the sparsity s_t = s (1 - (1 - (t - t0) / (t1 - t0))^3), at t0 = begin * steps, every
    `every` steps after it, and at t1 = end * steps, where exactly `keep` are left. Counts never rise.
    """
    first, last = round(begin * steps), round(end * steps)
    if step == last:
        return keep
    if not first <= step < last or (step - first) % every:
        return None
    done = 1.0 - (1.0 - (step - first) / (last - first)) ** 3
    return max(keep, round(total - (total - keep) * done))


def round_counts(density: float, *, total: int, keep: int, rate: float) -> tuple[int, ...]:
    """How many of `total` weights iterative magnitude pruning keeps after each round; the last entry is `keep`.

    Round r leaves total * (1 - rate)^r, so runs of different density share their first rounds.
    """
    counts: list[int] = []
    # rounded, so that the density 0.64 is two rounds of 0.2 although 0.8 * 0.8 is a little more
    while (level := round((1.0 - rate) ** (len(counts) + 1), 12)) > round(density, 12):
        counts.append(max(keep, round(total * level)))
    return (*counts, keep)
