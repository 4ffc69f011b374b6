"""What procedures are, which steps of the dense training they need, and the numbers of weights they keep."""

from __future__ import annotations

import itertools
import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreprune.methods import list_methods
from foreprune.procedures import (
    END,
    check_procedure,
    dense_of,
    get_procedure,
    list_procedures,
    settings_of,
    snapshots_for,
    steps_needed,
    steps_of,
)
from foreprune.procedures.gmp import gradual_count
from foreprune.procedures.imp import round_counts
from foreprune.records import Experiment
from foreprune.training.recipes import Recipe


def experiment(method: str = "snip", **changes: object) -> Experiment:
    base = {"data": "digits", "model": "fc-16", "method": method, "density": 1.0 if method == "dense" else 0.5}
    return Experiment.model_validate(base | changes)


def test_names_are_their_own() -> None:
    names = [found.name for found in list_procedures()]
    assert names == ["gmp", "imp", "ltr", "magnitude-after"]
    assert not set(names) & {found.name for found in list_methods()}
    assert settings_of(experiment("imp", hyper={"rate": 0.5})) == {"rewind_to": 0, "rate": 0.5}
    assert settings_of(experiment("snip")) == {}
    with pytest.raises(ValueError, match=r"^unknown procedure 'lrt'; did you mean 'ltr'\?$"):
        get_procedure("lrt")
    with pytest.raises(ValueError, match=r"^unknown procedure 'snip'; there are gmp, imp, ltr, magnitude-after$"):
        get_procedure("snip")


def test_printed_they_say_that_they_train() -> None:
    text = str(get_procedure("imp"))
    assert text.startswith("imp: Iterative magnitude pruning: train, remove the smallest")
    for line in (
        "  paper: Frankle & Carbin, ICLR 2019, arXiv:1803.03635; Frankle et al., ICML 2020, arXiv:1912.05671",
        "  needs: training; write foreprune compare --methods imp, or foreprune.Experiment(method='imp', ...)",
        "  settings: rewind_to=0, rate=0.2",
        "  ablations: shuffle, reinit, reinit-layer, reinit-neuron, widen",
    ):
        assert line in text.splitlines()
    assert "  settings: none\n" in str(get_procedure("magnitude-after"))
    assert str(get_procedure("gmp")).endswith("  ablations: none")


