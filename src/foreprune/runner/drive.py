"""Many runs, each in a process of its own, here or on a Ray cluster: which to start, what becomes of each.

A run that raises is a failed record. A process that dies (killed, out of memory, a crash in C) costs its run one
attempt: the run is started again, continues from its checkpoint, and is recorded as failed when it dies too often.
Records are written by the processes, whole or not at all, so stopping anywhere loses no finished run.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from foreprune.procedures import snapshots_for, steps_needed
from foreprune.records import (
    RECORD,
    RUNS,
    Epoch,
    Experiment,
    Record,
    check_formats,
    earlier,
    finished,
    is_full,
    make_folder,
    remove_unfinished,
    run_folder,
    set_aside,
    write_record,
)
from foreprune.runner.executor import Begin, Death, Executor, Job, Started, Trouble
from foreprune.runner.locks import locked
from foreprune.runner.logged import death_record


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
    executor: Literal["local", "ray"] = "local",
    address: str | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> tuple[Record, ...]:
    """Carry out every experiment that has no finished record under `out` yet; the records of all of them, in order.

    What a run prints goes to `out/runs/<id>/log.txt`. A damaged record is set aside and its run done again.

    Args:
        device: "cpu", "cuda" for all GPUs of the machine or cluster, each run on the one with the fewest, or (not on
            Ray) one GPU, "cuda:1".
        jobs: runs at a time; 0 means one per core, or one per GPU. The cores are shared out evenly; with more jobs than
            GPUs, several share one.
        retries: how often a run whose process died is started again before it is recorded as failed. A run that raises
            an exception would do so again, and is not.
        executor: "local", processes of this machine, or "ray", tasks on a Ray cluster; `out` and the data must be under
            the same path on every node, and the same version of this package installed.
        address: of the Ray cluster, "auto", "host:port" or "ray://host:port"; None starts Ray on this machine and stops
            it afterwards.
        on_event: called in this process whenever something happens.

    Raises:
        KeyboardInterrupt: by Ctrl-C or SIGTERM, after the runs are stopped. Finished runs stay; runs in the middle
            continue from their last checkpoint next time.
        ValueError: a negative number of jobs or retries, a device, executor or address that cannot be, or records of
            another format under `out`.
        BlockingIOError: another process is at work in `out`.
        OSError: `out` cannot be written to, or the disk is full. Finished runs stay.
        ImportError: ray is not installed, or a worker of the cluster has another version of this package.
        ConnectionError: there is no Ray cluster at `address`.
        FileNotFoundError: the workers of the cluster do not see `out`, or this process not what they write there.
    """
    if jobs < 0:
        raise ValueError(f"jobs must be at least 1, or 0 for one per core or GPU, not {jobs}")
    if retries < 0:
        raise ValueError(f"retries must be 0 or more, not {retries}")
    begin = _executor(executor, data_dir=data_dir, device=device, jobs=jobs, address=address)
    folder = make_folder(out)
    with locked(folder) as lock, _terminated_like_interrupted():
        check_formats(folder)
        if executor == "local":  # tasks of a Ray driver that was killed may still be writing
            _tidy(folder)
        wanted = {experiment.id: experiment for experiment in experiments}
        records = _earlier(folder, tuple(wanted.values()), on_event)
        left = [experiment for name, experiment in wanted.items() if name not in records]
        if left:
            try:
                with begin(folder, lock, len(left)) as started:
                    _carry_out(left, records, executor=started, out=folder, retries=retries, on_event=on_event)
            finally:
                if executor == "local":
                    _tidy(folder)
    return tuple(records[experiment.id] for experiment in experiments)


def _executor(name: str, *, data_dir: str | None, device: str, jobs: int, address: str | None) -> Begin:
    if name == "local":
        from foreprune.runner.local import local_executor

        if address is not None:
            raise ValueError(f"address belongs to executor='ray'; add that, or leave out {address!r}")
        return local_executor(data_dir=data_dir, device=device, jobs=jobs)
    if name == "ray":
        from foreprune.runner.ray_executor import ray_executor

        return ray_executor(data_dir=data_dir, device=device, jobs=jobs, address=address)
    raise ValueError(f"executor must be 'local' or 'ray', not {name!r}")


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


def _carry_out(
    experiments: Sequence[Experiment],
    records: dict[str, Record],
    *,
    executor: Executor,
    out: Path,
    retries: int,
    on_event: Callable[[Event], None],
) -> None:
    """Run all of `experiments` and put their records beside the earlier ones in `records`."""
    needed = steps_needed(experiments)
    waiting = deque(Job(experiment, 1, snapshots_for(experiment, needed)) for experiment in experiments)
    under_way = 0

    def tell(job: Job, kind: Literal["started", "epoch", "retried", "ended"], **more: Any) -> None:
        on_event(Event(kind, job.experiment, attempt=job.attempt, **more))

    while waiting or under_way:
        for _ in range(min(len(waiting), executor.room()) if waiting else 0):
            job = waiting.popleft()
            under_way += 1
            if executor.start(job):
                tell(job, "started")
        for job, message in executor.messages():
            if isinstance(message, Started):
                tell(job, "started")
            elif isinstance(message, Epoch):
                tell(job, "epoch", epoch=message)
            elif isinstance(message, Trouble):
                raise _stopped(message, out, records)
            else:
                under_way -= 1
                if isinstance(message, Death):
                    written = finished(out, job.experiment)  # it may have died after its work was done
                    if written is None and job.attempt <= retries:
                        waiting.append(replace(job, attempt=job.attempt + 1))
                        tell(job, "retried", note=message.why)
                        continue
                    message = written or _record_death(job, message.why, executor, out, records)
                records[job.experiment.id] = message
                tell(job, "ended", record=message)


def _record_death(job: Job, reason: str, executor: Executor, out: Path, records: Mapping[str, Record]) -> Record:
    record = death_record(job, reason, out=out, environment=executor.facts(job))
    try:
        write_record(out, record)
    except OSError as error:
        raise _stopped(Trouble(error.errno, str(error)), out, records) from error
    return record


def _stopped(trouble: Trouble, out: Path, records: Mapping[str, Record]) -> OSError:
    """The error that ends a sweep whose results cannot be written."""
    kept = sum(record.status == "finished" for record in records.values())
    many = f"{kept} finished run{' is' if kept == 1 else 's are'} kept"
    if is_full(OSError(trouble.code, trouble.text)):
        error = OSError(f"disk full writing to {out}; {many}; free space and run the same command again")
    else:
        error = OSError(f"cannot write to {out}: {trouble.text}; {many}; mend that and run the same command again")
    error.errno = trouble.code
    return error


def _tidy(out: Path) -> None:
    """Remove half-written files: of processes that are gone, as nobody else works in a locked folder."""
    for name in (RUNS, "dense"):
        remove_unfinished(out / name)


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt in the meantime, unless the program handles it already."""

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
