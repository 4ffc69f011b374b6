"""Numbers that papers print, and the runs they belong to, so that ours can stand beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from foreprune.analysis.statistics import Spread, spread
from foreprune.experiments import parse_timed_method
from foreprune.papers import find
from foreprune.papers.entry import Runs
from foreprune.papers.setting import powers

Measure = Literal["empty channels", "accuracy", "best accuracy", "error"]
Row = Mapping[str, Any]

# measure -> column of `foreprune.records.frame`, and percent from what it holds
MEASURES: Mapping[Measure, tuple[str, Callable[[float], float]]] = {
    "empty channels": ("empty_channels", lambda share: 100 * share),
    "accuracy": ("top1", lambda share: 100 * share),
    "best accuracy": ("best_top1", lambda share: 100 * share),
    "error": ("top1", lambda share: 100 - 100 * share),
}


@dataclass(frozen=True, kw_only=True)
class Published:
    """One printed number.

    Attributes:
        entry: table or figure, by the name of `foreprune.papers`; the runs are some of its own at the scale "paper".
        model, data, method, density, ablation: which of them; `method` with its settings, as `foreprune compare` takes
            it, and `data` empty for any.
        measure: what is measured, after the last epoch unless it says "best": "empty channels" is the share of
            convolutions' output channels without an incoming weight.
        value: the number, in percent.
        within: how far our mean may be off, in points.
    """

    entry: str
    model: str
    method: str
    density: float
    value: float
    within: float
    data: str = ""
    ablation: str = "none"
    measure: Measure = "accuracy"


@dataclass(frozen=True)
class Beside:
    """A published number and ours in percent, over the seeds that were run."""

    published: Published
    ours: Spread

    @property
    def difference(self) -> float:
        """Ours minus theirs, in points."""
        return self.ours.mean - self.published.value

    @property
    def text(self) -> str:
        """Our mean with the standard deviation over seeds."""
        digits = 1 if self.published.measure == "empty channels" else 2
        std = "" if self.ours.std is None else f" ± {self.ours.std:.{digits}f}"
        return f"{self.ours.mean:.{digits}f}{std}"

    @property
    def agrees(self) -> bool:
        """Whether our mean lies within the tolerance."""
        return abs(self.difference) <= self.published.within


def beside(rows: Iterable[Row], numbers: Sequence[Published] | None = None) -> list[Beside]:
    """Each published number that `rows` hold runs of, with ours.

    Args:
        rows: of `foreprune.records.frame`, or of `row_of`. Runs count by their id, so that a shorter training or other
            data never stands beside a published number.
        numbers: default: all of `PUBLISHED`.
    """
    finished = {row["id"]: row for row in rows if row["status"] == "finished"}
    found = []
    for number in PUBLISHED if numbers is None else numbers:
        column, percent = MEASURES[number.measure]
        cells = [finished[name].get(column) for name in run_ids(number) if name in finished]
        ours = spread(percent(cell) for cell in cells if cell is not None and math.isfinite(cell))
        if ours is not None:
            found.append(Beside(number, ours))
    return found


@cache
def run_ids(number: Published) -> tuple[str, ...]:
    """The ids of the runs that a published number belongs to, one for each seed."""
    method, hyper, prune_at = parse_timed_method(number.method)
    return tuple(
        run.id
        for run in _runs(number.entry)
        if (run.model, run.method, run.hyper, run.prune_at) == (number.model, method, hyper, prune_at)
        and (run.density, run.ablation) == (number.density, number.ablation)
        and run.data == (number.data or run.data)
        and not run.init.startswith("constant-variance")
    )


@cache
def _runs(entry: str) -> Runs:
    return find(entry).experiments("paper")


def _numbers(
    entry: str, model: str, density: float, values: Mapping[str, float], *, within: float, **more: Any
) -> list[Published]:
    """One row of a table: method -> number. The dense network keeps every weight."""
    return [
        Published(
            entry=entry,
            model=model,
            method=method,
            density=1.0 if method == "dense" else density,
            value=value,
            within=within,
            **more,
        )
        for method, value in values.items()
    ]


def _collapse() -> Iterator[Published]:
    """Frankle et al., section 5: channels without a weight at the highest matching sparsity, and SynFlow's shuffled.

    "Less than one percent" of ResNet-18 under magnitude is taken as 0.
    """
    entry = "frankle-figure-5"
    for model, exponent, values, shuffled in (
        ("resnet-20", 6, {"magnitude": 0, "snip": 5, "grasp": 1, "synflow": 31}, 1),
        ("vgg-16", 12, {"magnitude": 0, "snip": 11, "grasp": 6, "synflow": 52}, 0),
        ("resnet-18-imagenet", 15, {"magnitude": 0, "snip": 32, "grasp": 14, "synflow": 69}, 3.5),
        ("resnet-50", 5, {"magnitude": 0, "snip": 7, "grasp": 1, "synflow": 29}, 13),
    ):
        (density,) = powers(0.8, [exponent])
        measured: dict[str, Any] = {"measure": "empty channels", "within": 1.5}
        yield from _numbers(entry, model, density, values, **measured)
        yield from _numbers(entry, model, density, {"synflow": shuffled}, ablation="shuffle", **measured)


def _replications() -> Iterator[Published]:
    """Frankle et al., tables 2, 3, 5 and 7: their own results."""
    for model, density, pruned, dense in (
        ("vgg-16", 0.03, 92.1, 93.6),
        ("vgg-16-2fc", 0.05, 92.3, 93.5),
        ("wrn-14-8", 0.05, 93.4, 95.2),
        ("wrn-14-10", 0.05, 93.9, 95.4),
        ("wrn-20-8", 0.05, 94.3, 95.6),
    ):
        yield from _numbers("frankle-table-2", model, density, {"dense": dense, "snip": pruned}, within=0.7)
    for model, dense, snip, grasp in (
        ("vgg-19", 93.5, {0.1: 93.5, 0.05: 93.4}, {0.1: 92.8, 0.05: 92.5, 0.02: 91.6}),  # SNIP diverged at 0.02
        ("wrn-32-2", 94.5, {0.1: 92.5, 0.05: 91.0, 0.02: 87.7}, {0.1: 92.2, 0.05: 90.9, 0.02: 88.3}),
        ("resnet-50", 76.2, {0.4: 73.9, 0.2: 71.2, 0.1: 65.7}, {0.4: 73.4, 0.2: 71.0, 0.1: 67.0}),
    ):
        yield from _numbers("frankle-table-3", model, 1.0, {"dense": dense}, within=0.7)
        for density, value in snip.items():
            yield from _numbers("frankle-table-3", model, density, {"snip": value}, within=0.7)
        for density, value in grasp.items():
            yield from _numbers("frankle-table-5", model, density, {"grasp": value}, within=0.7)
    for model, value in (("vgg-11", 92.0), ("vgg-16", 93.5)):
        yield from _numbers("frankle-table-7", model, 1.0, {"dense": value}, within=0.7)


def _ntk_sap() -> Iterator[Published]:
    """Wang et al., tables 12 to 14 at a variance of 1e-4, and table 1."""
    for entry, model, settings, values in (
        ("ntksap-table-12", "resnet-20", "", (91.36, 90.04, 87.86, 83.84, 77.66)),
        ("ntksap-table-13", "vgg-16", ":rounds=100,resamplings=1,samples=1000", (74.10, 74.12, 73.28, 71.85, 69.27)),
        (
            "ntksap-table-14",
            "resnet-18-imagenet",
            ":rounds=100,resamplings=1,samples=2000",
            (51.89, 52.69, 51.90, 49.29, 43.92),
        ),
    ):
        for density, value in zip(powers(0.8, (2, 6, 10, 14, 18)), values, strict=True):
            yield from _numbers(entry, model, density, {f"ntk-sap{settings}": value}, within=0.7)
    yield from _comparison()
    names = ("synflow", "snip", "iterative-snip", "grasp", "magnitude", "random", "ntk-sap:resamplings=1,samples=10000")
    for model, exponent, dense, table in (
        ("resnet-18-imagenet", 10, 69.98, (57.30, 57.41, 52.97, 58.16, 58.75, 54.48, 58.87)),
        ("resnet-18-imagenet", 14, None, (45.65, 45.04, 37.44, 49.17, 48.50, 42.80, 49.43)),
        ("resnet-50", 10, 76.20, (66.81, 60.98, 52.53, 67.74, 66.80, 65.30, 68.28)),
        ("resnet-50", 14, None, (58.88, 40.69, 36.82, 59.73, 43.79, 56.53, 60.79)),
    ):
        whole = {} if dense is None else {"dense": dense}
        (density,) = powers(0.8, [exponent])
        numbers = {**whole, **dict(zip(names, table, strict=True))}
        yield from _numbers("ntksap-table-1", model, density, numbers, within=0.7)


def _comparison() -> Iterator[Published]:
    """Wang et al., the main figure, read off the figure within 0.1; NTK-SAP is in tables 12 to 14."""
    for model, exponent, values in (
        ("resnet-20", 4, {"grasp": 90.3}),
        ("resnet-20", 6, {"grasp": 89.4, "synflow": 89.6}),
        ("resnet-20", 10, {"snip": 87.5, "grasp": 87.4, "synflow": 86.8, "random": 86.4}),
        ("resnet-20", 12, {"snip": 85.1, "grasp": 85.8, "magnitude": 85.3}),
        ("resnet-20", 14, {"snip": 82.8, "grasp": 83.4, "synflow": 82.5, "magnitude": 83.2, "random": 80.6}),
        ("resnet-20", 16, {"snip": 79.1, "grasp": 80.9, "synflow": 79.0, "magnitude": 80.6}),
        ("resnet-20", 18, {"grasp": 76.9, "synflow": 75.2, "magnitude": 76.0}),
        ("vgg-16", 4, {"snip": 74.1, "grasp": 73.0}),
        ("vgg-16", 6, {"snip": 73.8, "grasp": 72.7}),
        ("vgg-16", 10, {"snip": 73.0, "grasp": 71.7}),
        ("vgg-16", 12, {"snip": 72.1, "grasp": 70.8}),
        ("vgg-16", 14, {"snip": 71.3, "grasp": 70.2}),
        ("vgg-16", 16, {"snip": 69.9, "grasp": 69.3}),
        ("vgg-16", 18, {"grasp": 67.9}),
        ("resnet-18-imagenet", 4, {"snip": 51.7, "grasp": 50.1}),
        ("resnet-18-imagenet", 6, {"snip": 51.8, "grasp": 49.6}),
        ("resnet-18-imagenet", 10, {"snip": 51.1, "grasp": 49.5}),
        ("resnet-18-imagenet", 12, {"snip": 50.3, "grasp": 48.4}),
        ("resnet-18-imagenet", 14, {"snip": 48.8, "grasp": 47.1}),
        ("resnet-18-imagenet", 16, {"snip": 46.1, "grasp": 45.3}),
        ("resnet-18-imagenet", 18, {"snip": 42.3, "grasp": 42.7}),
    ):
        (density,) = powers(0.8, [exponent])
        yield from _numbers("ntksap-main-figure", model, density, values, within=0.7)


def _snip() -> Iterator[Published]:
    """Lee et al., table 1: errors with one digit, of 20 seeds."""
    measured: dict[str, Any] = {"measure": "error", "within": 0.3}
    for model, dense, snip in (
        ("lenet-300-100", 1.7, {0.05: 1.6, 0.02: 2.4}),
        ("lenet-5", 0.9, {0.02: 0.8, 0.01: 1.1}),
    ):
        yield from _numbers("snip-table-1", model, 1.0, {"dense": dense}, **measured)
        for density, value in snip.items():
            yield from _numbers("snip-table-1", model, density, {"snip": value}, ablation="reinit", **measured)


def _synflow() -> Iterator[Published]:
    """Tanaka et al., figure 6, VGG-16 on CIFAR-10: the authors' data, best epoch on the test images, three seeds."""
    names = ("snip", "grasp", "synflow", "magnitude", "random")
    for exponent, values in (
        (-0.5, (93.28, 93.09, 93.54, 93.33, 93.05)),
        (-1, (92.26, 91.84, 93.26, 93.12, 91.15)),
        (-1.5, (91.08, 90.17, 92.12, 91.95, 87.52)),
        (-2, (89.15, 87.49, 90.08, 89.80, 79.14)),
        (-3, (76.25, 70.93, 80.39, 10.00, 10.00)),
    ):
        (density,) = powers(10, [exponent])
        numbers = dict(zip(names, values, strict=True))
        yield from _numbers("synflow-figure-6", "vgg-16", density, numbers, measure="best accuracy", within=0.7)


PUBLISHED: tuple[Published, ...] = (*_collapse(), *_replications(), *_ntk_sap(), *_snip(), *_synflow())
