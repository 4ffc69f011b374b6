"""What one term adds to others, by hand and by residuals; the exponential curve from points that lie on it."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy.stats import linregress

from foreprune.analysis.prediction import added, correlation, exponential, levels


def test_what_a_term_adds_by_hand() -> None:
    """x = (1, -1, 1, -1), z = (1, 1, -1, -1), y = 2 x + z + (1, -1, -1, 1), all orthogonal and without a mean.

    Total sum of squares 4 (4 + 1 + 1) = 24: x explains 16, z 4, and 4 are left.
    """
    x, z = (1, -1, 1, -1), (1, 1, -1, -1)
    y = [2 * a + b + a * b for a, b in zip(x, z, strict=True)]
    found = added(x, y, given=(z,))
    assert found is not None
    assert (found.alone, found.given, found.both) == (
        pytest.approx(16 / 24),
        pytest.approx(4 / 24),
        pytest.approx(20 / 24),
    )
    assert found.partial == pytest.approx(16 / 20)
    assert (found.coefficient, found.n) == (pytest.approx(2), 4)


def test_a_coefficient_is_that_of_residuals() -> None:
    """Frisch, Waugh and Lovell: regress what the others leave of y on what they leave of x."""
    draw = random.Random(0)
    z = [draw.gauss(0, 1) for _ in range(30)]
    x = [value + draw.gauss(0, 1) for value in z]
    y = [0.5 * a - 3 * b + draw.gauss(0, 1) for a, b in zip(x, z, strict=True)]
    found = added(x, y, given=(z, 1))
    assert found is not None
    left = [np.array(each) - linregress(z, each).intercept - linregress(z, each).slope * np.array(z) for each in (x, y)]
    assert found.coefficient == pytest.approx(linregress(*left).slope, rel=1e-9)
    assert found.partial == pytest.approx(linregress(*left).rvalue ** 2, rel=1e-9)


def test_levels_take_out_the_mean_of_each_group() -> None:
    groups, x, y = (3, 3, 1, 1, 1), (0, 1, 10, 11, 12), (5, 4, 70, 69, 68)
    assert levels(groups) == [[0, 0, 1, 1, 1], [1, 1, 0, 0, 0]]
    found = added(x, y, given=levels(groups))
    assert found is not None
    assert (found.coefficient, found.partial) == (pytest.approx(-1), pytest.approx(1))
    assert found.alone > 0.9, "over both groups the relation is the opposite"


def test_nothing_is_added_where_nothing_can_be_told() -> None:
    assert added((1, 2, 3), (1, 2, 4), given=((1, 4, 9), 1)) is None, "as many points as terms"
    assert added((1, 2, 3, 4), (1, 2, 4, 5), given=((2, 4, 6, 8), 1)) is None, "a term the others determine"
    assert added((2, 2, 2, 2), (1, 2, 4, 5), given=((2, 4, 6, 9),)) is None, "a constant"


def test_correlations() -> None:
    assert correlation((1, 2, 3), (3, 2, 1)) == pytest.approx(-1)
    assert correlation((1, 2), (3, 2)) is None
    assert correlation((1, 1, 1), (3, 2, 1)) is correlation((3, 2, 1), (1, 1, 1)) is None


@pytest.mark.parametrize("rate", [1e-4, 0.06, 30.0])
@pytest.mark.parametrize("low", [0.0, 7.0])
def test_a_curve_is_found_again(rate: float, low: float) -> None:
    x = [math.log(1 / rate) + at / 2 for at in range(-8, 6)]
    y = [20 * (1 - math.exp(-rate * math.exp(at))) + low * math.exp(-rate * math.exp(at)) for at in x]
    for fixed in (None, rate):
        found = exponential(x, y, rate=fixed, from_zero=low == 0)
        assert found is not None
        assert (found.high, found.low, found.rate) == pytest.approx((20, low, rate), rel=1e-4)
        assert (found.r2, found.n) == (pytest.approx(1), 14)
        assert found.at(x) == pytest.approx(y, rel=1e-4)


def test_a_fitted_rate_is_never_worse_than_a_given_one() -> None:
    draw = random.Random(3)
    x = [draw.uniform(-3, 6) for _ in range(40)]
    y = [9 - 9 * math.exp(-0.3 * math.exp(at)) + draw.gauss(0, 0.5) for at in x]
    free = exponential(x, y, from_zero=True)
    assert free is not None
    assert free.rate == pytest.approx(0.3, rel=0.2)
    for rate in (0.01, 0.2, 0.3, 0.4, 5.0):
        given = exponential(x, y, rate=rate, from_zero=True)
        assert given is not None
        assert given.r2 <= free.r2


def test_traces_beyond_floats_are_at_the_upper_end() -> None:
    found = exponential([0.0, 1.0, 2.0, 2000.0], [1.0, 2.0, 3.0, 4.0], rate=0.1)
    assert found is not None
    assert found.at([5000.0]) == pytest.approx((found.high,))


@pytest.mark.parametrize("shift", [1000.0, -1000.0])
def test_rates_beyond_floats_are_fitted(shift: float) -> None:
    x = [at / 2 for at in range(-8, 6)]
    y = [20 * (1 - math.exp(-math.exp(at))) for at in x]
    found = exponential([at + shift for at in x], y, from_zero=True)
    assert found is not None
    assert (found.high, found.ln_rate) == pytest.approx((20, -shift), rel=1e-4)
    assert found.rate in (0, math.inf)
    assert found.at([at + shift for at in x]) == pytest.approx(y, rel=1e-3)


def test_three_points_are_no_curve() -> None:
    assert exponential([0.0, 1.0, 2.0], [1.0, 2.0, 3.0]) is None
    assert exponential([1.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0]) is None
