"""Which dense trainings a list of runs shares, and at which steps they save weights. Nothing here imports torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from foreprune.procedures.registered import END, procedure_of, settings_of
from foreprune.records import Experiment


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
    if experiment.method == "dense":
        return (END,)
    if found := procedure_of(experiment):
        return tuple(step for step in found.dense_steps(**settings_of(experiment)) if step)
    return (experiment.prune_at,) if experiment.prune_at else ()


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
