"""Which steps of which dense training a list of runs needs."""

from __future__ import annotations

from foreprune.procedures import (
    END,
    dense_of,
    snapshots_for,
    steps_needed,
    steps_of,
)
from foreprune.records import Experiment
from foreprune.training.recipes import Recipe


def experiment(method: str = "snip", **changes: object) -> Experiment:
    base = {"data": "digits", "model": "fc-16", "method": method, "density": 1.0 if method == "dense" else 0.5}
    return Experiment.model_validate(base | changes)


def test_the_dense_training_is_the_same_for_all_that_share_it() -> None:
    recipe = Recipe(epochs=3)
    shared = {"seed": 4, "init": "orthogonal", "train_size": 99, "recipe": recipe}
    dense = dense_of(experiment("dense", **shared))
    assert dense == experiment("dense", **shared)
    for other in (
        experiment("snip", density=0.1, prune_at=5, **shared),
        experiment("imp", hyper={"rate": 0.5}, scope="local", samples_per_class=3, **shared),
        experiment("dense", samples_per_class=3, **shared),
    ):
        assert dense_of(other).id == dense.id
    for change in ({"seed": 5}, {"init": "unit-normal"}, {"train_size": 98}, {"recipe": Recipe(epochs=4)}):
        assert dense_of(experiment("snip", **{**shared, **change})).id != dense.id


def test_steps_needed() -> None:
    assert steps_of(experiment("dense")) == (END,)
    assert steps_of(experiment("snip")) == ()
    assert steps_of(experiment("snip", prune_at=9)) == (9,)
    assert steps_of(experiment("magnitude-after")) == (END,)
    assert steps_of(experiment("ltr")) == (END,)
    assert steps_of(experiment("ltr", hyper={"rewind_to": 12})) == (12, END)
    assert steps_of(experiment("imp", hyper={"rewind_to": 12})) == (12, END)
    assert steps_of(experiment("gmp")) == ()
    listed = [
        experiment("dense"),
        experiment("snip", prune_at=30),
        experiment("ltr", hyper={"rewind_to": 4}),
        experiment("snip", prune_at=9, density=0.1),
        experiment("snip", prune_at=9),
        experiment("random", seed=1),
        experiment("random", prune_at=2, seed=2),
    ]
    needed = steps_needed(listed)
    first, second = (dense_of(experiment(seed=seed)).id for seed in (0, 2))
    assert needed == {first: (4, 9, 30, END), second: (2,)}
    assert snapshots_for(listed[0], needed) == snapshots_for(listed[4], needed) == (4, 9, 30, END)
    assert snapshots_for(listed[5], needed) == ()
