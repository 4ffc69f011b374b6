"""0 revived weights in 1,000 steps: every trainer, on one process and on two, with everything that people switch on."""

from __future__ import annotations

import re

import pytest
from integrations import page
from integrations.cells import ABSENT, FEATURES, LAYOUTS, STEPS, TRAINERS, Found, need, not_right, run


def has(library: str) -> bool:
    try:
        need(library)
    except ImportError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_nothing_is_revived_in_1000_steps(trainer: str, layout: str) -> None:
    """With one thing after another switched on; with timm's average where timm is."""
    try:
        need(trainer)
    except ImportError as error:
        pytest.skip(str(error))
    features = [feature for feature in FEATURES if has(feature)]
    found = run(trainer, layout, features)
    wrong = {feature: not_right(trainer, layout, feature, found[feature]) for feature in features}
    assert not any(wrong.values()), {feature: said for feature, said in wrong.items() if said}


RIGHT: Found = {"steps": 1000, "revived": 0, "end": 0, "still": 0, "sharded": False}
RESUMED = {**RIGHT, "loaded": 0, "carried": True}
GROWN = {**RIGHT, "steps": 20, "revived": 9, "end": 9, "average": 9}


@pytest.mark.parametrize(
    ("layout", "feature", "found", "change"),
    [
        ("single", "resume", RESUMED, {"revived": 1}),
        ("single", "resume", RESUMED, {"end": 1}),
        ("single", "resume", RESUMED, {"loaded": 1}),
        ("single", "resume", RESUMED, {"carried": False}),
        ("ddp", "ema", {**RIGHT, "average": 0}, {"average": 1}),
        ("ddp", "clip", {**RIGHT, "on": True}, {"on": False}),
        ("ddp", "clip", {**RIGHT, "on": True}, {"still": 1}),
        ("fsdp2", "bf16", {**RIGHT, "on": True, "sharded": True}, {"sharded": False}),
        ("fsdp2", "bf16", {**RIGHT, "on": True, "sharded": True}, {"steps": 999}),
        ("fsdp2", "bf16", {**RIGHT, "on": True, "sharded": True}, {"error": "ValueError: no", "traceback": "line 1"}),
        ("single", "unmasked", GROWN, {"revived": 0}),
        ("single", "unmasked", GROWN, {"average": 0}),
    ],
)
def test_what_is_wrong_is_seen(layout: str, feature: str, found: Found, change: Found) -> None:
    assert not_right("plain", layout, feature, found) == ""
    assert not_right("plain", layout, feature, {**found, **change}) != ""


def test_a_cell_that_is_refused_has_to_be() -> None:
    (trainer, layout, feature), sentence = next(iter(ABSENT.items()))
    assert not_right(trainer, layout, feature, {"error": f"AssertionError: {sentence}"}) == ""
    assert re.match("not refused with", not_right(trainer, layout, feature, RIGHT))


def test_the_table_is_that_of_the_record() -> None:
    """And the record has every cell, and nothing else than zeros."""
    rows = page.load()
    assert [*rows] == [(trainer, layout) for trainer in TRAINERS for layout in LAYOUTS]
    written = page.PAGE.read_text()
    assert written == page.text(written, list(rows.values()))
    for row in rows.values():
        assert {*row.revived, *row.refused} == {*FEATURES}
        for feature, revived in row.revived.items():
            assert (revived == 0 and row.steps[feature] >= STEPS) == (feature != "unmasked"), (row, feature)
            assert (revived > 0) == (feature == "unmasked"), (row, feature)
        for feature, said in row.refused.items():
            assert ABSENT[row.trainer, row.layout, feature] in said
