"""What several commands share: the consoles, training arguments, and how a list of runs is carried out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from foreprune.cli.amounts import duration, flops, networks_table
from foreprune.experiments import shortened
from foreprune.records import Experiment, Record
from foreprune.training.recipes import Recipe, default_recipe, recipe

Device = Literal["auto", "cpu", "cuda"]
screen = Console()
errors = Console(stderr=True)
_SHOWN = 3  # runs that --dry-run names


@dataclass(frozen=True)
class Training:
    """How networks are trained. Without anything, the recipe that suits data and model."""

    recipe: str | None = None
    """a recipe of the papers by name; `foreprune methods --recipes` lists them"""
    epochs: int | None = None
    """passes over the training data; milestones move in proportion"""
    batch_size: int | None = None
    """images per step"""
    lr: float | None = None
    """learning rate"""
    precision: Literal["float32", "bfloat16", "float16"] | None = None
    """of activations in training; weights stay in float32"""

    def resolve(self, data: str, model: str) -> Recipe:
        """The recipe these arguments mean for `model` on `data`."""
        chosen = recipe(self.recipe) if self.recipe else default_recipe(data, model)
        given: dict[str, Any] = {"batch_size": self.batch_size, "lr": self.lr, "precision": self.precision}
        chosen = replace(chosen, **{key: value for key, value in given.items() if value is not None})
        return chosen if self.epochs is None else shortened(chosen, self.epochs)


@dataclass(frozen=True)
class Execution:
    """Where the runs are carried out, and how many at a time. Each has a process of its own."""

    data_dir: Path | None = None
    """folder with the data; default: the environment variable FOREPRUNE_DATA"""
    device: Device = "auto"
    """where to run; cuda takes every GPU there is"""
    jobs: int = 0
    """runs at a time; 0 for one per core or GPU"""
    retries: int = 1
    """how often a run whose process died (killed, out of memory) is started again"""
    executor: Literal["local", "ray"] = "local"
    """on this machine, or on a Ray cluster that sees the output folder under the same path"""
    address: str | None = None
    """of the Ray cluster, for --executor ray; default: start one here"""
    dry_run: bool = False
    """only say what would be run; writes nothing"""


def carry_out(experiments: Sequence[Experiment], *, out: Path, execution: Execution, title: str) -> int:
    """Carry out what has no finished record under `out` yet, print tables, write the report; the exit code.

    Raises:
        ValueError, TypeError, OSError, ImportError: what can be known to be wrong before the first run.
    """
    if execution.address is not None and execution.executor != "ray":
        raise ValueError("--address belongs to --executor ray; add that, or leave the address out")
    if execution.dry_run:
        _dry_run(experiments, out=out, title=title)
        return 0
    from foreprune.experiments import check, resolve_device

    data_dir = None if execution.data_dir is None else str(execution.data_dir)
    check(experiments, data_dir=data_dir)
    device = resolve_device(execution.device)
    screen.print(f"{title}, on {device}", highlight=False, markup=False)
    try:
        records = _records(experiments, out=out, data_dir=data_dir, device=device, execution=execution)
    except KeyboardInterrupt:
        errors.print(
            f"\ninterrupted. Finished runs are kept in {out}; run the same command again to go on from there",
            highlight=False,
        )
        return 130
    print_tables(records)
    failed = sum(record.status == "failed" for record in records)
    from foreprune.report import write_report

    print_report(write_report(out))
    if failed:
        errors.print(f"{failed} of {len(records)} runs failed; the report says why, and running again repeats them")
    return 1 if failed else 0


def _records(
    experiments: Sequence[Experiment], *, out: Path, data_dir: str | None, device: str, execution: Execution
) -> tuple[Record, ...]:
    from foreprune.cli.progress import live

    with live(experiments, console=screen) as on_event:
        if execution.executor == "ray":
            from foreprune.runner.ray_runner import run_on_ray

            return run_on_ray(
                experiments,
                out=out,
                data_dir=data_dir,
                device=device,
                address=execution.address,
                jobs=execution.jobs,
                retries=execution.retries,
                on_event=on_event,
            )
        from foreprune.runner.workers import run_all

        return run_all(
            experiments,
            out=out,
            data_dir=data_dir,
            device=device,
            jobs=execution.jobs,
            retries=execution.retries,
            on_event=on_event,
        )


def _dry_run(experiments: Sequence[Experiment], *, out: Path, title: str) -> None:
    """Say what would be run."""
    from foreprune.experiments import check_methods
    from foreprune.records import finished

    check_methods(experiments)
    left = [experiment for experiment in experiments if finished(out, experiment) is None]
    screen.print(title, highlight=False, markup=False)
    screen.print(networks_table(experiments))
    done = len(experiments) - len(left)
    screen.print(f"{done:,} finished in {out}, {len(left):,} to do{_price(left)}", highlight=False, markup=False)
    for experiment in left[:_SHOWN]:
        screen.print(f"  {experiment.id}", highlight=False, markup=False, soft_wrap=True)
    if len(left) > _SHOWN:
        screen.print(f"  and {len(left) - _SHOWN:,} more", highlight=False)
    screen.print("dry run: nothing was run or written", highlight=False)


def _price(experiments: Sequence[Experiment]) -> str:
    """The estimate in words, or nothing where a network of the user's own cannot be counted."""
    from foreprune.experiments import RATE, estimate

    try:
        found = estimate(experiments)
    except (ValueError, RuntimeError, NotImplementedError):
        return ""
    return (
        f": {found.epochs:,.0f} epochs, {flops(found.flops)} FLOPs, about {duration(found.seconds())} "
        f"at {RATE / 1e9:.0f} GFLOP/s"
    )


def print_tables(records: Sequence[Record]) -> None:
    """Accuracies of the runs that trained, and what masks left of all networks."""
    from foreprune.report import console_table, structure_table

    trained = [record for record in records if record.experiment.recipe.epochs or record.status == "failed"]
    for table in [*console_table(trained, width=screen.width), *structure_table(records)]:
        screen.print(table)


def print_report(page: Path) -> None:
    """Say where the report is."""
    screen.print(f"report: {page.resolve()}", highlight=False, soft_wrap=True)
