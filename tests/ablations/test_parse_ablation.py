"""Ablations as they are written on the command line."""

from __future__ import annotations

import pytest

from foreprune.ablations import parse_ablation


def read(text: str) -> tuple[str, float]:
    found, value = parse_ablation(text)
    return found.name, value


def test_ablations_with_a_value() -> None:
    assert read("shuffle") == ("shuffle", 1.0)
    assert read("widen") == ("widen", 1.0)
    assert read("widen:0.25") == ("widen", 0.25)
    assert read("widen:0") == ("widen", 0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shufle", "unknown ablation 'shufle'; did you mean shuffle"),
        ("none", "unknown ablation 'none'"),
        ("xyz", "choose from shuffle, reinit"),
        ("shuffle:0.5", "only widen takes a value"),
        ("widen:1.5", "from 0 to 1; write e.g. widen:0.5"),
        ("widen:nan", "from 0 to 1"),
        ("widen:half", "from 0 to 1"),
        ("widen:", "from 0 to 1"),
    ],
)
def test_bad_ablations_are_explained(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_ablation(text)
