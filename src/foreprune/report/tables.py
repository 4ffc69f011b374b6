"""Records summed up: sections, groups over seeds, and the tables of the console and of Markdown files.

Spreads are over seeds: the mean and the sample standard deviation (n - 1 in the denominator) of the *last* epoch's test
accuracy. Nothing here needs more than the core dependencies.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from foreprune.experiments.spec import Experiment, Record
from foreprune.report.colours import DENSE, method_order

if TYPE_CHECKING:
    from rich.table import Table

Metric = Literal["top1", "top5"]
_GAP = 3  # between two columns of a Rich table: padding on both sides and the separator
_METRIC_NAMES = {"top1": "top-1 test accuracy", "top5": "top-5 test accuracy"}


@dataclass(frozen=True)
class Spread:
    """`n` values (fractions), their mean, and their sample standard deviation (`None` for a single value)."""

    n: int
    mean: float
    std: float | None


@dataclass(frozen=True)
class Row:
    """One method at one density in one section.

    `seeds` are those of the finished runs; `failed` counts the others. `kept` is the mean fraction of prunable weights
    really kept. `top1`/`top5` are `None` without a finished run that measured them; `dense` is the top-1 accuracy of
    the section's unpruned reference, if it was run.
    """

    section: str
    data: str
    model: str
    method: str
    label: str
    density: float
    seeds: tuple[int, ...]
    failed: int
    kept: float | None
    top1: Spread | None
    top5: Spread | None
    dense: Spread | None

    @property
    def sparsity(self) -> float:
        """Fraction of prunable weights removed, `1 - density`."""
        return round(1.0 - self.density, 12)


@dataclass(frozen=True)
class Section:
    """Runs that may be compared: the same data, network, initialisation, training set and recipe.

    `labels` maps every record's id to the label of its method; `settings` are the facts that all its runs share.
    """

    title: str
    slug: str
    data: str
    model: str
    settings: tuple[tuple[str, str], ...]
    records: tuple[Record, ...]
    labels: dict[str, str]

    def methods(self) -> tuple[tuple[str, str], ...]:
        """`(label, method)` of everything in the section, dense first, in the order of legends and rows."""
        found = {(self.labels[record.id], record.experiment.method) for record in self.records}
        return tuple(sorted(found, key=lambda pair: (method_order(pair[1]), pair[0])))

    def finished(self, *, label: str, density: float | None = None) -> tuple[Record, ...]:
        """The finished records of one label, at one density if given, by seed; one record per seed and density."""
        kept: dict[tuple[float, int], Record] = {}
        for record in sorted(self.records, key=lambda record: record.id):
            experiment = record.experiment
            wanted = self.labels[record.id] == label and density in (None, experiment.density)
            if wanted and record.status == "finished":
                kept.setdefault((experiment.density, experiment.seed), record)
        return tuple(kept[key] for key in sorted(kept))

    def densities(self) -> tuple[float, ...]:
        """The densities that pruned runs were asked for, from the densest to the sparsest."""
        pruned = (record.experiment for record in self.records if record.experiment.method != DENSE)
        return tuple(sorted({experiment.density for experiment in pruned}, reverse=True))


def printable(text: str) -> str:
    """`text` on one line without control characters, which could steer a terminal or break a table."""
    return "".join(
        mark if mark.isprintable() else " " if mark.isspace() else "\N{REPLACEMENT CHARACTER}" for mark in text
    )


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


def density_texts(density: float) -> tuple[str, str]:
    """Density to three significant digits and the sparsity in percent that belongs to it: `("0.018", "98.2 %")`."""
    kept = Decimal(f"{density:.3g}")
    removed = (1 - kept) * 100
    return f"{kept.normalize():f}", f"{removed.normalize():f} %"


def _shared(experiment: Experiment) -> dict[str, Any]:
    """What two runs must have in common to be compared."""
    values = experiment.model_dump(mode="json", include={"data", "model", "train_size", "init", "recipe"})
    recipe = values.pop("recipe")
    return values | {f"recipe.{key}": value for key, value in recipe.items()}


def _own(experiment: Experiment) -> dict[str, Any]:
    """What makes one variant of a method; the dense reference is not pruned, so it has none."""
    if experiment.method == DENSE:
        return {}
    values = experiment.model_dump(mode="json", include={"scope", "samples_per_class", "prune_at", "ablation", "widen"})
    return values | {f"hyper.{key}" if key in values else key: value for key, value in experiment.hyper.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def sections(records: Iterable[Record]) -> tuple[Section, ...]:
    """Split records into sections of comparable runs, ordered by data and network.

    Runs that differ in training recipe, initialisation or number of training images are never averaged: they make
    sections of their own, whose titles name the difference.
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
        found.append(
            Section(
                title=title,
                slug=f"{words}-{taken + 1}" if taken else words,
                data=facts["data"],
                model=facts["model"],
                settings=settings,
                records=members,
                labels=_labels(members),
            )
        )
    return tuple(found)


