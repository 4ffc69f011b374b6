"""What runs are judged by, accuracy or, where there are no classes, test loss; and how numbers are written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from foreprune.analysis.statistics import Spread
from foreprune.records import Record

Metric = Literal["top1", "top5", "test_loss"]


def plus_minus(value: Spread | None, *, factor: float = 1.0, mean: str = ".2f", std: str = ".2f") -> str:
    """A spread as `91.23 ± 0.45`, mean and deviation in these formats; `91.23` for one value, a dash for none."""
    if value is None:
        return "–"
    return f"{factor * value.mean:{mean}}" + ("" if value.std is None else f" ± {factor * value.std:{std}}")


def percent(value: Spread | None) -> str:
    """A spread of fractions in percent."""
    return plus_minus(value, factor=100)


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
        margin: the smallest difference that matters, in the record's units: half a percentage point of accuracy, `None`
            for losses, which have no common scale.
    """

    key: Metric
    name: str
    unit: str
    difference_unit: str
    factor: float
    higher_is_better: bool
    margin: float | None = None

    def of(self, record: Record) -> float | None:
        """The record's value (accuracies are fractions), or `None` if it was not measured."""
        value: float | None = getattr(record, self.key)
        return value

    def text(self, value: Spread | None) -> str:
        """A spread as shown, without the unit: `91.23 ± 0.45` or `0.0123 ± 0.0004`; a dash for none."""
        return percent(value) if self.unit == "%" else plus_minus(value, mean=".4g", std=".2g")

    def change(self, difference: float) -> str:
        """A difference as shown, with its sign and without the unit: `+0.45`."""
        shown = self.factor * difference
        return f"{shown:+.2f}" if self.unit == "%" else f"{shown:+.3g}"

    @property
    def axis(self) -> str:
        """The label of an axis."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def short(self) -> str:
        """The name without the usual "top-1"."""
        return self.name.removeprefix("top-1 ")

    @property
    def sentence(self) -> str:
        """Which way is better, for a caption."""
        return "higher is better" if self.higher_is_better else "lower is better"


MEASURES: dict[str, Measure] = {
    "top1": Measure("top1", "top-1 test accuracy", "%", "points", 100.0, True, 0.005),
    "top5": Measure("top5", "top-5 test accuracy", "%", "points", 100.0, True, 0.005),
    "test_loss": Measure("test_loss", "test loss", "", "", 1.0, False),
}


def measure_of(records: Iterable[Record]) -> Measure:
    """What these runs are judged by: top-1 accuracy, or the test loss if none has an accuracy but some have a loss."""
    done = [record for record in records if record.status == "finished"]
    regression = not any(record.top1 is not None for record in done) and any(r.test_loss is not None for r in done)
    return MEASURES["test_loss" if regression else "top1"]


def density_texts(density: float) -> tuple[str, str]:
    """Density to three significant digits and the sparsity in percent that belongs to it: `("0.018", "98.2 %")`."""
    kept = Decimal(f"{density:.3g}")
    removed = (1 - kept) * 100
    return f"{kept.normalize():f}", f"{removed.normalize():f} %"


def density_label(density: float) -> str:
    """A density and its sparsity in words: `density 0.1 (90 % removed)`."""
    kept, removed = density_texts(density)
    return f"density {kept} ({removed} removed)"