def test_no_torch_is_needed_to_read_them() -> None:
    program = "import sys, foreprune.procedures as p; print(*p.list_procedures()); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"method": "ltr", "hyper": {"rewind": 3}},
            TypeError,
            r"procedure 'ltr' has no setting 'rewind'; did you mean 'rewind_to'\?",
        ),
        (
            {"method": "magnitude-after", "hyper": {"rounds": 3}},
            TypeError,
            r"procedure 'magnitude-after' has no setting 'rounds'; it takes none",
        ),
        (
            {"method": "ltr", "hyper": {"rewind_to": -1}},
            ValueError,
            r"rewind_to must be an optimizer step of the dense training, a whole number from 0 on, not -1",
        ),
        ({"method": "ltr", "hyper": {"rewind_to": 2.0}}, TypeError, r"rewind_to must be a whole number, not 2.0"),
        ({"method": "ltr", "hyper": {"rewind_to": True}}, TypeError, r"rewind_to must be a whole number, not True"),
        ({"method": "imp", "hyper": {"rate": 1}}, ValueError, r"'imp': rate must be .* between 0 and 1, not 1"),
        ({"method": "imp", "hyper": {"rate": "fast"}}, TypeError, r"'imp': rate must be a number, not 'fast'"),
        ({"method": "gmp", "hyper": {"every": 0}}, ValueError, r"every must be .*, at least 1, not 0"),
        ({"method": "gmp", "hyper": {"end": 1.5}}, ValueError, r"end must be a fraction of training, .* not 1.5"),
        ({"method": "gmp", "hyper": {"begin": None}}, TypeError, r"'gmp': begin must be a number, not None"),
        ({"method": "gmp", "hyper": {"begin": -0.5}}, ValueError, r"begin must be a fraction of training, .* not -0.5"),
        ({"method": "gmp", "hyper": {"begin": 0.8}}, ValueError, r"begin=0.8 lies after end=0.75; both are fractions"),
        ({"method": "gmp", "ablation": "shuffle"}, ValueError, r"takes no ablation 'shuffle'; allowed: none$"),
        (
            {"method": "imp", "ablation": "invert"},
            ValueError,
            r"'imp' takes no ablation 'invert'; allowed: none, shuffle, reinit, reinit-layer, reinit-neuron, widen$",
        ),
        (
            {"method": "ltr", "prune_at": 5},
            ValueError,
            r"procedure 'ltr' says itself when to prune: prune_at must be 0, not 5",
        ),
    ],
)
def test_errors_say_what_is_allowed(changes: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_procedure(experiment(**changes))  # type: ignore[arg-type]


def test_what_fits_passes() -> None:
    for found in list_procedures():
        for ablation in ("none", *found.ablations):
            check_procedure(experiment(found.name, ablation=ablation, hyper=dict(found.settings)))
    check_procedure(experiment("snip", prune_at=7, ablation="invert"))
    check_procedure(experiment("gmp", hyper={"begin": 0, "end": 0, "every": 1}))


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


def test_gradual_pruning_follows_the_cube() -> None:
    """Every number by hand, in exact fractions: 80 % of 1,000 weights, from step 10 of 100 to step 60, every 10."""
    found = {
        step: gradual_count(step, steps=100, keep=200, total=1000, begin=0.1, end=0.6, every=10) for step in range(101)
    }
    expected = {}
    for step in (10, 20, 30, 40, 50, 60):
        left = 1 - Fraction(step - 10, 50)
        expected[step] = round(1000 - 800 * (1 - left**3))
    assert expected == {10: 1000, 20: 610, 30: 373, 40: 251, 50: 206, 60: 200}
    assert found == {step: expected.get(step) for step in range(101)}


def test_gradual_pruning_ends_on_the_step_even_off_the_beat() -> None:
    counts = [gradual_count(step, steps=47, keep=3, total=100, begin=0.0, end=0.75, every=10) for step in range(48)]
    assert [step for step, count in enumerate(counts) if count is not None] == [0, 10, 20, 30, 35]
    assert counts[35] == 3
    assert gradual_count(0, steps=0, keep=3, total=100) == 3
    assert gradual_count(5, steps=10, keep=3, total=100, begin=0.5, end=0.5) == 3


@given(
    steps=st.integers(0, 400),
    total=st.integers(1, 5000),
    share=st.floats(0.001, 1.0),
    marks=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    every=st.integers(1, 60),
)
def test_gradual_counts_never_rise_and_end_exactly(
    steps: int, total: int, share: float, marks: tuple[float, float], every: int
) -> None:
    keep = max(1, round(share * total))
    begin, end = sorted(marks)
    counts = [
        gradual_count(step, steps=steps, keep=keep, total=total, begin=begin, end=end, every=every)
        for step in range(steps + 1)
    ]
    told = [count for count in counts if count is not None]
    assert told == sorted(told, reverse=True)
    assert counts[round(end * steps)] == told[-1] == keep
    assert all(count <= total for count in told)


def test_rounds_remove_a_fifth_of_what_is_left() -> None:
    assert round_counts(0.5, total=1000, keep=500, rate=0.2) == (800, 640, 512, 500)
    assert round_counts(0.64, total=1000, keep=640, rate=0.2) == (800, 640)
    assert round_counts(0.8, total=1000, keep=800, rate=0.2) == (800,)
    assert round_counts(0.9, total=1000, keep=900, rate=0.2) == (900,)
    assert round_counts(1.0, total=1000, keep=1000, rate=0.2) == (1000,)
    assert round_counts(0.1, total=1000, keep=100, rate=0.5) == (500, 250, 125, 100)


def test_runs_of_different_density_share_their_rounds() -> None:
    ladder = [0.8**rounds for rounds in range(1, 20)]
    chains = [round_counts(density, total=54_321, keep=round(density * 54_321), rate=0.2) for density in ladder]
    assert [len(chain) for chain in chains] == list(range(1, 20))
    assert all(longer[: len(chain)] == chain for chain, longer in itertools.pairwise(chains))
