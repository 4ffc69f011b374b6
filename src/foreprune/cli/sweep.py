"""`foreprune sweep` and `foreprune papers`: the papers' tables and figures."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from foreprune.cli.arguments import Execution
from foreprune.cli.consoles import screen
from foreprune.cli.execution import carry_out
from foreprune.cli.printing import count, flops, networks_table
from foreprune.core.durations import duration
from foreprune.experiments import in_epochs, limited
from foreprune.papers import SCALES, Entry, Scale, entries, find, together
from foreprune.procedures import ablation_of
from foreprune.records import Experiment

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Sweep:
    """Run a table or figure of a paper: prune, train, test, tables and a report.

    * `foreprune papers` lists the names.
    * The same command again skips finished runs and continues the others.
    * Runs that several figures share are run once if they go to one folder.
    * Where a paper prints numbers for just these runs, ours stand beside them.

      foreprune sweep frankle-figure-4
      foreprune sweep gebhart-figure-3 --scale small --data-dir ~/data --dry-run
      foreprune sweep frankle-figure-3 frankle-figure-8 --scale paper --seeds 3
    """

    names: tyro.conf.Positional[tuple[str, ...]]
    """what to run, by the names of `foreprune papers`"""
    scale: Scale = "smoke"
    """smoke: minutes, needs no data files; small: hours on a CPU; paper: everything as published"""
    out: Path | None = None
    """output folder: records, masks, report; default: runs/<names>-<scale>"""
    methods: tuple[str, ...] = ()
    """only these methods, and the dense network"""
    densities: tuple[float, ...] = ()
    """only these densities (to one percent)"""
    seeds: int | None = None
    """only so many seeds"""
    epochs: int | None = None
    """train for so many epochs instead; milestones and steps to prune at move in proportion"""
    execution: Annotated[Execution, tyro.conf.arg(name="")] = field(default_factory=Execution)

    def run(self) -> int:
        if not self.names:
            raise ValueError("nothing to run: name a table or figure; `foreprune papers` lists them")
        experiments = together(find(name).experiments(self.scale) for name in self.names)
        experiments = limited(experiments, seeds=self.seeds, methods=self.methods, densities=self.densities)
        if self.epochs is not None:
            experiments = in_epochs(experiments, self.epochs)
        title = f"{' + '.join(self.names)}, scale {self.scale}: {count(len(experiments), 'run')}"
        out = self.out or Path("runs") / f"{'+'.join(self.names)}-{self.scale}"
        return carry_out(experiments, out=out, execution=self.execution, title=title)


@dataclass(frozen=True)
class Papers:
    """List the tables and figures that `foreprune sweep` can run, and their costs.

    With names: networks, methods, densities, costs, and where a paper is silent.

      foreprune papers --scale small
      foreprune papers frankle-figure-4
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """tables and figures to explain"""
    scale: Scale = "paper"
    """scale that the costs are for"""
    measure: bool = False
    """with names: measure how fast this machine trains, instead of assuming 50 GFLOP/s"""

    def run(self) -> int:
        if self.measure and not self.names:
            raise ValueError(
                "--measure belongs to a table or figure; write e.g. foreprune papers frankle-figure-3 --measure"
            )
        for position, name in enumerate(self.names):
            if position:
                screen.print()
            _explain(find(name), scale=self.scale, measure=self.measure)
        if not self.names:
            _list(self.scale)
        return 0


def _list(scale: Scale) -> None:
    """A table for each paper."""
    from rich.table import Table

    from foreprune.experiments import estimate

    for paper, group in itertools.groupby(entries(), key=lambda entry: entry.paper):
        screen.print(paper, style="bold", markup=False, highlight=False)
        table = Table(box=None, pad_edge=False, show_header=True, header_style="dim", expand=True)
        table.add_column("name", width=18, no_wrap=True)
        table.add_column("what", ratio=1)
        for heading, width in (("runs", 5), ("epochs", 7), ("FLOPs", 6)):
            table.add_column(heading, justify="right", width=width, no_wrap=True)
        for entry in group:
            cost = estimate(entry.experiments(scale))
            epochs = f"{cost.epochs:,.0f}" if cost.epochs else "-"
            table.add_row(entry.name, entry.title, f"{cost.runs:,}", epochs, flops(cost.flops))
        screen.print(table, markup=False)
        screen.print()
    screen.print(
        f"Runs, epochs and FLOPs of training at the scale {scale}; - where networks are only pruned and measured.\n"
        "foreprune papers NAME explains one, foreprune sweep NAME --scale smoke runs it in minutes.",
        highlight=False,
        markup=False,
    )


def _explain(entry: Entry, *, scale: Scale, measure: bool) -> None:
    runs = entry.experiments(scale)
    screen.print(f"{entry.name}: {entry.title}", style="bold", markup=False, highlight=False)
    screen.print(f"{entry.paper}, {entry.where}", markup=False, highlight=False)
    for note in entry.notes:
        screen.print(f"\n{note}", markup=False, highlight=False)
    screen.print(f"\nIn the report: {entry.look}\n", markup=False, highlight=False)
    _print_pairs(
        ("methods", ", ".join(dict.fromkeys(_method(run) for run in runs))),
        ("ablations", ", ".join(dict.fromkeys(_ablation(run) for run in runs if _ablation(run))) or "none"),
        ("densities", ", ".join(f"{density:.3g}" for density in _densities(runs)) or "none"),
        ("init", ", ".join(dict.fromkeys(run.init for run in runs))),
    )
    screen.print(f"\nat the scale {scale}", style="dim", highlight=False)
    screen.print(networks_table(runs))
    screen.print()
    screen.print(_cost_table(entry, measure=measure))
    screen.print(f"\nforeprune sweep {entry.name} --scale {scale}{_data_dir(runs)}", highlight=False, soft_wrap=True)


def _print_pairs(*pairs: tuple[str, str]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for pair in pairs:
        table.add_row(*pair)
    screen.print(table, markup=False)


def _cost_table(entry: Entry, *, measure: bool) -> Table:
    from rich.table import Table

    from foreprune.experiments import RATE, estimate, measured_rate, resolve_device

    rate = measured_rate(entry.experiments("small"), device=resolve_device("auto")) if measure else RATE
    how = "measured here" if measure else "assumed"
    table = Table("scale", box=None, pad_edge=False, header_style="bold")
    for heading in ("runs", "epochs", "FLOPs", f"at {rate / 1e9:.0f} GFLOP/s ({how})"):
        table.add_column(heading, justify="right")
    for scale in SCALES:
        cost = estimate(entry.experiments(scale))
        epochs = f"{cost.epochs:,.0f}" if cost.epochs else "-"
        table.add_row(scale, f"{cost.runs:,}", epochs, flops(cost.flops), duration(cost.seconds(rate)))
    return table


def _method(run: Experiment) -> str:
    settings = ",".join(f"{key}={value}" for key, value in run.hyper.items())
    return run.method + (f"@{run.prune_at}" if run.prune_at else "") + (f":{settings}" if settings else "")


def _ablation(run: Experiment) -> str:
    found = ablation_of(run)
    return (f"{found.name}:{run.widen:g}" if found.value else found.name) if found else ""


def _densities(runs: tuple[Experiment, ...]) -> list[float]:
    return sorted({run.density for run in runs if run.method != "dense"}, reverse=True)


def _data_dir(runs: tuple[Experiment, ...]) -> str:
    return "" if all(run.data.startswith("digits") for run in runs) else " --data-dir DATA"
