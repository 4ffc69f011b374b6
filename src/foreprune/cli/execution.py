"""How a list of runs is carried out by a command: announced, shown while it goes on, summed up at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from foreprune.cli.arguments import Execution
from foreprune.cli.consoles import errors, screen
from foreprune.cli.printing import flops, networks_table, print_report, print_tables
from foreprune.core.durations import duration
from foreprune.records import Experiment

_SHOWN = 3  # runs that --dry-run names


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
    from foreprune.cli.progress import live
    from foreprune.experiments import check, resolve_device
    from foreprune.runner import run_all

    data_dir = None if execution.data_dir is None else str(execution.data_dir)
    check(experiments, data_dir=data_dir)
    device = resolve_device(execution.device)
    screen.print(f"{title}, on {device}", highlight=False, markup=False)
    try:
        with live(experiments, console=screen) as on_event:
            records = run_all(
                experiments,
                out=out,
                data_dir=data_dir,
                device=device,
                jobs=execution.jobs,
                retries=execution.retries,
                executor=execution.executor,
                address=execution.address,
                on_event=on_event,
            )
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


def _dry_run(experiments: Sequence[Experiment], *, out: Path, title: str) -> None:
    """Say what would be run."""
    from foreprune.experiments import check_names
    from foreprune.records import finished

    check_names(experiments)
    left = [experiment for experiment in experiments if finished(out, experiment) is None]
    screen.print(title, highlight=False, markup=False)
    screen.print(networks_table(experiments))
    done = len(experiments) - len(left)
    price = _price(left)
    to_do = f"{done:,} finished in {out}, {len(left):,} to do" + (":" if price else "")
    for line in filter(None, (to_do, price)):
        screen.print(line, highlight=False, markup=False)
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
    time = f"about {duration(found.seconds())} at {RATE / 1e9:.0f} GFLOP/s"
    return f"{found.epochs:,.0f} epochs, {flops(found.flops)} FLOPs, {time}"
