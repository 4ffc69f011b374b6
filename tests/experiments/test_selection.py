from __future__ import annotations

import pytest

from foreprune.experiments import grid, in_epochs, limited
from foreprune.training.recipes import Recipe

RECIPE = Recipe(epochs=10, lr=0.1, schedule="milestones", milestones=(5, 8))
RUNS = grid(
    data="digits",
    model="fc-16",
    methods=("snip", "snip@40", "grasp", "grasp:keep=magnitude", "ltr:rewind_to=20", "gmp:every=30"),
    densities=(0.512, 0.1, 0.05),
    seeds=(0, 1, 2),
    recipe=RECIPE,
)


def test_everything_stays_without_a_choice() -> None:
    assert limited(RUNS) == RUNS
    assert len(RUNS) == 3 + 3 * 3 * 6


def test_seeds_methods_densities() -> None:
    assert len(limited(RUNS, seeds=2)) == 2 + 2 * 3 * 6
    assert len(limited(RUNS, seeds=9)) == len(RUNS)
    both = limited(RUNS, methods=("snip",))
    assert {(run.method, run.prune_at) for run in both} == {("dense", 0), ("snip", 0), ("snip", 40)}
    timed = limited(RUNS, methods=("snip@40", "grasp:keep=magnitude"))
    assert {(run.method, run.prune_at, str(run.hyper)) for run in timed} == {
        ("dense", 0, "{}"),
        ("snip", 40, "{}"),
        ("grasp", 0, "{'keep': 'magnitude'}"),
    }
    assert {run.density for run in limited(RUNS, densities=(0.51, 0.05))} == {1.0, 0.512, 0.05}
    assert len(limited(RUNS, seeds=1, methods=("grasp",), densities=(0.1,))) == 1 + 2


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1, not 0"),
        (
            {"methods": ("snip", "synflow")},
            "no run here uses the method 'synflow'; there are dense, gmp, grasp, ltr, snip",
        ),
        ({"methods": ("snip@41",)}, "no run here uses the method 'snip@41'"),
        ({"densities": (0.2,)}, r"no run here has the density 0.2; there are 1, 0.512, 0.1, 0.05"),
    ],
)
def test_what_is_not_there_is_refused(choice: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        limited(RUNS, **choice)  # type: ignore[arg-type]


def test_epochs_take_steps_along() -> None:
    runs = in_epochs(RUNS, 5)
    assert len(runs) == len(RUNS)
    assert {run.recipe.milestones for run in runs} == {(2, 4)}
    assert {run.prune_at for run in runs if run.method == "snip"} == {0, 20}
    assert {run.hyper["rewind_to"] for run in runs if run.method == "ltr"} == {10}
    assert {run.hyper["every"] for run in runs if run.method == "gmp"} == {15}
    assert in_epochs(RUNS, 10) == RUNS


def test_runs_that_only_prune_stay_and_equal_runs_merge() -> None:
    only = grid(data="digits", model="fc-16", methods=("snip",), densities=(0.1,), seeds=(0,), recipe=Recipe(epochs=0))
    assert in_epochs(only, 7) == only
    early = limited(RUNS, methods=("grasp",))
    assert {run.recipe.epochs for run in in_epochs(early, 0)} == {0}
    near = limited(RUNS, methods=("snip",))
    merged = in_epochs([run.model_copy(update={"prune_at": 1}) if run.prune_at else run for run in near], 1)
    assert len(merged) == 3 + 3 * 3


def test_without_training_nothing_is_pruned_later() -> None:
    with pytest.raises(ValueError, match="gmp, ltr, snip need at least one epoch"):
        in_epochs(RUNS, 0)
    with pytest.raises(ValueError, match="epochs must be at least 0, not -1"):
        in_epochs(RUNS, -1)
