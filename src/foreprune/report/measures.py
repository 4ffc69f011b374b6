"""Numbers over seeds, and what a section's runs are judged by: accuracy, or test loss where there are no classes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from foreprune.records import Record

Metric = Literal["top1", "top5", "test_loss"]


@dataclass(frozen=True)
class Spread:
    """`n` values, their mean, and their sample standard deviation (`None` for a single value)."""

    n: int
    mean: float
    std: float | None


def spread(values: Iterable[float | None]) -> Spread | None:
    """Mean and sample standard deviation of the values that are there; `None` if there is none."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    return Spread(n=len(there), mean=statistics.fmean(there), std=statistics.stdev(there) if len(there) > 1 else None)


def percent(value: Spread | None) -> str:
    """A spread of fractions as `91.23 ± 0.45` in percent; `91.23` for one value, a dash for none."""
    if value is None:
        return "–"
    return f"{100 * value.mean:.2f}" + ("" if value.std is None else f" ± {100 * value.std:.2f}")


@dataclass(frozen=True)
class Measure:
    """One result of a run.

    Attributes:
        key: the name of `Record`'s attribute.
        name: in words, as in "top-1 test accuracy".
        unit: of what is shown: "%" for fractions, "" for the loss.
        difference_unit: of a difference between two of them: "points" for fractions.
        factor: from the record's value to what is shown.
        higher_is_better: whether more of it is better.
    """

    key: Metric
    name: str
    unit: str
    difference_unit: str
    factor: float
    higher_is_better: bool

    def of(self, record: Record) -> float | None:
        """The record's value (accuracies are fractions), or `None` if it was not measured."""
        value: float | None = getattr(record, self.key)
        return value

    def text(self, value: Spread | None) -> str:
        """A spread as shown, without the unit: `91.23 ± 0.45` or `0.0123 ± 0.0004`; a dash for none."""
        if value is None or self.unit == "%":
            return percent(value)
        return f"{value.mean:.4g}" + ("" if value.std is None else f" ± {value.std:.2g}")

    def change(self, difference: float) -> str:
        """A difference as shown, with its sign and without the unit: `+0.45`."""
        shown = self.factor * difference
        return f"{shown:+.2f}" if self.unit == "%" else f"{shown:+.3g}"

    @property
    def axis(self) -> str:
        """The label of an axis."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def sentence(self) -> str:
        """Which way is better, for a caption."""
        return "higher is better" if self.higher_is_better else "lower is better"


MEASURES: dict[str, Measure] = {
    "top1": Measure("top1", "top-1 test accuracy", "%", "points", 100.0, True),
    "top5": Measure("top5", "top-5 test accuracy", "%", "points", 100.0, True),
    "test_loss": Measure("test_loss", "test loss", "", "", 1.0, False),
}


def measure_of(records: Iterable[Record]) -> Measure:
    """What these runs are judged by: top-1 accuracy, or the test loss if none has an accuracy but some have a loss."""
    done = [record for record in records if record.status == "finished"]
    regression = not any(record.top1 is not None for record in done) and any(r.test_loss is not None for r in done)
    return MEASURES["test_loss" if regression else "top1"]


def band(value: Spread, *, factor: float = 1.0) -> tuple[float, float] | None:
    """One standard deviation either side of the mean, times `factor`; `None` for a single value."""
    return None if value.std is None else (factor * (value.mean - value.std), factor * (value.mean + value.std))


def density_texts(density: float) -> tuple[str, str]:
    """Density to three significant digits and the sparsity in percent that belongs to it: `("0.018", "98.2 %")`."""
    kept = Decimal(f"{density:.3g}")
    removed = (1 - kept) * 100
    return f"{kept.normalize():f}", f"{removed.normalize():f} %"


def density_label(density: float) -> str:
    """A density and its sparsity in words: `density 0.1 (90 % removed)`."""
    kept, removed = density_texts(density)
    return f"density {kept} ({removed} removed)"
