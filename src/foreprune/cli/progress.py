"""A live display of many runs: how far, how long still, what failed, and what came out last."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from foreprune.core.durations import duration
from foreprune.records import Experiment, Record
from foreprune.runner import Event, RunProgress, seconds_left


def describe(experiment: Experiment) -> str:
    """A run in a few words."""
    words = [experiment.method]
    if experiment.prune_at:
        words[0] += f"@{experiment.prune_at}"
    if experiment.method != "dense":
        words.append(f"density {experiment.density:g}")
    if experiment.ablation != "none":
        words.append(experiment.ablation + (f":{experiment.widen:g}" if experiment.widen != 1.0 else ""))
    return " ".join([*words, f"seed {experiment.seed}"])


class SweepProgress:
    """What the events so far say about a sweep: counts, and the time left.

    Args:
        clock: seconds, from any start.
    """

    def __init__(self, experiments: Sequence[Experiment], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._runs = {experiment.id: RunProgress(experiment) for experiment in experiments}
        self._clock = clock
        self._started: dict[str, float] = {}
        self._from: dict[str, float] = {}
        self.total = len(self._runs)
        self.ended = self.failed = self.retried = 0
        self._most = 0

    @property
    def at_a_time(self) -> int:
        """Runs that go on at once, until fewer are left."""
        return min(self._most, self.total - self.ended)

    @property
    def done(self) -> float:
        """Runs that are done, those under way counted by the part of them that is."""
        return sum(run.done for run in self._runs.values())

    def take(self, event: Event) -> None:
        """Note what happened."""
        name = event.experiment.id
        run = self._runs.setdefault(name, RunProgress(event.experiment))
        if event.kind == "started":
            self._started[name] = self._clock()
            self._most = max(self._most, len(self._started))
        elif event.kind == "epoch" and event.epoch is not None:
            epochs = event.experiment.recipe.epochs + 1  # one more for what is not training
            start = self._from.setdefault(name, (event.epoch.epoch - 1) / epochs)
            fraction = event.epoch.epoch / epochs
            self._runs[name] = replace(run, done=fraction, measured=fraction - start, seconds=self._elapsed(name))
        elif event.kind == "retried":
            self.retried += 1
            self._forget(name)
            self._runs[name] = RunProgress(event.experiment)
        elif event.kind in ("skipped", "ended"):
            self.ended += 1
            self.failed += event.record is not None and event.record.status == "failed"
            self._runs[name] = self._whole(event)
            self._forget(name)

    def seconds_left(self) -> float | None:
        """Estimated seconds to the end; None before anything is known."""
        now = self._clock()
        runs = [
            replace(run, since=now - self._started[name] - run.seconds) if name in self._started else run
            for name, run in self._runs.items()
        ]
        return seconds_left(runs, at_a_time=self.at_a_time)

    def _whole(self, event: Event) -> RunProgress:
        whole, record = RunProgress(event.experiment, done=1.0), event.record
        if record is None or record.status == "failed":  # says nothing about how long a run takes
            return whole
        if event.kind == "ended":
            start = self._from.get(record.id, 0.0)
            return replace(whole, measured=1.0 - start, seconds=self._elapsed(record.id))
        if record.seconds_prune is None or record.seconds_train is None:
            return whole
        return replace(whole, measured=1.0, seconds=record.seconds_prune + record.seconds_train)

    def _elapsed(self, name: str) -> float:
        return self._clock() - self._started[name] if name in self._started else 0.0

    def _forget(self, name: str) -> None:
        self._started.pop(name, None)
        self._from.pop(name, None)

    def troubles(self) -> str:
        """ "1 failed, 2 retried", or nothing."""
        counts = ((self.failed, "failed"), (self.retried, "retried"))
        return ", ".join(f"{count} {word}" for count, word in counts if count)

    def summary(self) -> str:
        """The state of the sweep in one line."""
        parts = [f"{self.ended} of {self.total} runs done", self.troubles(), f"{self.at_a_time} at a time"]
        parts.append(f"about {duration(self.seconds_left())} left")
        return ", ".join(part for part in parts if part)


class _Left(ProgressColumn):
    """The time left, worked out once a second."""

    max_refresh = 1.0

    def __init__(self, sweep: SweepProgress) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self._sweep = sweep

    def render(self, task: Task) -> Text:
        return Text(f"{duration(self._sweep.seconds_left())} left", style="progress.remaining")


@contextlib.contextmanager
def live(
    experiments: Sequence[Experiment],
    *,
    console: Console,
    every: float = 60.0,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Callable[[Event], None]]:
    """Show a progress bar and yield the function that takes the events; plain lines where there is no terminal.

    Args:
        every: without a terminal, a line about the whole sweep after so many seconds.
        clock: seconds, from any start.
    """
    sweep = SweepProgress(experiments, clock=clock)
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False, table_column=Column(ratio=2, no_wrap=True, overflow="ellipsis")),
        BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=6)),
        TextColumn("{task.fields[counts]}", markup=False, table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[troubles]}", style="red", markup=False, table_column=Column(no_wrap=True)),
        _Left(sweep),
        console=console,
        disable=not console.is_terminal,
        transient=True,
        expand=True,
    )
    task = bar.add_task("starting", total=sweep.total, counts=f"0/{sweep.total}", troubles="")
    summed_up = clock()

    def say(text: str, style: str | None = None) -> None:
        bar.console.print(text, style=style, markup=False, highlight=False, soft_wrap=not console.is_terminal)

    def on_event(event: Event) -> None:
        nonlocal summed_up
        sweep.take(event)
        name = describe(event.experiment)
        if event.kind == "damaged":
            say(event.note, "yellow")
        elif event.kind == "retried":
            say(f"started again: {name}: the process {event.note}", "yellow")
        elif event.kind == "ended" and event.record is not None:
            if event.record.status == "failed":
                say(f"failed: {name}: {event.record.error}", "red")
            elif not console.is_terminal:
                say(f"[{sweep.ended}/{sweep.total}] {name}: {_result(event.record)}")
        if not console.is_terminal and clock() - summed_up >= every:
            summed_up = clock()
            say(sweep.summary())
        bar.update(
            task,
            completed=sweep.done,
            description=name if event.kind == "started" else bar.tasks[0].description,
            counts=f"{sweep.ended}/{sweep.total}, {sweep.at_a_time} at a time",
            troubles=sweep.troubles(),
        )

    with bar:
        yield on_event


def _result(record: Record) -> str:
    return "done" if record.top1 is None else f"{100 * record.top1:.2f} %"
