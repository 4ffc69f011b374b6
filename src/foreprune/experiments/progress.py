"""A live display of many runs: how far, how long still, and what came out last."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeft

from foreprune.experiments.spec import Experiment
from foreprune.experiments.workers import Event


def describe(experiment: Experiment) -> str:
    """A run in a few words."""
    density = "" if experiment.method == "dense" else f" density {experiment.density:g}"
    return f"{experiment.method}{density} seed {experiment.seed}"


@contextlib.contextmanager
def live(experiments: Sequence[Experiment], *, console: Console) -> Iterator[Callable[[Event], None]]:
    """Show a progress bar and yield the function that takes the events; plain lines where there is no terminal."""
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeLeft(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    # a run counts for its epochs, so that the time left is right when runs are long; the column shows whole runs
    task = bar.add_task("starting", total=len(experiments))
    ended = 0
    partial: dict[str, float] = {}

    def advance() -> None:
        bar.update(task, completed=ended + sum(partial.values()))

    def on_event(event: Event) -> None:
        nonlocal ended
        name = describe(event.experiment)
        if event.kind == "epoch" and event.epoch is not None:
            partial[event.experiment.id] = event.epoch.epoch / (event.experiment.recipe.epochs + 1)
        elif event.kind in ("skipped", "ended"):
            partial.pop(event.experiment.id, None)
            ended += 1
        if event.kind == "started":
            bar.update(task, description=name)
        if event.kind == "ended" and event.record is not None:
            result = "done" if event.record.top1 is None else f"{100 * event.record.top1:.2f} %"
            if event.record.status == "failed":
                bar.console.print(f"failed: {name}: {event.record.error}", style="red", markup=False, highlight=False)
            elif not console.is_terminal:
                bar.console.print(f"[{ended}/{len(experiments)}] {name}: {result}", markup=False, highlight=False)
        advance()

    with bar:
        yield on_event
