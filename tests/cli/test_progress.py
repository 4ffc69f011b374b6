"""What is shown of a sweep: with made-up events and a made-up clock."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from foreprune.cli.progress import SweepProgress, describe, live
from foreprune.records import Epoch, Experiment, Record
from foreprune.runner import Event
from foreprune.training.recipes import Recipe


def run(seed: int = 0, **changes: object) -> Experiment:
    settings = {"data": "digits", "model": "fc-8", "method": "snip", "density": 0.05, "recipe": Recipe(epochs=9)}
    return Experiment.model_validate({**settings, "seed": seed, **changes})


def record(experiment: Experiment, *, error: str | None = None, seconds: float = 1.0) -> Record:
    return Record(
        id=experiment.id,
        experiment=experiment,
        status="failed" if error else "finished",
        error=error,
        top1=None if error else 0.9321,
        seconds_prune=None if error else 0.0,
        seconds_train=None if error else seconds,
    )


def epoch(number: int) -> Epoch:
    return Epoch(epoch=number, lr=0.1, train_loss=1.0, train_top1=0.5, seconds=1.0)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_descriptions() -> None:
    assert describe(run(3)) == "snip density 0.05 seed 3"
    assert describe(run(method="dense", density=1.0)) == "dense seed 0"
    assert describe(run(prune_at=500, ablation="shuffle")) == "snip@500 density 0.05 shuffle seed 0"
    assert describe(run(ablation="widen", widen=0.5)) == "snip density 0.05 widen:0.5 seed 0"


def test_the_sweep_of_a_sweep() -> None:
    clock = Clock()
    runs = [run(seed) for seed in range(6)]
    sweep = SweepProgress(runs, clock=clock)
    assert (sweep.total, sweep.done, sweep.seconds_left()) == (6, 0.0, None)
    sweep.take(Event("skipped", runs[0], record=record(runs[0], seconds=20.0)))
    sweep.take(Event("started", runs[1]))
    assert sweep.seconds_left() == 100.0  # five of 20 seconds, one at a time
    sweep.take(Event("started", runs[2]))
    assert sweep.at_a_time == 2
    assert sweep.seconds_left() == 50.0
    clock.now += 20
    sweep.take(Event("ended", runs[1], record=record(runs[1], seconds=3.0)))
    # 20 seconds for run 1 by the clock, not the 3 of its training; so long has run 2 been at work too
    assert sweep.seconds_left() == 3 * 20 / 2
    sweep.take(Event("epoch", runs[2], epoch=epoch(1)))
    sweep.take(Event("epoch", runs[2], epoch=epoch(5)))
    assert sweep.done == 2.5
    assert sweep.seconds_left() == pytest.approx((60 / 2.5) * 3.5 / 2)
    sweep.take(Event("retried", runs[2], note="was killed"))
    assert (sweep.done, sweep.retried, sweep.failed) == (2.0, 1, 0)
    assert sweep.seconds_left() == 40.0
    sweep.take(Event("started", runs[2], attempt=2))
    clock.now += 10
    sweep.take(Event("epoch", runs[2], epoch=epoch(6), attempt=2))  # a tenth in ten seconds: 100 for all of it
    assert sweep.seconds_left() == pytest.approx((20 + 20 + 10) / 2.1 * (0.4 + 3) / 2)
    sweep.take(Event("ended", runs[2], record=record(runs[2], error="it died")))
    assert (sweep.ended, sweep.failed, sweep.troubles()) == (3, 1, "1 failed, 1 retried")
    assert sweep.seconds_left() == 30.0
    assert sweep.summary() == "3 of 6 runs done, 1 failed, 1 retried, 2 at a time, about 30 s left"
    sweep.take(Event("skipped", runs[3]))
    sweep.take(Event("skipped", runs[4]))
    assert sweep.at_a_time == 1
    sweep.take(Event("skipped", runs[5]))
    assert sweep.seconds_left() == 0.0


def plain(events: list[tuple[float, Event]], runs: list[Experiment]) -> list[str]:
    """The lines shown without a terminal for events at some seconds."""
    clock = Clock()
    out = io.StringIO()
    with live(runs, console=Console(file=out, width=80), clock=clock) as on_event:
        for seconds, event in events:
            clock.now = 100.0 + seconds
            on_event(event)
    return out.getvalue().splitlines()


def test_plain_lines_where_there_is_no_terminal() -> None:
    runs = [run(seed) for seed in range(4)]
    note = (
        "out/runs/x/record.json is damaged: not valid JSON; it is kept as record.damaged-1.json, and so on and so forth"
    )
    lines = plain(
        [
            (0, Event("damaged", runs[0], note=note)),
            (0, Event("skipped", runs[3])),
            (0, Event("started", runs[0])),
            (0, Event("started", runs[1])),
            (10, Event("epoch", runs[0], epoch=epoch(1))),
            (50, Event("ended", runs[0], record=record(runs[0]))),
            (55, Event("retried", runs[1], note="was killed by SIGKILL")),
            (55, Event("started", runs[1], attempt=2)),
            (61, Event("started", runs[2])),
            (62, Event("epoch", runs[2], epoch=epoch(1))),
            (
                90,
                Event("ended", runs[1], record=record(runs[1], error="the process was killed by [SIGKILL]"), attempt=2),
            ),
            (125, Event("epoch", runs[2], epoch=epoch(9))),
        ],
        runs,
    )
    assert lines == [
        note,
        "[2/4] snip density 0.05 seed 0: 93.21 %",
        "started again: snip density 0.05 seed 1: the process was killed by SIGKILL",
        "2 of 4 runs done, 1 retried, 2 at a time, about 50 s left",
        "failed: snip density 0.05 seed 1: the process was killed by [SIGKILL]",
        "3 of 4 runs done, 1 failed, 1 retried, 1 at a time, about 6 s left",
    ]


def test_the_bar_fits_into_80_columns() -> None:
    out = io.StringIO()
    clock = Clock()
    runs = [run(seed, method="iterative-snip", ablation="reinit-neuron") for seed in range(1200)]
    console = Console(file=out, width=80, force_terminal=True, color_system=None, legacy_windows=False)
    with live(runs, console=console, clock=clock) as on_event:
        for seed in range(2):
            on_event(Event("started", runs[seed]))
        clock.now += 40.0
        on_event(Event("retried", runs[1], note="was killed by SIGKILL"))
        on_event(Event("ended", runs[1], record=record(runs[1], error="it died"), attempt=2))
        on_event(Event("ended", runs[0], record=record(runs[0])))
        on_event(Event("started", runs[2]))
        out.truncate(0)
        clock.now += 1.0
    # the last frame, before it is erased
    frames = [line for line in out.getvalue().replace("\r", "\n").splitlines() if "1200" in line]
    assert frames
    assert all(len(line.replace("\x1b[2K", "").replace("\x1b[?25l", "")) <= 80 for line in frames), frames
    assert all(part in frames[-1] for part in ("iterative-snip", "2/1200, 2 at a time", "1 failed, 1 retried", "left"))
