"""Records that may be compared: sections, and within them the lines that figures and tables show."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from foreprune.analysis.statistics import Spread, spread
from foreprune.records import Experiment, Record
from foreprune.report.colors import DENSE, Style, style_of
from foreprune.report.labels import Variant, ablation_order, printable, variants
from foreprune.report.measures import Measure, density_label, measure_of


@dataclass(frozen=True)
class Condition:
    """What was done to every method alike: the step it was pruned at (0: before training), and the ablation ("")."""

    step: int = 0
    ablation: str = ""

    @property
    def plain(self) -> bool:
        """Whether nothing was done."""
        return not self.step and not self.ablation

    def words(self, density: float) -> str:
        """The condition and a density in words: `density 0.1 (90 % removed), at step 1000, shuffled`."""
        parts = [density_label(density), f"at step {self.step}" if self.step else "", self.ablation]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Row:
    """One method at one density in one section, over seeds.

    `seeds` are those of the finished runs; `failed` counts the others. `kept` is the mean fraction of prunable weights
    really kept. `top1`, `top5` and `test_loss`, of the *last* epoch, are `None` without a finished run that measured
    them.
    """

    method: str
    label: str
    density: float
    seeds: tuple[int, ...]
    failed: int
    kept: float | None
    top1: Spread | None
    top5: Spread | None
    test_loss: Spread | None

    def value(self, measure: Measure) -> Spread | None:
        """The row's result."""
        found: Spread | None = getattr(self, measure.key)
        return found


@dataclass(frozen=True)
class Section:
    """Runs that may be compared: the same data, network, initialization, training set and recipe.

    `labels` maps every record's id to its label, `variants` every label to what it stands for; `settings` are the facts
    that all its runs share. `runs` is the folder that holds the folder of each run, if there is one.
    """

    title: str
    slug: str
    data: str
    model: str
    settings: tuple[tuple[str, str], ...]
    records: tuple[Record, ...]
    labels: dict[str, str]
    variants: dict[str, Variant]
    runs: Path | None = None

    @cached_property
    def measure(self) -> Measure:
        """What the section's runs are judged by."""
        return measure_of(self.records)

    @cached_property
    def _ordered(self) -> tuple[Variant, ...]:
        return tuple(sorted(self.variants.values(), key=lambda variant: variant.order))

    def methods(self, *, ablated: bool = False) -> tuple[tuple[str, str], ...]:
        """`(label, method)` of the original runs, or of the ablated ones; dense first, in the order of legends."""
        return tuple((each.label, each.method) for each in self._ordered if bool(each.ablation) == ablated)

    @cached_property
    def _timed(self) -> frozenset[str]:
        """Methods (with settings) that were pruned at several steps: the step is then an axis and not part of names."""
        steps: dict[str, set[int]] = defaultdict(set)
        for each in self._ordered:
            steps[each.untimed].add(each.step)
        return frozenset(untimed for untimed, found in steps.items() if len(found) > 1)

    def condition(self, label: str) -> Condition:
        """What was done to the runs of `label`; a step counts only where the same method was pruned at several."""
        found = self.variants[label]
        return Condition(step=found.step if found.untimed in self._timed else 0, ablation=found.ablation)

    def name(self, label: str) -> str:
        """The name of `label` in figures whose view or axis says the condition: `snip` for `snip, shuffled`."""
        found = self.variants[label]
        return found.untimed if found.untimed in self._timed else found.base

    def conditions(self) -> tuple[Condition, ...]:
        """Every condition of the section, the plain one first."""
        found = {self.condition(label) for label in self.variants}
        return tuple(sorted(found, key=lambda each: (each.step, ablation_order(each.ablation))))

    def lines(self, condition: Condition = Condition()) -> dict[str, str]:
        """Name in figures -> label of what was pruned under `condition`, in the order of legends."""
        mine = [each for each in self._ordered if self.condition(each.label) == condition and each.method != DENSE]
        return {self.name(each.label): each.label for each in mine}

    @cached_property
    def styles(self) -> dict[str, Style]:
        """Name in a figure -> style: color and marker by method, dash by variant of the method."""
        found: dict[str, Style] = {}
        counts: dict[str, int] = defaultdict(int)
        for each in self._ordered:
            name = self.name(each.label)
            if name not in found:
                found[name] = style_of(each.method, variant=counts[each.method])
                counts[each.method] += 1
        return found

    def style(self, label: str) -> Style:
        """The style of the runs of `label`."""
        return self.styles[self.name(label)]

    @cached_property
    def _finished(self) -> dict[str, dict[tuple[float, int], Record]]:
        found: dict[str, dict[tuple[float, int], Record]] = defaultdict(dict)
        for record in sorted(self.records, key=lambda record: record.id):
            if record.status == "finished":
                key = (record.experiment.density, record.experiment.seed)
                found[self.labels[record.id]].setdefault(key, record)
        return {label: {key: mine[key] for key in sorted(mine)} for label, mine in found.items()}

    def finished(self, *, label: str, density: float | None = None) -> tuple[Record, ...]:
        """The finished records of one label, at one density if given, by seed; one record per seed and density."""
        mine = self._finished.get(label, {})
        return tuple(record for (at, _), record in mine.items() if density in (None, at))

    def pruned(self, density: float | None = None, condition: Condition = Condition()) -> dict[str, tuple[Record, ...]]:
        """Name in figures -> its finished records, at one density if given; see `lines`."""
        return {name: self.finished(label=label, density=density) for name, label in self.lines(condition).items()}

    def rows(self, *, ablated: bool = False) -> list[Row]:
        """The rows of the original runs, or of the ablated ones: methods as in legends, then from dense to sparse."""
        found = []
        for label, method in self.methods(ablated=ablated):
            mine = [record for record in self.records if self.labels[record.id] == label]
            for density in sorted({record.experiment.density for record in mine}, reverse=True):
                done = self.finished(label=label, density=density)
                failed = [r for r in mine if r.status == "failed" and r.experiment.density == density]
                kept = spread(record.density for record in done)
                found.append(
                    Row(
                        method=method,
                        label=label,
                        density=density,
                        seeds=tuple(record.experiment.seed for record in done),
                        failed=len(failed),
                        kept=kept.mean if kept else None,
                        top1=spread(record.top1 for record in done),
                        top5=spread(record.top5 for record in done),
                        test_loss=spread(record.test_loss for record in done),
                    )
                )
        return found

    def pairs(self, label: str, other: str, density: float) -> dict[int, tuple[float, float]]:
        """Seed -> results of `label` and `other` at this density, for the seeds that finished both."""
        mine, theirs = (
            {
                record.experiment.seed: value
                for record in self.finished(label=each, density=density)
                if (value := self.measure.of(record)) is not None
            }
            for each in (label, other)
        )
        return {seed: (mine[seed], theirs[seed]) for seed in sorted(mine.keys() & theirs.keys())}

    def densities(self) -> tuple[float, ...]:
        """The densities that pruned runs were asked for, from the densest to the sparsest."""
        pruned = (record.experiment for record in self.records if record.experiment.method != DENSE)
        return tuple(sorted({experiment.density for experiment in pruned}, reverse=True))


