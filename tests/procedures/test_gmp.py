"""Gradual magnitude pruning: its schedule, and a run against a loop written out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st
from procedures.lively_runs import (
    KEEP,
    NAMES,
    STEPS,
    by_magnitude,
    experiment,
    fresh,
    masks_of,
    numbers,
    plain_fit,
    run,
    state,
)
from torch import Tensor, nn

from foreprune.core.masks import Masks
from foreprune.procedures.gmp import Gradual, gradual_count


def test_gradual_magnitude_pruning(tmp_path: Path) -> None:
    found = experiment("gmp", hyper={"begin": 0.1, "end": 0.7, "every": 4})
    record = run(found, tmp_path)
    total = 16 * 74
    chain: list[Masks] = [Masks({name: torch.ones_like(fresh().get_parameter(name)) > 0 for name in NAMES})]
    counts: list[int] = []

    def schedule(step: int, model: nn.Module, masks: Mapping[str, Tensor]) -> Masks | None:
        keep = gradual_count(step, steps=STEPS, keep=KEEP, total=total, begin=0.1, end=0.7, every=4)
        if keep is None:
            return None
        counts.append(keep)
        chain.append(by_magnitude(state(model), keep, chain[-1]))
        return chain[-1]

    model = fresh()
    history = plain_fit(model, masks=chain[0], mask_schedule=schedule)
    assert numbers(record.curve) == numbers(history.curve)
    assert counts[0] == total
    assert counts[-1] == KEEP
    assert len(counts) == 4
    assert [masks.kept for masks in chain[1:]] == counts
    assert all(later & earlier == later for earlier, later in itertools.pairwise(chain))
    assert masks_of(record, tmp_path) == chain[-1]
    assert record.kept == KEEP == sum(layer.kept for layer in record.layers)
    assert record.seconds_prune is None
    assert record.analysis["macs"] == KEEP  # of the final masks, and so of a network that is linear layers only
    assert masks_of(record, tmp_path).metadata["method"] == "gmp"


def test_gradual_pruning_in_every_layer_alike(tmp_path: Path) -> None:
    record = run(experiment("gmp", scope="local", hyper={"every": 3}), tmp_path)
    assert [(layer.kept, layer.total) for layer in record.layers] == [(307, 1024), (48, 160)]
    assert record.kept == KEEP == 355


def test_gradual_pruning_never_takes_a_weight_back_that_is_no_smaller_than_a_kept_one() -> None:
    """A kept weight can be exactly zero, as pruned ones are."""
    model = nn.Linear(10, 10)
    counts = dict(enumerate((60, 40, 20, 5)))
    gradual = Gradual(counts.get, "global", 0, Masks.dense({"weight": model.weight.detach()}))
    chain = [gradual.masks]
    for step in range(5):
        found = gradual(step, model, chain[-1])
        with torch.no_grad():
            model.weight.zero_().view(-1)[(found or chain[-1])["weight"].flatten().nonzero()[0]] = 1.0
        assert (found is None) == (step == 4)
        chain.append(found or chain[-1])
    assert [masks.kept for masks in chain] == [100, 60, 40, 20, 5, 5]
    assert all(later & earlier == later for earlier, later in itertools.pairwise(chain))
    resumed = Gradual(counts.get, "global", 0, Masks.dense({"weight": model.weight.detach()}))
    assert resumed(1, model, chain[2]) is None
    assert resumed.masks == chain[2]
    assert resumed(2, model, chain[2]) == chain[3]


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
