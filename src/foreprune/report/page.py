"""The report as one self-contained HTML file: plotly.js inside, no network, text from records escaped."""

from __future__ import annotations

import importlib.metadata
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreprune.core.durations import duration
from foreprune.records import Record
from foreprune.report.charts import Panel
from foreprune.report.colors import DENSE, Style
from foreprune.report.extras import require
from foreprune.report.interactive import panel_figures, plotly_source
from foreprune.report.labels import printable
from foreprune.report.measures import density_texts, percent
from foreprune.report.panels import build_panels
from foreprune.report.sections import Row, Section, sections
from foreprune.report.significance import (
    REFERENCES,
    Comparison,
    change_text,
    explanation,
    outcome_text,
    p_text,
    section_tests,
)

_LONGEST_ERROR = 4000
_MOST_VALUES = 5

# Outlines of the legend's markers, centered on (0, 0) and about 9 units wide.
_SHAPES = {
    "circle": "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",
    "square": "M-4 -4h8v8h-8z",
    "triangle-up": "M0 -5L5 4H-5z",
    "diamond": "M0 -5.5L5.5 0L0 5.5L-5.5 0z",
    "triangle-down": "M0 5L5 -4H-5z",
    "cross": "M-1.7 -5h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3h-3.3v-3.4h3.3z",
    "pentagon": "M0 -5L4.8 -1.5L2.9 4.1H-2.9L-4.8 -1.5z",
    "star": "M0 -6L1.6 -1.9L5.7 -1.9L2.4 0.7L3.5 4.9L0 2.4L-3.5 4.9L-2.4 0.7L-5.7 -1.9L-1.6 -1.9z",
}
_OPTIMIZERS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "nadam": "NAdam", "rmsprop": "RMSprop"}
_DASH_ARRAYS = {"solid": "none", "dash": "5 3", "dot": "1.5 2.5", "dashdot": "6 2.5 1.5 2.5", "longdash": "9 3"}


@dataclass(frozen=True)
class Key:
    """One entry of a legend: a label with its swatch."""

    label: str
    color: str
    dashes: str
    shape: str


Drawn = Sequence[tuple[Section, Sequence[Panel]]]