def _labels(records: Sequence[Record]) -> dict[str, str]:
    """Label of every record: its method, and of its own settings those in which that method's runs differ."""
    variants: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        variants[record.experiment.method].append(_own(record.experiment))
    labels = {}
    for record in records:
        own = _own(record.experiment)
        others = variants[record.experiment.method]
        differing = [
            f"{key}={json.dumps(own[key])}"
            for key in sorted(own)
            if any(key not in other or json.dumps(other[key]) != json.dumps(own[key]) for other in others)
        ]
        labels[record.id] = printable(record.experiment.method + (f" ({', '.join(differing)})" if differing else ""))
    return labels


def summary(records: Iterable[Record]) -> list[Row]:
    """One row per section, method (with the settings in which its runs differ) and density, over seeds.

    Rows come by section, then dense first, then methods in the order of legends, then from dense to sparse.
    """
    return [row for section in sections(records) for row in section_rows(section)]


def section_rows(section: Section) -> list[Row]:
    """The rows of one section; see `summary`."""
    dense = spread(record.top1 for record in section.finished(label=DENSE))
    rows = []
    for label, method in section.methods():
        mine = [record for record in section.records if section.labels[record.id] == label]
        for density in sorted({record.experiment.density for record in mine}, reverse=True):
            done = section.finished(label=label, density=density)
            failed = [r for r in mine if r.status == "failed" and r.experiment.density == density]
            kept = spread(record.density for record in done)
            rows.append(
                Row(
                    section=section.title,
                    data=section.data,
                    model=section.model,
                    method=method,
                    label=label,
                    density=density,
                    seeds=tuple(record.experiment.seed for record in done),
                    failed=len(failed),
                    kept=kept.mean if kept else None,
                    top1=spread(record.top1 for record in done),
                    top5=spread(record.top5 for record in done),
                    dense=dense,
                )
            )
    return rows


