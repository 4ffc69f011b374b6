"""Densities, counts and schedules: what may be given and what the messages say."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from foreprune.core.density import as_density, erdos_renyi, keep_count, round_count, uniform
from foreprune.core.schedule import densities


@pytest.mark.parametrize(
    ("given", "density"),
    [
        ({"density": 0.05}, 0.05),
        ({"density": 1}, 1.0),
        ({"density": np.float32(0.5)}, 0.5),
        ({"density": Fraction(1, 4)}, 0.25),
        ({"sparsity": 0.9}, 0.1),  # 1 - 0.9 is 0.0999...98
        ({"sparsity": 0}, 1.0),
        ({"compression": 20}, 0.05),
        ({"compression": 1}, 1.0),
    ],
)
def test_density_sparsity_and_compression(given: dict[str, Any], density: float) -> None:
    found = as_density(**given)
    assert found == density
    assert type(found) is float


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"density": 0}, r"density must be in \(0, 1\], the fraction of weights kept: 0.05 keeps 5 %; got 0"),
        ({"density": -0.1}, "got -0.1"),
        ({"density": 1.0001}, "got 1.0001"),
        ({"density": float("nan")}, "got nan"),
        ({"density": float("inf")}, "got inf"),
        ({"sparsity": 1}, r"sparsity must be in \[0, 1\), the fraction of weights removed: 0.95 keeps 5 %; got 1"),
        ({"sparsity": -0.5}, "got -0.5"),
        ({"compression": 0.5}, "compression must be at least 1, total over kept weights: 20 keeps 5 %; got 0.5"),
        ({"compression": float("inf")}, "got inf"),
    ],
)
def test_values_outside_their_range(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_density(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give exactly one of density= .fraction kept., sparsity= .fraction removed. or compression=.*got none"),
        ({"density": 0.5, "sparsity": 0.5}, "got density and sparsity"),
        ({"density": 0.5, "sparsity": 0.5, "compression": 2}, "got density and sparsity and compression"),
        ({"density": "5%"}, "density must be a number, not '5%'"),
        ({"density": True}, "density must be a number, not True"),
        ({"sparsity": [0.5]}, r"sparsity must be a number, not \[0.5\]"),
    ],
)
def test_none_several_or_no_numbers(given: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        as_density(**given)


def test_the_count_is_rounded_and_never_zero() -> None:
    assert keep_count(0.1, 1004) == 100
    assert keep_count(0.1, 1006) == 101
    assert keep_count(1.0, 7) == 7
    with pytest.raises(
        ValueError, match=r"density 1e-05 keeps none of 1,000 weights; the smallest that keeps one is 0.001"
    ):
        keep_count(1e-5, 1000)


@hypothesis.given(st.floats(0.0001, 1.0), st.integers(1, 10**8))
def test_rounds_before_the_last_round_up(density: float, total: int) -> None:
    kept = round_count(density, total)
    assert kept == total - int((1 - density) * total)  # the published code removes so many
    assert density * total - 1e-6 <= kept <= density * total + 1 + 1e-6


def test_counts_of_rounds_are_those_of_the_published_arithmetic() -> None:
    """(1 - 0.9) * 1000 is a little less than 100 in floating point, so one more is kept than 900."""
    assert round_count(0.9, 1000) == 901
    assert round_count(0.25, 1000) == 750 - 500
    assert [round_count(0.01 ** (k / 100), 270_896) for k in (1, 50, 99)] == [258_704, 27_090, 2_837]


def test_exponential_and_linear_schedules_are_in_densities() -> None:
    """With the sparsity in the exponent, as some papers print it, round one would remove nearly everything."""
    steps = densities(0.1, rounds=100, schedule="exponential")
    assert len(steps) == 100
    assert 1 - steps[0] == pytest.approx(0.0228, abs=1e-4)
    assert all(step == pytest.approx(0.1 ** (k / 100)) for k, step in enumerate(steps, start=1))
    assert densities(0.25, rounds=3, schedule="linear") == pytest.approx([0.75, 0.5, 0.25])
    assert densities(0.3, rounds=1, schedule="linear") == [0.3]
    assert densities(1 / 3, rounds=7, schedule="exponential")[-1] == 1 / 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rounds": 0, "schedule": "linear"}, "rounds must be a whole number of at least 1, not 0"),
        ({"rounds": -3, "schedule": "exponential"}, "not -3"),
    ],
)
def test_schedules_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        densities(0.1, **given)


def test_layer_densities_of_odd_shapes() -> None:
    shapes = {"empty": (0, 4), "vector": (6,), "matrix": (3, 2)}
    assert uniform(shapes, 0.5) == dict.fromkeys(shapes, 0.5)
    found = erdos_renyi(shapes, 0.5)
    assert sum(found[name] * size for name, size in {"vector": 6, "matrix": 6}.items()) == pytest.approx(6)
    assert erdos_renyi({"a": (5, 5)}, 1.0) == {"a": 1.0}