def page(records: Sequence[Record], *, problems: Sequence[tuple[str, str]] = (), drawn: Drawn | None = None) -> str:
    """The whole page as HTML.

    `problems` are `(file, reason)` of records that could not be read; they are listed under Provenance. `drawn` are the
    records' sections with their panels, if they have been built already.

    Raises:
        ImportError: jinja2, plotly or SciPy is not installed.
    """
    require("jinja2", "plotly.offline", "scipy")
    import jinja2
    from markupsafe import Markup

    folder = Path(__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    if drawn is None:
        drawn = [(section, build_panels(section)) for section in sections(records)]
    return environment.get_template("report.html.j2").render(
        lead=lead(records),
        sections=[_section(section, panels) for section, panels in drawn],
        charts=[[panel_figures(panel) for panel in panels] for _, panels in drawn],
        failed=[_failure(record) for record in records if record.status == "failed"],
        problems=[(printable(file), printable(reason)) for file, reason in problems],
        facts=provenance(records),
        css=Markup((folder / "report.css").read_text(encoding="utf-8")),
        script=Markup((folder / "report.js").read_text(encoding="utf-8")),
        plotly=Markup(plotly_source()),
    )


def lead(records: Sequence[Record]) -> str:
    """What was run, in a sentence: `72 runs of 6 methods at 4 densities with 3 seeds on digits with resnet20.`"""
    experiments = [record.experiment for record in records]
    pruned = [experiment for experiment in experiments if experiment.method != DENSE]
    words = [_count(len(records), "run")]
    if pruned:
        words.append(f"of {_count(len({experiment.method for experiment in pruned}), 'pruning method')}")
        words.append(f"at {_count(len({experiment.density for experiment in pruned}), 'density', 'densities')}")
    words.append(f"with {_count(len({experiment.seed for experiment in experiments}), 'seed')}")
    pairs = sorted({f"{printable(experiment.data)} with {printable(experiment.model)}" for experiment in experiments})
    words.append(f"on {', '.join(pairs[:4])}" + (f" and {len(pairs) - 4} more" if len(pairs) > 4 else ""))
    dense = "" if len(pruned) < len(experiments) else " No dense reference was run."
    return f"{' '.join(words)}.{dense}"


def _count(number: int, word: str, plural: str | None = None) -> str:
    return f"{number} {word if number == 1 else plural or f'{word}s'}"


def _key(label: str, style: Style) -> Key:
    shape = _SHAPES[style.marker] if style.marker else ""
    return Key(label=label, color=style.color, dashes=_DASH_ARRAYS[style.dash], shape=shape)


def _section(section: Section, drawn: Sequence[Panel]) -> dict[str, Any]:
    """Everything the template shows of one section."""
    rows = section.rows()
    tests = section_tests(section)
    columns = [
        name for name in REFERENCES if any(test.family == "methods" and _is(section, test, name) for test in tests)
    ]
    hyper = {
        section.variants[section.labels[record.id]].untimed: ", ".join(
            f"{key}={json.dumps(value)}" for key, value in values.items()
        )
        for record in section.records
        if (values := record.experiment.hyper)
    }
    return {
        "title": section.title,
        "slug": section.slug,
        "training": training(section),
        "settings": section.settings,
        "hyper": [(label, printable(text)) for label, text in sorted(hyper.items())],
        "panels": [(panel, [_key(label, look) for label, look in panel.labels()]) for panel in drawn],
        "measure": section.measure,
        "references": columns,
        "rows": [_table_row(section, row, tests, columns) for row in rows],
        "means": [_test_row(section, test) for test in tests if test.family == "methods, mean over densities"],
        "ablated": [_test_row(section, test) for test in tests if test.family.startswith("ablations")],
        "explanation": explanation(section, [test for test in tests if test.family.startswith("methods")]),
        "ablation_explanation": explanation(section, [test for test in tests if test.family.startswith("ablations")]),
        "seeds": _common([", ".join(map(str, row.seeds)) for row in rows if row.seeds]),
        "has_top5": any(row.top5 for row in rows),
        "has_failed": any(row.failed for row in rows),
    }


def training(section: Section) -> str:
    """How large the networks of a section are and how they were trained, in a sentence or two."""
    experiment = section.records[0].experiment
    recipe = experiment.recipe
    momentum = f", momentum {recipe.momentum:g}" if recipe.momentum else ""
    optimizer = _OPTIMIZERS[recipe.optimizer]
    images = f" on {experiment.train_size:,} training images" if experiment.train_size else ""
    total = next((record.total for record in section.records if record.total), None)
    size = f"{total:,} prunable weights. " if total else ""
    return (
        f"{size}Trained for {_count(recipe.epochs, 'epoch')}{images} with {optimizer}: learning rate {recipe.lr:g} "
        f"({recipe.schedule}){momentum}, weight decay {recipe.weight_decay:g}, batch size {recipe.batch_size}."
    )


def _common(texts: Sequence[str]) -> str:
    """The text that all share, or none."""
    return texts[0] if len(set(texts)) == 1 else ""


def _is(section: Section, test: Comparison, reference: str) -> bool:
    return section.variants[test.against].method == reference


def _table_row(section: Section, row: Row, tests: Sequence[Comparison], references: Sequence[str]) -> dict[str, Any]:
    value = row.value(section.measure)
    mine = [t for t in tests if t.family == "methods" and (t.label, t.density) == (row.label, row.density)]
    kept, removed = density_texts(row.density)
    astray = row.kept is not None and abs(row.kept - row.density) > 0.005 * row.density
    return {
        "key": _key(row.label, section.style(row.label)),
        "density": kept,
        "density_value": row.density,
        "kept": f"{row.kept:.4g}" if astray else "",
        "sparsity": removed,
        "result": section.measure.text(value),
        "result_value": value.mean if value else -1.0,
        "top5": percent(row.top5),
        "top5_value": row.top5.mean if row.top5 else -1.0,
        "n": value.n if value else 0,
        "seeds": ", ".join(str(seed) for seed in row.seeds) or "–",
        "failed": row.failed,
        "tests": [
            _test_cells(section, next((test for test in mine if _is(section, test, name)), None)) for name in references
        ],
    }


def _test_cells(section: Section, test: Comparison | None) -> dict[str, Any]:
    """The cells of one comparison: the difference, its p values, and what follows from them."""
    if test is None:
        return {"change": "–", "change_value": -1e9, "p": "–", "holm": "", "p_value": 2.0, "outcome": ""}
    return {
        "change": change_text(section, test),
        "change_value": -1e9 if test.difference is None else test.difference,
        "p": p_text(test.p) if test.p is not None else test.note,
        "holm": "" if test.holm is None else p_text(test.holm),
        "p_value": 2.0 if test.holm is None else test.holm,
        "outcome": outcome_text(section, test) if test.outcome else "",
    }


def _test_row(section: Section, test: Comparison) -> dict[str, Any]:
    key = _key(test.label, section.style(test.label))
    row = {"key": key, "against": test.against, "where": test.where, "density": test.density or 0.0, "n": test.n}
    return row | _test_cells(section, test)


def _failure(record: Record) -> dict[str, str]:
    error = record.error or "no error was recorded"
    lines = [printable(line) for line in error[-_LONGEST_ERROR:].splitlines()] or [""]
    if len(error) > _LONGEST_ERROR:
        lines.insert(0, "…")
    return {"id": record.id, "last": lines[-1], "error": "\n".join(lines)}


def provenance(records: Sequence[Record]) -> list[tuple[str, list[str]]]:
    """Facts about the runs as `(name, values)`: counts, seeds, times, and every entry of the records' environments.

    Environment entries that differ between runs are listed with the number of runs for each value, most frequent first;
    of the times at which runs started and ended, the first and the last.
    """
    status = Counter(record.status for record in records)
    seeds = sorted({record.experiment.seed for record in records})
    facts = [
        ("runs", [f"{len(records)}: {status['finished']} finished, {status['failed']} failed"]),
        ("seeds", [", ".join(str(seed) for seed in seeds)]),
    ]
    for name, seconds in (
        ("time spent pruning", [record.seconds_prune for record in records]),
        ("time spent training", [record.seconds_train for record in records]),
    ):
        known = [value for value in seconds if value is not None]
        if known:
            facts.append((name, [f"{duration(sum(known))} over {_count(len(known), 'run')}"]))
    values: dict[str, Counter[str]] = {}
    for record in records:
        for name, value in _flat(record.environment).items():
            values.setdefault(name, Counter())[value] += 1
    for name, counts in sorted(values.items()):
        if name in ("started", "ended") and len(counts) > 1:
            facts.append((name, [f"{min(counts)} to {max(counts)}"]))
            continue
        shown = [
            value if count == len(records) else f"{value} ({_count(count, 'run')})"
            for value, count in counts.most_common(_MOST_VALUES)
        ]
        more = len(counts) - len(shown)
        facts.append((name, shown + ([f"and {_count(more, 'other value')}"] if more else [])))
    return [*facts, ("report written by", [f"foreprune {importlib.metadata.version('foreprune')}"])]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested dictionaries as one, with dotted names and values as one-line text."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            found[printable(f"{prefix}{name}")] = printable(text)
    return found
