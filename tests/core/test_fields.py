"""Dataclass fields against their annotations: what is taken, what is converted, what each message says."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pytest

from foreprune.core.fields import check_fields, checked


@dataclass(frozen=True)
class Plan:
    steps: int = 1
    rate: float = 0.5
    fast: bool = False
    name: str = "a"
    kind: Literal["one", "two"] = "one"
    marks: tuple[int, ...] = ()
    limit: float | None = None

    def __post_init__(self) -> None:
        check_fields(self)


def test_numbers_and_lists_take_the_type_of_their_annotation() -> None:
    plan = Plan(steps=np.int64(3), rate=2, marks=[np.int32(1), 2], limit=Fraction(1, 2))  # type: ignore[arg-type]
    assert plan == Plan(3, 2.0, marks=(1, 2), limit=0.5)
    kinds = [type(value) for value in (plan.steps, plan.rate, plan.marks, plan.marks[0], plan.limit)]
    assert kinds == [int, float, tuple, int, float]
    assert Plan().limit is None


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"steps": 2.0}, TypeError, r"^steps must be a whole number, not 2.0$"),
        ({"steps": False}, TypeError, r"^steps must be a whole number, not False$"),
        ({"rate": "fast"}, TypeError, r"^rate must be a number, not 'fast'$"),
        ({"rate": True}, TypeError, r"^rate must be a number, not True$"),
        ({"rate": None}, TypeError, r"^rate must be a number, not None$"),
        ({"rate": float("inf")}, ValueError, r"^rate must be finite, not inf$"),
        ({"fast": 1}, TypeError, r"^fast must be True or False, not 1$"),
        ({"name": 3}, TypeError, r"^name must be a string, not 3$"),
        ({"kind": "three"}, ValueError, r"^kind must be one of 'one', 'two', not 'three'$"),
        ({"marks": "12"}, TypeError, r"^marks must be a tuple, not '12'$"),
        ({"marks": (1, 0.5)}, TypeError, r"^marks\[1\] must be a whole number, not 0.5$"),
        ({"limit": "no"}, TypeError, r"^limit must be a number, not 'no'$"),
    ],
)
def test_errors_say_what_is_allowed(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Plan(**settings)


def test_other_classes_are_checked_by_name() -> None:
    assert checked("plan", plan := Plan(), Plan) is plan
    with pytest.raises(TypeError, match=r"^plan must be Plan, not 3$"):
        checked("plan", 3, Plan)


def test_unions_and_what_says_nothing() -> None:
    kind = list[str] | str | None
    assert checked("names", ["a"], kind) == ["a"]
    assert checked("names", "a", kind) == "a"
    assert checked("names", None, kind) is None
    with pytest.raises(TypeError, match=r"^names must be list or a string, not 3$"):
        checked("names", 3, kind)
    assert checked("anything", given := object(), Any) is given
