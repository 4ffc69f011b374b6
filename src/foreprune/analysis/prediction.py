"""Whether one quantity predicts another beyond what a third says, and the exponential curve of convergence. No torch.

Gebhart, Saxena & Schrater 2021 plot how far training moves a network against the trace of its path kernel. Both grow
with the number of weights, so the trace predicts something only if it does so beyond that number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foreprune.analysis.statistics import LeastSquares, least_squares


@dataclass(frozen=True)
class Added:
    """What a term explains beyond others, by least squares.

    Attributes:
        alone: R squared on the term and a constant.
        given: R squared on the other terms.
        both: R squared on all of them.
        coefficient: of the term beside the others.
        n: number of points.
    """

    alone: float
    given: float
    both: float
    coefficient: float
    n: int

    @property
    def partial(self) -> float:
        """Partial R squared: the share of what the other terms leave unexplained that the term explains."""
        left = 1 - self.given
        return (self.both - self.given) / left if left > 0 else 0.0


def added(term: Sequence[float], values: Sequence[float], *, given: Sequence[Any]) -> Added | None:
    """What `term` (n,) explains of `values` (n,) beyond the terms `given`, each (n,) or a constant.

    `None` where there is nothing to estimate: no more points than terms, or a term that the others determine.
    """
    x = np.asarray(term, dtype=np.float64)
    columns = np.stack([np.broadcast_to(np.asarray(each, dtype=np.float64), x.shape) for each in given], 1)
    if len(x) <= columns.shape[1] + 1:
        return None
    left = x - columns @ np.linalg.lstsq(columns, x, rcond=None)[0]
    if np.square(left).sum() <= 1e-12 * np.square(x - x.mean()).sum() or not np.ptp(x):
        return None
    whole = least_squares((x, *given), values)
    return Added(
        alone=least_squares((x, 1), values).r2,
        given=least_squares(given, values).r2,
        both=whole.r2,
        coefficient=whole.coefficients[0],
        n=whole.n,
    )


def levels(groups: Sequence[Any]) -> list[list[float]]:
    """A term for each group, 1 for its members and 0 for others: together they are one level for each group."""
    return [[float(group == mine) for group in groups] for mine in sorted(set(groups))]


def correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Pearson's correlation; `None` for fewer than three points, or where all x or all y agree."""
    if len(x) < 3 or not np.ptp(x) or not np.ptp(y):
        return None
    return float(np.corrcoef(x, y)[0, 1])


@dataclass(frozen=True)
class Exponential:
    """The curve (1 - e) high + e low with e = exp(-rate trace), and the R squared of its fit to n points.

    Gebhart et al. 2021, section 5.1: `rate` is the learning rate times the time of training, kept as its natural
    logarithm, as traces of deep networks leave the range of a float; for the distance of the weights `low` is 0.
    """

    high: float
    low: float
    ln_rate: float
    r2: float
    n: int

    @property
    def rate(self) -> float:
        """The rate itself; 0 or infinite where a float does not hold it."""
        with np.errstate(over="ignore"):
            return float(np.exp(self.ln_rate))

    def at(self, ln_trace: Sequence[float]) -> tuple[float, ...]:
        """The curve at these natural logarithms of the trace."""
        decay = _decay(np.asarray(ln_trace), self.ln_rate)
        return tuple((self.high * (1 - decay) + self.low * decay).tolist())


def exponential(
    ln_trace: Sequence[float], values: Sequence[float], *, rate: float | None = None, from_zero: bool = False
) -> Exponential | None:
    """Fit the curve of section 5.1 of Gebhart et al. 2021 by least squares; `None` for fewer than four points.

    Args:
        ln_trace: natural logarithms of the trace, (n,).
        values: distances, (n,).
        rate: learning rate times time; fitted too if not given, within the range in which the data bear on it.
        from_zero: fix `low` at 0, as for weights, which start at no distance.

    Raises:
        ImportError: SciPy is not installed.
    """
    x, y = np.asarray(ln_trace, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if len(x) < 4 or not np.ptp(x):
        return None
    if rate is not None:
        return _with_rate(x, y, float(np.log(rate)), from_zero)
    from scipy.optimize import curve_fit

    edges = (-float(x.max()) - 2, -float(x.min()) + 2)
    starts = [_with_rate(x, y, float(at), from_zero) for at in np.linspace(*edges, 50)[1:-1]]
    best = max(starts, key=lambda found: found.r2)

    def curve(at: Any, ln_rate: float, high: float, low: float = 0.0) -> Any:
        decay = _decay(at, ln_rate)
        return high * (1 - decay) + low * decay

    guess = [best.ln_rate, best.high, *([] if from_zero else [best.low])]
    free = [np.inf] * (len(guess) - 1)
    bounds = ([edges[0], *(-value for value in free)], [edges[1], *free])
    with np.errstate(all="ignore"):
        found, _ = curve_fit(curve, x, y, p0=guess, bounds=bounds, max_nfev=10_000)
    return max(best, _with_rate(x, y, float(found[0]), from_zero), key=lambda fit: fit.r2)


def _decay(ln_trace: Any, ln_rate: float) -> Any:
    with np.errstate(over="ignore"):
        return np.exp(-np.exp(ln_trace + ln_rate))


def _with_rate(x: Any, y: Any, ln_rate: float, from_zero: bool) -> Exponential:
    """The best curve of this rate, which is linear in the other two."""
    decay = _decay(x, ln_rate)
    fit: LeastSquares = least_squares((1 - decay,) if from_zero else (1 - decay, decay), y)
    high, low = (*fit.coefficients, 0.0)[:2]
    return Exponential(high, low, ln_rate, fit.r2, fit.n)