@dataclass(frozen=True)
class Grid:
    """A section's accuracies as text: a row per method, a column per density, the dense reference in every column."""

    title: str
    caption: str
    densities: tuple[float, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    notes: tuple[str, ...]


def grid(section: Section, *, metric: Metric = "top1") -> Grid:
    """The table of one section. The caption gives the usual n; cells with another carry a star and a note."""
    rows = section_rows(section)
    densities = section.densities() or (1.0,)
    cells = {(row.label, row.density): getattr(row, metric) for row in rows}
    sizes = [cell.n for cell in cells.values() if cell is not None]
    usual = statistics.mode(sizes) if sizes else 0
    body = []
    for label, method in section.methods():
        mine = [cells.get((label, 1.0 if method == DENSE else density)) for density in densities]
        body.append((label, tuple(percent(cell) + ("*" if cell and cell.n != usual else "") for cell in mine)))
    notes = []
    for row in rows:
        where, cell = f"{row.label} at density {density_texts(row.density)[0]}", cells[row.label, row.density]
        if cell and cell.n != usual:
            notes.append(f"* {where}: n = {cell.n}")
        if row.failed:
            notes.append(f"{where}: {row.failed} failed")
    caption = f"{_METRIC_NAMES[metric]} after the last epoch in %"
    if sizes:
        spread_over_seeds = f"mean ± sample standard deviation over seeds, n = {usual}"
        caption += f": {spread_over_seeds if max(sizes) > 1 else 'one seed'}"
        caption += "" if len(set(sizes)) == 1 else " unless starred"
    if any(method == DENSE for _, method in section.methods()):
        caption += "; dense is the unpruned network (density 1), repeated for comparison"
    return Grid(title=section.title, caption=caption, densities=densities, rows=tuple(body), notes=tuple(notes))


def _check_metric(metric: str) -> None:
    if metric not in _METRIC_NAMES:
        raise ValueError(f"metric must be 'top1' or 'top5', not {metric!r}")


def console_table(records: Iterable[Record], *, metric: Metric = "top1", width: int = 80) -> list[Table]:
    """Rich tables of mean ± std in percent, methods by densities, one or more per section.

    A section with more densities than fit in `width` characters continues in further tables. The dense reference is the
    first row, repeated under every density for comparison. Failed runs are counted and named in the last caption.

    Raises:
        ValueError: `metric` is not "top1" or "top5".
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    _check_metric(metric)
    tables = []
    for section in sections(records):
        found = grid(section, metric=metric)
        cell = max((len(text) for _, cells in found.rows for text in cells), default=5)
        cell = max(cell, *(len(text) for density in found.densities for text in density_texts(density)))
        longest = max((len(name) for name, _ in found.rows), default=0)
        first = max(len("sparsity"), min(longest, 28, width - 2 - 2 * (cell + _GAP)))
        per_table = max(1, (width - 2 - first) // (cell + _GAP))
        for start in range(0, len(found.densities), per_table):
            chosen = range(start, min(start + per_table, len(found.densities)))
            last = chosen.stop == len(found.densities)
            table = Table(
                title=Text(found.title if start == 0 else f"{found.title}, continued", style="bold"),
                caption=Text("\n".join([f"{found.caption}.", *found.notes]) if last else "continued below"),
                caption_justify="left",
                box=box.SIMPLE_HEAD,
                pad_edge=False,
            )
            table.add_column(Text("density\nsparsity"), width=first, overflow="fold")
            for at in chosen:
                table.add_column(Text("\n".join(density_texts(found.densities[at]))), justify="right", no_wrap=True)
            for name, cells in found.rows:
                table.add_row(Text(name), *(Text(cells[at]) for at in chosen), style="dim" if name == DENSE else None)
            tables.append(table)
    return tables


def markdown_table(records: Iterable[Record], *, metric: Metric = "top1") -> str:
    """The same tables in GitHub's Markdown, one per section, each under a heading; text from records is escaped.

    Raises:
        ValueError: `metric` is not "top1" or "top5".
    """
    _check_metric(metric)
    parts = []
    for section in sections(records):
        found = grid(section, metric=metric)
        heads = ["method", *("<br>".join(density_texts(density)) for density in found.densities)]
        lines = [
            f"### {_markdown(found.title)}",
            "",
            f"{found.caption[0].upper()}{found.caption[1:]}. Columns: density, sparsity.",
            "",
        ]
        lines += [f"| {' | '.join(heads)} |", f"|---|{'---:|' * len(found.densities)}"]
        lines += [f"| {_markdown(name)} | {' | '.join(map(_markdown, cells))} |" for name, cells in found.rows]
        if found.notes:
            lines += ["", *(f"- {_markdown(note)}" for note in found.notes)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _markdown(text: str) -> str:
    """Escape what Markdown or HTML inside Markdown would interpret."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{mark}" if mark in "\\`*_[]|#~!$" else mark for mark in text)
