"""Many runs on one machine: a process for every run, several at a time.

A run that raises is a failed record. A process that dies (killed, out of memory, a crash in C) costs its run one
attempt: the run is started again, continues from its checkpoint, and is recorded as failed when it dies too often.
Records are written by the processes, whole or not at all, so stopping anywhere loses no finished run. When the runner
itself is killed its processes end at once, and the folder stays locked until they have.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from foreprune.procedures import snapshots_for, steps_needed
from foreprune.records import (
    RECORD,
    RUNS,
    Epoch,
    Experiment,
    Record,
    check_formats,
    command_line,
    commit,
    earlier,
    finished,
    is_full,
    make_folder,
    remove_unfinished,
    run_folder,
    set_aside,
    write_record,
)
from foreprune.runner.locks import Descriptor, locked
from foreprune.runner.logged import death_record
from foreprune.runner.placement import assign, at_a_time, cores, device_names, visible
from foreprune.runner.processes import (
    Death,
    Run,
    Settings,
    Task,
    Trouble,
    end,
    facts,
    messages,
    process_context,
    start,
    stop,
)

if TYPE_CHECKING:
    from foreprune.runner.shared_data import Shared


@dataclass(frozen=True)
class Event:
    """Something that happened to a run.

    It was `skipped` (finished earlier), its record was `damaged` and set aside, it was started, passed an epoch, was
    `retried` because its process died, or ended. `note` says what was wrong with a record or how a process died;
    `attempt` counts the processes of a run from 1.
    """

    kind: Literal["skipped", "damaged", "started", "epoch", "retried", "ended"]
    experiment: Experiment
    epoch: Epoch | None = None
    record: Record | None = None
    attempt: int = 1
    note: str = ""


def run_all(
    experiments: Sequence[Experiment],
    *,
    out: str | Path,
    data_dir: str | None = None,
    device: str = "cpu",
    jobs: int = 0,
    retries: int = 1,
    on_event: Callable[[Event], None] = lambda event: None,
) -> tuple[Record, ...]:
    """Carry out every experiment that has no finished record under `out` yet; the records of all of them, in order.

    What a run prints goes to `out/runs/<id>/log.txt`. A damaged record is set aside and its run done again.

    Args:
        device: "cpu", "cuda" for all GPUs of the machine, each run on the one with the fewest, or one GPU ("cuda:1").
        jobs: runs at a time; 0 means one per core on a CPU and one per GPU. The cores are shared out evenly.
        retries: how often a run whose process died is started again before it is recorded as failed. A run that raises
            an exception would do so again, and is not.
        on_event: called in this process whenever something happens.

    Raises:
        KeyboardInterrupt: by Ctrl-C or SIGTERM, after the processes are stopped. Finished runs stay; runs in the middle
            continue from their last checkpoint next time.
        ValueError: a negative number of jobs or retries, or records of another format under `out`.
        BlockingIOError: another process is at work in `out`.
        OSError: `out` cannot be written to, or the disk is full. Finished runs stay.
    """
    if retries < 0:
        raise ValueError(f"retries must be 0 or more, not {retries}")
    devices = device_names(device)
    at_a_time(jobs, devices=devices, runs=0)
    folder = make_folder(out)
    with locked(folder) as lock, _terminated_like_interrupted():
        check_formats(folder)
        _tidy(folder)
        wanted = {experiment.id: experiment for experiment in experiments}
        records = _earlier(folder, tuple(wanted.values()), on_event)
        waiting = deque((experiment, 1) for name, experiment in wanted.items() if name not in records)
        if waiting:
            count = at_a_time(jobs, devices=devices, runs=len(waiting))
            settings = Settings(folder, data_dir, max(1, cores() // count), command_line(), commit())
            records |= _carry_out_all(
                waiting,
                settings=settings,
                devices=devices,
                count=count,
                retries=retries,
                lock=lock,
                kept=sum(record.status == "finished" for record in records.values()),
                on_event=on_event,
            )
    return tuple(records[experiment.id] for experiment in experiments)


def _earlier(out: Path, experiments: Sequence[Experiment], on_event: Callable[[Event], None]) -> dict[str, Record]:
    """The finished records by id; damaged ones are set aside."""
    found: dict[str, Record] = {}
    for experiment in experiments:
        try:
            record = earlier(out, experiment)
        except ValueError as error:
            path = run_folder(out, experiment) / RECORD
            note = f"{path} is damaged: {error}; it is kept as {set_aside(path).name}, and the run is done again"
            on_event(Event("damaged", experiment, note=note))
            continue
        if record is not None:
            found[experiment.id] = record
            on_event(Event("skipped", experiment, record=record))
    return found


def _carry_out_all(
    waiting: deque[tuple[Experiment, int]],
    *,
    settings: Settings,
    devices: Sequence[str],
    count: int,
    retries: int,
    lock: Descriptor | None,
    kept: int,
    on_event: Callable[[Event], None],
) -> dict[str, Record]:
    context = process_context()
    needed = steps_needed(experiment for experiment, _ in waiting)
    running: list[Run] = []
    records: dict[str, Record] = {}
    with contextlib.ExitStack() as finally_:
        data = finally_.enter_context(_data(settings.data_dir))
        finally_.callback(_tidy, settings.out)
        finally_.callback(stop, running)
        while waiting or running:
            while waiting and len(running) < count:
                experiment, attempt = waiting.popleft()
                where = assign(devices, [run.task.device for run in running])
                variables = dict(os.environ)
                if (seen := visible(where, variables.get("CUDA_VISIBLE_DEVICES"))) is not None:
                    variables["CUDA_VISIBLE_DEVICES"] = seen
                task = Task(
                    experiment,
                    attempt,
                    where,
                    settings,
                    variables,
                    data(experiment.data),
                    lock,
                    snapshots_for(experiment, needed),
                )
                running.append(start(context, task))
                on_event(Event("started", experiment, attempt=attempt))
            for run, message in messages(running):
                task = run.task
                if isinstance(message, Epoch):
                    on_event(Event("epoch", task.experiment, epoch=message, attempt=task.attempt))
                    continue
                running.remove(run)
                end(run)
                if isinstance(message, Trouble):
                    raise _stopped(message, settings.out, kept)
                if isinstance(message, Death):
                    written = finished(settings.out, task.experiment)  # it may have died after its work was done
                    if written is None and task.attempt <= retries:
                        waiting.append((task.experiment, task.attempt + 1))
                        on_event(Event("retried", task.experiment, attempt=task.attempt, note=message.why))
                        continue
                    message = written or _record_death(task, message.why, kept)
                records[task.experiment.id] = message
                kept += message.status == "finished"
                on_event(Event("ended", task.experiment, record=message, attempt=task.attempt))
    return records


def _tidy(out: Path) -> None:
    """Remove half-written files: of processes that are gone, as nobody else works in a locked folder."""
    for name in (RUNS, "dense"):
        remove_unfinished(out / name)


def _record_death(task: Task, reason: str, kept: int) -> Record:
    record = death_record(
        task.experiment, out=task.settings.out, reason=reason, attempts=task.attempt, environment=facts(task)
    )
    try:
        write_record(task.settings.out, record)
    except OSError as error:
        raise _stopped(Trouble(error.errno, str(error)), task.settings.out, kept) from error
    return record


def _stopped(trouble: Trouble, out: Path, kept: int) -> OSError:
    """The error that ends a sweep whose results cannot be written."""
    many = f"{kept} finished run{' is' if kept == 1 else 's are'} kept"
    if is_full(OSError(trouble.code, trouble.text)):
        error = OSError(f"disk full writing to {out}; {many}; free space and run the same command again")
    else:
        error = OSError(f"cannot write to {out}: {trouble.text}; {many}; mend that and run the same command again")
    error.errno = trouble.code
    return error


@contextlib.contextmanager
def _data(data_dir: str | None) -> Iterator[Callable[[str], Shared | None]]:
    """A function from the name of a data set to its memory; None where each run must read it for itself.

    One data set is held at a time: sweeps over several go through them one after the other.
    """
    held: dict[str, Shared | None] = {}

    def close() -> None:
        for shared in held.values():
            if shared is not None:
                shared.close()
        held.clear()

    def data(name: str) -> Shared | None:
        if name not in held:
            close()
            held[name] = _read(name, data_dir)
        return held[name]

    try:
        yield data
    finally:
        close()


def _read(name: str, data_dir: str | None) -> Shared | None:
    if not sys.platform.startswith("linux"):
        return None  # memory is shared on Linux only
    from foreprune.runner.shared_data import share
    from foreprune.zoo.datasets import load_cached

    try:
        return share(load_cached(name, data_dir))
    except Exception:  # every run will meet the same and record it
        return None
    finally:
        load_cached.cache_clear()


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt in the meantime, unless the program has its own way with it."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
