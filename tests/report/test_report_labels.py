"""Labels: short words for what was done, and names that leave out what a view or an axis says already."""

from __future__ import annotations

from typing import Any

import pytest
from report_records import record

from foreprune.report.labels import ablation_order
from foreprune.report.sections import Condition, Section, sections


def only(records: list) -> Section:
    (section,) = sections(records)
    return section


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({}, "snip"),
        ({"ablation": "shuffle"}, "snip, shuffled"),
        ({"ablation": "reinit"}, "snip, reinitialized"),
        ({"ablation": "reinit-layer"}, "snip, reinitialized per layer"),
        ({"ablation": "reinit-neuron"}, "snip, reinitialized per neuron"),
        ({"ablation": "invert"}, "snip, inverted"),
        ({"ablation": "widen", "widen": 0.5}, "snip, widened 0.5"),
        ({"ablation": "widen"}, "snip, widened 1"),
        ({"prune_at": 1000}, "snip at step 1000"),
        ({"prune_at": 1000, "ablation": "shuffle"}, "snip at step 1000, shuffled"),
    ],
)
def test_labels_are_words(settings: dict[str, Any], label: str) -> None:
    """Whether or not there are other runs to tell them from: an ablation is never taken for the method itself."""
    run = record("snip", density=0.1, **settings)
    assert only([run]).labels == {run.id: label}
    both = [run, record("snip", density=0.1), record("magnitude", density=0.1)]
    assert only(both).labels[run.id] == label


def test_settings_stand_before_the_step_and_the_ablation() -> None:
    runs = [
        record("snip", density=0.1, hyper={"rounds": 5}, prune_at=100, ablation="shuffle"),
        record("snip", density=0.1, hyper={"rounds": 1}),
    ]
    assert set(only(runs).labels.values()) == {"snip (rounds=5) at step 100, shuffled", "snip (rounds=1)"}


def test_originals_and_ablated_runs_are_told_apart_and_ordered() -> None:
    section = only(
        [
            record("snip", density=0.1, ablation="invert"),
            record("snip", density=0.1, ablation="shuffle"),
            record("snip", density=0.1, prune_at=100),
            record("snip", density=0.1),
            record("ltr", density=0.1),
            record("magnitude-after", density=0.1),
            record("zeta", density=0.1),
            record("random", density=0.1),
            record("dense"),
        ]
    )
    assert [label for label, _ in section.methods()] == [
        *("dense", "random", "snip", "snip at step 100", "zeta", "magnitude-after", "ltr"),
    ]
    assert [label for label, _ in section.methods(ablated=True)] == ["snip, shuffled", "snip, inverted"]


def test_a_step_is_part_of_the_name_only_where_it_is_no_axis() -> None:
    one = only([record("snip", density=0.1, prune_at=100), record("grasp", density=0.1)])
    assert list(one.lines()) == ["snip at step 100", "grasp"]
    two = only([record("snip", density=0.1, prune_at=step) for step in (0, 100)] + [record("grasp", density=0.1)])
    assert two.lines() == {"snip": "snip", "grasp": "grasp"}
    assert two.conditions() == (Condition(), Condition(step=100))
    assert two.lines(Condition(step=100)) == {"snip": "snip at step 100"}
    assert set(two.styles) == {"snip", "grasp"}
    assert Condition(step=100, ablation="shuffled").words(0.1) == "density 0.1 (90 % removed), at step 100, shuffled"


def test_widening_comes_last_by_its_fraction() -> None:
    words = ["widened 1", "widened 0.25", "inverted", "shuffled", ""]
    assert sorted(words, key=ablation_order) == ["", "shuffled", "inverted", "widened 0.25", "widened 1"]
