"""Statistics that analysis, runs and reports share: spreads, units by density, overlap, least squares. No torch."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BINS = 21  # of a histogram of units
CONFIDENCE = 0.95  # of intervals


@dataclass(frozen=True)
class Spread:
    """`n` values, their mean, and their sample standard deviation (`None` for a single value)."""

    n: int
    mean: float
    std: float | None


def spread(values: Iterable[float | None]) -> Spread | None:
    """Mean and sample standard deviation (n - 1 in the denominator) of the values that are not `None`; `None` if there
    is none."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    return Spread(n=len(there), mean=statistics.fmean(there), std=statistics.stdev(there) if len(there) > 1 else None)


@dataclass(frozen=True)
class Interval:
    """The mean of `n` values, its 95 % confidence interval, and Student's t-test (two-sided) of a mean of zero."""

    n: int
    mean: float
    low: float
    high: float
    t: float
    p: float


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of independent values, such as one of each seed, with its interval by Student's t distribution.

    Values that are all alike have an interval of no width; t is then infinite and p 0 (or 0 and 1 for zeros).

    Raises:
        ValueError: fewer than two values.
        ImportError: SciPy is not installed.
    """
    if len(values) < 2:
        raise ValueError(f"an interval of a mean needs two values or more, not {len(values)}; run another seed")
    from scipy.stats import t as student

    mean = statistics.fmean(values)
    error = statistics.stdev(values) / math.sqrt(len(values))
    freedom = len(values) - 1
    statistic = mean / error if error else math.copysign(math.inf, mean) if mean else 0.0
    half = float(student.ppf(0.5 + CONFIDENCE / 2, freedom)) * error
    return Interval(
        len(values), mean, mean - half, mean + half, statistic, 2 * float(student.sf(abs(statistic), freedom))
    )


def unit_histogram(kept: Sequence[int], fan_in: int) -> tuple[int, ...]:
    """How many units keep which share of their `fan_in` incoming weights, given the number that each keeps.

    The first of the 21 counts is of units that keep nothing, the others of shares in bins of width 0.05, open below and
    closed above; their sum is the number of units. Whole numbers decide, so that no share misses its bin by rounding.
    """
    fan_in = max(fan_in, 1)
    bins = (np.asarray(kept, dtype=np.int64) * (BINS - 1) + fan_in - 1) // fan_in
    return tuple(np.bincount(bins, minlength=BINS).tolist())


def sparse_units(histograms: Iterable[Sequence[int]]) -> tuple[float, ...]:
    """Share of units with a sparsity of at least 0, 5, ..., 100 %, (21,), over the `unit_histogram`s of all layers.

    Frankle et al. 2021, figure 5. The sparsity of a unit is the share of its incoming weights that is pruned; at 100 %
    stand the units that have collapsed.
    """
    counts = [sum(column) for column in zip(*histograms, strict=True)] or [0] * BINS
    total = max(sum(counts), 1)
    # a sparsity of at least 1 - i / 20 is a density of at most i / 20: the first i + 1 bins
    return tuple(count / total for count in itertools.accumulate(counts))[::-1]


@dataclass(frozen=True)
class Overlap:
    """How far two masks of one tensor agree, or of several.

    Attributes:
        total: weights.
        first: kept by the first masks.
        second: kept by the second.
        both: kept by both.
        expected_both: mean of `both` for masks that keep as many weights of each tensor, at random positions.
    """

    total: int
    first: int
    second: int
    both: int
    expected_both: float

    @property
    def jaccard(self) -> float:
        """Kept by both over kept by either; 1 where neither keeps any."""
        return _share(self.both, self.first + self.second - self.both)

    @property
    def expected_jaccard(self) -> float:
        """The same by chance: the ratio of the means of both counts."""
        return _share(self.expected_both, self.first + self.second - self.expected_both)

    @property
    def shared(self) -> float:
        """Kept by both over what the sparser one keeps; 1 if one is a subset of the other."""
        return _share(self.both, min(self.first, self.second))

    @property
    def expected_shared(self) -> float:
        """The same by chance."""
        return _share(self.expected_both, min(self.first, self.second))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


@dataclass(frozen=True)
class MaskOverlap:
    """The overlap of each tensor, of all together given their counts, and by chance without regard to layers.

    Attributes:
        layers: name -> overlap.
        total: sums over the layers; `expected_both` keeps the number of weights of each layer, so that it says what
            agreement the layer densities alone bring.
        expected_both_global: mean of `total.both` if both masks were random over the whole network.
    """

    layers: Mapping[str, Overlap]
    total: Overlap
    expected_both_global: float


def overlap_of_counts(
    first: Mapping[str, int], second: Mapping[str, int], both: Mapping[str, int], *, sizes: Mapping[str, int]
) -> MaskOverlap:
    """The overlap of two masks that keep so many weights of each tensor, alone and together; `sizes` are all weights.

    If masks keep a and b of n weights of a tensor at random positions, both keep a b / n of them on average.
    """
    layers = {
        name: Overlap(size, first[name], second[name], both[name], first[name] * second[name] / size if size else 0.0)
        for name, size in sizes.items()
    }
    total = Overlap(
        total=sum(layer.total for layer in layers.values()),
        first=sum(layer.first for layer in layers.values()),
        second=sum(layer.second for layer in layers.values()),
        both=sum(layer.both for layer in layers.values()),
        expected_both=sum(layer.expected_both for layer in layers.values()),
    )
    return MaskOverlap(layers, total, total.first * total.second / max(total.total, 1))


@dataclass(frozen=True)
class LeastSquares:
    """A curve fitted by least squares.

    Attributes:
        coefficients: of its terms, in the order they were given.
        r2: coefficient of determination, 1 - residual / total sum of squares about the mean; may be negative for a
            curve without a constant.
        n: number of points.
    """

    coefficients: tuple[float, ...]
    r2: float
    n: int


def least_squares(terms: Sequence[Any], values: Any) -> LeastSquares:
    """Fit values = sum of coefficient times term. Each term is a sequence of n numbers, as `values` is, or a constant.

    If all values are equal there is nothing to explain: r2 is then 1 for an exact fit, else 0.
    """
    wanted = np.asarray(values, dtype=np.float64)
    columns = np.stack([np.broadcast_to(np.asarray(term, dtype=np.float64), wanted.shape) for term in terms], 1)
    coefficients, *_ = np.linalg.lstsq(columns, wanted, rcond=None)
    residual = float(np.square(wanted - columns @ coefficients).sum())
    total = float(np.square(wanted - wanted.mean()).sum())
    if total:
        r2 = 1 - residual / total
    else:
        r2 = 1.0 if residual <= 1e-12 * float(np.square(wanted).sum()) else 0.0
    return LeastSquares(tuple(coefficients.tolist()), r2, len(wanted))
