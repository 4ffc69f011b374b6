"""Many runs on one machine: a few long-lived worker processes, each doing one run at a time.

A run that raises is a failed record; a worker that dies (killed, out of memory) costs the run it was doing, which is
recorded as failed, and a fresh worker takes its place. Records are written by the workers, whole or not at all, so
stopping anywhere loses no finished run.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from foreprune.experiments.environment import command_line, commit, environment
from foreprune.experiments.spec import Epoch, Experiment, Record
from foreprune.experiments.store import finished, make_folder, write_record


@dataclass(frozen=True)
class Event:
    """Something that happened to a run: it was `skipped` (finished earlier), started, passed an epoch, or ended."""

    kind: Literal["skipped", "started", "epoch", "ended"]
    experiment: Experiment
    epoch: Epoch | None = None
    record: Record | None = None


@dataclass(frozen=True)
class Settings:
    """What all runs of one call share: where records go, where data are, on what to run, and with how many threads."""

    out: Path
    data_dir: str | None
    device: str
    threads: int
    command: str
    commit: str | None


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    experiment: Experiment | None = field(default=None)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_all(
    experiments: Sequence[Experiment],
    *,
    out: str | Path,
    data_dir: str | None = None,
    device: str = "cpu",
    jobs: int = 0,
    on_event: Callable[[Event], None] = lambda event: None,
) -> tuple[Record, ...]:
    """Carry out every experiment that has no finished record under `out` yet; the records of all of them, in order.

    Args:
        jobs: runs at a time; 0 means one per core on a CPU and one on an accelerator. The cores are shared out evenly.
        on_event: called in this process whenever something happens.

    Raises:
        KeyboardInterrupt: passed on after the workers are stopped. Finished runs stay; runs in the middle continue from
        their last
            checkpoint next time.
        ValueError: a negative number of jobs.
        OSError: `out` cannot be written to.
    """
    if jobs < 0:
        raise ValueError(f"jobs must be at least 1, or 0 for one per core, not {jobs}")
    folder = make_folder(out)
    records: dict[str, Record] = {}
    waiting: deque[Experiment] = deque()
    for experiment in experiments:
        if (earlier := finished(folder, experiment)) is not None:
            records[experiment.id] = earlier
            on_event(Event("skipped", experiment, record=earlier))
        else:
            waiting.append(experiment)
    count = min(jobs or (cores() if device == "cpu" else 1), len(waiting))
    threads = max(1, cores() // max(1, count))
    settings = Settings(folder, data_dir, device, threads, command_line(), commit())
    workers = [_start(settings) for _ in range(count)]
    try:
        while waiting or any(worker.experiment for worker in workers):
            for index, worker in enumerate(workers):
                if worker.experiment is None and waiting:
                    if not worker.process.is_alive():
                        worker = workers[index] = _start(settings)
                    worker.experiment = waiting.popleft()
                    with contextlib.suppress(OSError):  # a death is noticed below
                        worker.pipe.send(worker.experiment)
                    on_event(Event("started", worker.experiment))
            _listen(workers, settings, records, on_event)
    finally:
        _stop(workers)
    return tuple(records[experiment.id] for experiment in experiments)


def _listen(
    workers: list[_Worker], settings: Settings, records: dict[str, Record], on_event: Callable[[Event], None]
) -> None:
    """Wait until some worker says something or dies, and take note."""
    busy = {worker.pipe: worker for worker in workers if worker.experiment}
    for pipe in wait(list(busy)):
        assert isinstance(pipe, Connection)
        worker = busy[pipe]
        experiment = worker.experiment
        assert experiment is not None
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            message = _death(settings, experiment, worker.process.exitcode)
        if isinstance(message, Epoch):
            on_event(Event("epoch", experiment, epoch=message))
        else:
            records[experiment.id] = message
            worker.experiment = None
            on_event(Event("ended", experiment, record=message))


def _death(settings: Settings, experiment: Experiment, code: int | None) -> Record:
    why = f"exit code {code}"
    if code is not None and code < 0:
        why = f"signal {-code} ({signal.Signals(-code).name})"
        if -code == signal.SIGKILL:
            why += ", perhaps out of memory: run fewer jobs at a time"
    record = Record(
        id=experiment.id,
        experiment=experiment,
        status="failed",
        error=f"the process died with {why}",
        environment=_environment(settings) | {"ended": datetime.now(UTC).isoformat(timespec="seconds")},
    )
    write_record(settings.out, record)
    return record


def _environment(settings: Settings) -> dict[str, Any]:
    return environment(
        device=settings.device, threads=settings.threads, command=settings.command, source=settings.commit
    )


def _start(settings: Settings) -> _Worker:
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads in an unknown state
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, settings), daemon=True)
    process.start()
    theirs.close()  # so that the death of the worker closes the pipe
    return _Worker(process, ours)


def _stop(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.pipe.close()
        if worker.experiment is not None:
            worker.process.terminate()
    for worker in workers:
        worker.process.join(timeout=5)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _work(pipe: Connection, settings: Settings) -> None:
    """Body of a worker process: runs that come through the pipe, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    import torch

    from foreprune.experiments.run import run_experiment

    def report(epoch: Epoch) -> None:
        try:
            pipe.send(epoch)
        except OSError:  # the parent is gone: leave, with the checkpoint in place, instead of recording a failure
            raise SystemExit(1) from None

    torch.set_num_threads(settings.threads)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            experiment = pipe.recv()
            record = run_experiment(
                experiment,
                out=settings.out,
                data_dir=settings.data_dir,
                device=settings.device,
                environment=_environment(settings),
                on_epoch=report,
            )
            pipe.send(record)
