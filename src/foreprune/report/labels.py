"""What a run is called: its method, the settings in which that method's runs differ, the step, the ablation."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from foreprune.ablations import get_ablation, list_ablations
from foreprune.records import Experiment, Record
from foreprune.report.colors import DENSE, method_order

ORIGINAL = "original"


def printable(text: str) -> str:
    """`text` on one line without control characters, which could steer a terminal or break a table."""
    return "".join(
        mark if mark.isprintable() else " " if mark.isspace() else "\N{REPLACEMENT CHARACTER}" for mark in text
    )


@dataclass(frozen=True)
class Variant:
    """One way to prune within a section.

    `method` is the name in the registry; `untimed` adds the settings in which that method's runs differ; `step` is the
    optimizer step it was pruned at; `ablation` says what was done to the result ("" if nothing, else such as
    "shuffled").
    """

    method: str
    untimed: str
    step: int = 0
    ablation: str = ""

    @property
    def base(self) -> str:
        """The label without the ablation, such as `snip at step 1000`: that of the runs to compare an ablation with."""
        return f"{self.untimed} at step {self.step}" if self.step else self.untimed

    @property
    def label(self) -> str:
        """The whole label, such as `snip at step 1000, shuffled`."""
        return f"{self.base}, {self.ablation}" if self.ablation else self.base

    @property
    def order(self) -> tuple[tuple[int, str], str, int, tuple[int, str]]:
        """Sort key: methods as in legends, then their settings, then the step, then the ablation."""
        return (method_order(self.method), self.untimed, self.step, ablation_order(self.ablation))


def ablation_words(experiment: Experiment) -> str:
    """What the ablation made of the network: "shuffled", "widened 0.5"; "" without one."""
    if experiment.ablation == "none":
        return ""
    found = get_ablation(experiment.ablation)
    return f"{found.words} {experiment.widen:g}" if found.value else found.words


def ablation_order(words: str) -> tuple[int, str]:
    """Sort key of `ablation_words`: the original first, those that take a value last and by it."""
    for at, found in enumerate(list_ablations()):
        if words == found.words or (found.value and words.startswith(f"{found.words} ")):
            return (at, words)
    return (len(list_ablations()) if words else -1, words)


def variants(records: Sequence[Record]) -> dict[str, Variant]:
    """The variant of every record of one section, by the record's id."""
    settings: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        settings[record.experiment.method].append(_own(record.experiment))
    return {record.id: _variant(record.experiment, settings[record.experiment.method]) for record in records}


def _own(experiment: Experiment) -> dict[str, Any]:
    """The settings that make one variant of a method; the dense reference is not pruned, so it has none."""
    if experiment.method == DENSE:
        return {}
    values = experiment.model_dump(mode="json", include={"scope", "samples_per_class"})
    return values | {f"hyper.{key}" if key in values else key: value for key, value in experiment.hyper.items()}


def _variant(experiment: Experiment, others: Sequence[dict[str, Any]]) -> Variant:
    own = _own(experiment)
    differing = [
        f"{key}={json.dumps(own[key])}"
        for key in sorted(own)
        if any(key not in other or json.dumps(other[key]) != json.dumps(own[key]) for other in others)
    ]
    return Variant(
        method=experiment.method,
        untimed=printable(experiment.method + (f" ({', '.join(differing)})" if differing else "")),
        step=experiment.prune_at,
        ablation=ablation_words(experiment),
    )
