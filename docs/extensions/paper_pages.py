"""One page for each paper: its tables and figures as lists of runs, and what they cost."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

from markdown import code, index, page, table, text

from foreprune.cli.printing import flops
from foreprune.core.durations import duration
from foreprune.experiments.cost import RATE, estimate
from foreprune.papers import SCALES, Entry, entries


def paper_pages() -> Iterable[tuple[str, str]]:
    """Index and one page each."""
    rows = {}
    for name, group in itertools.groupby(entries(), key=paper_name):
        listed = list(group)
        rows[name] = [text(listed[0].paper), str(len(listed))]
        yield name, paper_page(listed)
    intro = (
        "Every table and figure is a list of runs with the published networks, densities, seeds and hyperparameters, "
        "at three scales: `smoke` takes minutes and needs no data files, `small` takes hours on a CPU, `paper` is as "
        "published. [How to run them](../sweeps.md)"
    )
    yield "index", index("Papers", intro, ["paper", "tables and figures"], rows)


def paper_name(entry: Entry) -> str:
    """The paper of "frankle-figure-3" is "frankle"."""
    return entry.name.partition("-")[0]


def paper_page(group: Sequence[Entry]) -> str:
    """All entries of one paper."""
    title = re.sub(", arXiv.*", "", group[0].paper)
    return page(f"# {title}", f"{text(group[0].paper)}.", *map(section, group))


def section(entry: Entry) -> str:
    """One table or figure."""
    return page(
        f"## {entry.name}",
        f"**{text(entry.title)}.** {text(entry.where[:1].upper() + entry.where[1:])}.",
        *map(text, entry.notes),
        f"*Look at:* {text(entry.look)}",
        costs(entry),
        code("", f"foreprune sweep {entry.name}"),
    )


def costs(entry: Entry) -> str:
    """Runs, epochs and FLOPs at every scale."""
    rows = []
    for scale in SCALES:
        cost = estimate(entry.experiments(scale))
        epochs = f"{cost.epochs:,.0f}" if cost.epochs else "-"
        rows.append([scale, f"{cost.runs:,}", epochs, flops(cost.flops), duration(cost.seconds(RATE))])
    return table(["scale", "runs", "epochs", "FLOPs", f"at {RATE / 1e9:.0f} GFLOP/s"], rows)