def _shared(experiment: Experiment) -> dict[str, Any]:
    """What two runs must have in common to be compared."""
    values = experiment.model_dump(mode="json", include={"data", "model", "train_size", "init", "recipe"})
    recipe = values.pop("recipe")
    return values | {f"recipe.{key}": value for key, value in recipe.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def sections(records: Iterable[Record], *, runs: Path | None = None) -> tuple[Section, ...]:
    """Split records into sections of comparable runs, ordered by data and network.

    Runs that differ in training recipe, initialization or number of training images are never averaged: they make
    sections of their own, whose titles name the difference. `runs` is the folder of the runs' folders, where masks lie.
    """
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in {record.id: record for record in records}.values():
        groups[json.dumps(_shared(record.experiment), sort_keys=True)].append(record)
    shared = {key: json.loads(key) for key in groups}
    found: list[Section] = []
    for key in sorted(groups, key=lambda key: (shared[key]["data"], shared[key]["model"], key)):
        facts = shared[key]
        alike = [
            other for other in shared.values() if (other["data"], other["model"]) == (facts["data"], facts["model"])
        ]
        differing = [name for name in facts if any(other[name] != facts[name] for other in alike)]
        title = " · ".join(
            [printable(facts["data"]), printable(facts["model"])]
            + [printable(f"{name.removeprefix('recipe.')}={_text(facts[name])}") for name in differing]
        )
        members = tuple(sorted(groups[key], key=lambda record: record.id))
        settings = tuple(
            (name, printable(_text(value))) for name, value in facts.items() if name not in ("data", "model")
        )
        words = "".join(
            mark if mark.isascii() and mark.isalnum() else "-" for mark in f"{facts['data']}-{facts['model']}"
        )
        taken = sum(other.slug.startswith(words) for other in found)
        own = variants(members)
        found.append(
            Section(
                title=title,
                slug=f"{words}-{taken + 1}" if taken else words,
                data=facts["data"],
                model=facts["model"],
                settings=settings,
                records=members,
                labels={name: each.label for name, each in own.items()},
                variants={each.label: each for each in own.values()},
                runs=runs,
            )
        )
    return tuple(found)
