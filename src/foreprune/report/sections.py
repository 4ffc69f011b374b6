"""Records that may be compared: sections, and within them the lines that figures and tables show."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from foreprune.records import Experiment, Record
from foreprune.report.colors import DENSE, Style, style_of
from foreprune.report.labels import Variant, ablation_order, printable, variants
from foreprune.report.measures import Measure, density_label, measure_of


@dataclass(frozen=True)
class Line:
    """What a figure draws as one line: the name in its legend, the label of its runs, and their method."""

    name: str
    label: str
    method: str


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

    def lines(self, condition: Condition = Condition()) -> tuple[Line, ...]:
        """What was run under `condition`, in the order of legends."""
        return tuple(
            Line(name=self.name(each.label), label=each.label, method=each.method)
            for each in self._ordered
            if self.condition(each.label) == condition
        )

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
