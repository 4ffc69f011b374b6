"""Statistics that several rooms share, against counts by hand, NumPy and SciPy."""

from __future__ import annotations

import math
import random
import statistics

import numpy as np
import pytest
from scipy.stats import linregress, ttest_1samp

from foreprune.analysis.statistics import (
    BINS,
    Interval,
    LeastSquares,
    Overlap,
    Spread,
    least_squares,
    mean_interval,
    overlap_of_counts,
    sparse_units,
    spread,
    unit_histogram,
)


def test_spreads() -> None:
    values = [0.25, 0.5, 1.0]
    assert spread(values) == Spread(3, statistics.fmean(values), statistics.stdev(values))
    assert spread([None, 2.0, None]) == Spread(1, 2.0, None)
    assert spread([None]) is spread([]) is None


def test_the_interval_of_a_mean_by_hand() -> None:
    """1, 2, 6: mean 3, variance 7, t = 3 / sqrt(7 / 3) with 2 degrees of freedom, where p = 1 - t / sqrt(t^2 + 2)."""
    found = mean_interval([1.0, 2.0, 6.0])
    error = math.sqrt(7 / 3)
    assert (found.n, found.mean, found.t) == (3, 3.0, pytest.approx(3 / error, rel=1e-12))
    assert found.p == pytest.approx(1 - found.t / math.sqrt(found.t**2 + 2), rel=1e-9)
    half = 0.95 * math.sqrt(2 / (1 - 0.95**2)) * error
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), rel=1e-9)


def test_the_interval_agrees_with_scipy() -> None:
    draw = random.Random(0)
    values = [draw.gauss(-0.4, 1) for _ in range(6)]
    found, expected = mean_interval(values), ttest_1samp(values, 0)
    assert (found.t, found.p) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-9)


def test_the_interval_of_equal_values_has_no_width() -> None:
    assert mean_interval([2.0, 2.0]) == Interval(2, 2.0, 2.0, 2.0, math.inf, 0.0)
    assert mean_interval([0.0, 0.0]) == Interval(2, 0.0, 0.0, 0.0, 0.0, 1.0)


def test_an_interval_needs_two_values() -> None:
    with pytest.raises(ValueError, match=r"needs two values or more, not 1; run another seed"):
        mean_interval([1.0])


def test_the_edges_of_the_bins_belong_below() -> None:
    found = unit_histogram([0, 1, 2, 10, 19, 20], 20)
    assert [number for number, count in enumerate(found) if count] == [0, 1, 2, 10, 19, 20]
    assert len(found) == BINS == 21
    assert unit_histogram([3] * 5, 300) == (0, 5, *[0] * 19)  # one per cent, in the first bin above none
    assert unit_histogram([], 7) == (0,) * 21
    assert unit_histogram([0, 0], 0) == (2, *[0] * 20)


def test_shares_of_sparse_units() -> None:
    found = sparse_units([unit_histogram([0, 5, 20, 20], 20), unit_histogram([0], 9)])
    # sparsities 1, 0.75, 0, 0 and 1
    assert found == (1.0, *[3 / 5] * 15, *[2 / 5] * 5)
    assert sparse_units([]) == (0.0,) * 21


def test_overlap_of_counts_by_hand() -> None:
    found = overlap_of_counts({"a": 3, "b": 4}, {"a": 4, "b": 1}, {"a": 2, "b": 1}, sizes={"a": 8, "b": 4})
    assert found.layers["a"] == Overlap(total=8, first=3, second=4, both=2, expected_both=1.5)
    assert found.total == Overlap(total=12, first=7, second=5, both=3, expected_both=2.5)
    assert found.total.jaccard == 3 / 9
    assert found.total.expected_jaccard == 2.5 / 9.5


def test_a_line_is_found_again() -> None:
    x = (0.0, 1.0, 4.0, 9.0)
    found = least_squares((x, 1), [2.0 - 0.5 * value for value in x])
    assert found == LeastSquares(pytest.approx((-0.5, 2.0), abs=1e-12), pytest.approx(1.0), 4)


def test_fits_agree_with_scipy() -> None:
    draw = random.Random(0)
    for n in (3, 5, 40):
        x, y = ([draw.gauss(mean, 3) for _ in range(n)] for mean in (50, -2))
        found, expected = least_squares((x, 1), y), linregress(x, y)
        assert found.coefficients == pytest.approx((expected.slope, expected.intercept), rel=1e-9)
        assert found.r2 == pytest.approx(expected.rvalue**2, rel=1e-9)


def test_the_coefficient_of_determination() -> None:
    x, y = np.arange(4.0), np.array([0, 1, 1, 2.0])
    assert least_squares((x, 1), y).r2 == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2)
    assert least_squares((x, 1), [4, 4, 4, 4]).r2 == pytest.approx(1)
    assert least_squares((x,), [4, 4, 4, 4]).r2 == 0
    assert least_squares((x,), [3, 1, 1, 0]).r2 < 0  # without a constant a curve can be worse than the mean
