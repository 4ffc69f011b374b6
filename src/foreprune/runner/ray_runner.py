"""Many runs on a Ray cluster: each is one task in a process of its own, on whichever node has room.

The same promises as `foreprune.runner.workers` makes on one machine. Results come through the output folder, which
all nodes share; epochs are streamed from the task itself (a Ray generator), so that watching costs no further process
and no look at the disk. A Ray Client connection ("ray://") has no such streams: there, only beginnings and ends are
told.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from foreprune.procedures import snapshots_for, steps_needed
from foreprune.records import (
    RECORD,
    Epoch,
    Experiment,
    Record,
    check_formats,
    command_line,
    finished,
    make_folder,
    read_record,
    run_folder,
    write_record,
)
from foreprune.runner import ray_task
from foreprune.runner.locks import locked
from foreprune.runner.logged import death_record
from foreprune.runner.processes import Death, Trouble
from foreprune.runner.ray_cluster import connected, import_ray, places, share_of
from foreprune.runner.ray_task import Message, Refusal, Started
from foreprune.runner.workers import Event, _earlier, _stopped, _terminated_like_interrupted

_AHEAD = 2  # times the places of the cluster: tasks that wait are what makes a cluster grow


@dataclass(frozen=True, eq=False)
class _Submitted:
    """A task, and the run it is to do."""

    experiment: Experiment
    attempt: int


@dataclass(eq=False)
class _Sweep:
    """The runs of one call, and where each stands."""

    ray: ModuleType
    out: Path
    order: Callable[[Experiment, int], dict[str, Any]]
    submit: Callable[[dict[str, Any]], Any]
    streaming: bool
    limit: Callable[[], int]
    retries: int
    kept: int
    on_event: Callable[[Event], None]
    waiting: deque[tuple[Experiment, int]]
    running: dict[Any, _Submitted] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)


def run_on_ray(
    experiments: Sequence[Experiment],
    *,
    out: str | Path,
    data_dir: str | None = None,
    device: str = "cpu",
    address: str | None = None,
    jobs: int = 0,
    retries: int = 1,
    on_event: Callable[[Event], None] = lambda event: None,
) -> tuple[Record, ...]:
    """Carry out every experiment that has no finished record under `out` yet; the records of all of them, in order.

    As `run_all`, on a Ray cluster. `out` and the data must be under the same path on every node, and the same version
    of this package installed. A run whose worker or node is lost continues elsewhere from its checkpoint.

    Args:
        device: "cpu", or "cuda" for the GPUs of the cluster.
        address: None starts Ray on this machine and stops it afterwards; "auto", "host:port" or "ray://host:port" use a
            cluster that runs.
        jobs: runs at a time; 0 means as many as the cluster has cores, or GPUs. With more jobs than GPUs, several share
            one; with fewer than cores, each run has several threads.
        retries: how often a run whose process was lost is started again before it is recorded as failed.
        on_event: called in this process whenever something happens.

    Raises:
        KeyboardInterrupt: by Ctrl-C or SIGTERM, after the tasks are canceled.
        ImportError: ray is not installed, or a worker has another version of this package.
        ConnectionError: there is no Ray cluster at `address`.
        FileNotFoundError: the workers do not see `out`, or this process not what they write there.
        ValueError: a negative number of jobs or retries, an address or a device that cannot be, nothing in the cluster
            to run on, or records of another format under `out`.
        BlockingIOError: another process is at work in `out`.
        OSError: `out` cannot be written to, or the disk is full. Finished runs stay.
    """
    for name, value in (("jobs", jobs), ("retries", retries)):
        if value < 0:
            raise ValueError(f"{name} must be 0 or more, not {value}")
    ray = import_ray()
    folder = make_folder(Path(out).absolute())
    with locked(folder):
        check_formats(folder)
        wanted = {experiment.id: experiment for experiment in experiments}
        records = _earlier(folder, tuple(wanted.values()), on_event)
        waiting = deque((experiment, 1) for name, experiment in wanted.items() if name not in records)
        if waiting:
            with connected(ray, address), _terminated_like_interrupted():
                order, options = _order(ray, waiting, out=folder, data_dir=data_dir, device=device, jobs=jobs)
                streaming = not ray.util.client.ray.is_connected()
                sweep = _Sweep(
                    ray=ray,
                    out=folder,
                    order=order,
                    submit=_submitter(ray, options, streaming=streaming),
                    streaming=streaming,
                    limit=lambda: jobs or _AHEAD * places(ray.nodes(), share_of(ray.nodes(), device=device, jobs=0)),
                    retries=retries,
                    kept=sum(record.status == "finished" for record in records.values()),
                    on_event=on_event,
                    waiting=waiting,
                )
                records |= _carry_out_all(sweep)
    return tuple(records[experiment.id] for experiment in experiments)


def _order(
    ray: ModuleType,
    waiting: Sequence[tuple[Experiment, int]],
    *,
    out: Path,
    data_dir: str | None,
    device: str,
    jobs: int,
) -> tuple[Callable[[Experiment, int], dict[str, Any]], dict[str, Any]]:
    """What a task is told, given its run and attempt; and what Ray is told about all tasks."""
    share = share_of(ray.nodes(), device=device, jobs=jobs)
    needed = steps_needed(experiment for experiment, _ in waiting)
    data = data_dir if data_dir is not None else os.environ.get("FOREPRUNE_DATA") or None
    same = {
        "out": str(out),
        "data_dir": None if data is None else str(Path(data).expanduser().absolute()),
        "device": device,
        "threads": share.cpus,
        "command": command_line(),
        "version": ray_task.version(),
        "ray": ray.__version__,
    }

    def order(experiment: Experiment, attempt: int) -> dict[str, Any]:
        snapshots = snapshots_for(experiment, needed)
        return same | {"experiment": experiment.model_dump_json(), "attempt": attempt, "snapshots": snapshots}

    return order, {"num_cpus": share.cpus, "num_gpus": share.gpus}


def _submitter(ray: ModuleType, options: dict[str, Any], *, streaming: bool) -> Callable[[dict[str, Any]], Any]:
    # one task to a process, and lost ones are counted here: Ray would neither tell of them nor keep a record
    options = options | {"max_calls": 1, "max_retries": 0}
    if streaming:
        remote = ray.remote(num_returns="streaming", **options)(ray_task.carry_out)
    else:
        remote = ray.remote(**options)(ray_task.carry_out_whole)
    return lambda order: remote.remote(order)


def _carry_out_all(sweep: _Sweep) -> dict[str, Record]:
    try:
        while sweep.waiting or sweep.running:
            if sweep.waiting:
                _fill(sweep, sweep.limit())
            ready, _ = sweep.ray.wait(list(sweep.running), num_returns=1, timeout=5.0, fetch_local=False)
            for task in ready:
                for message in _message(sweep, task):
                    _take(sweep, task, message)
    finally:
        for task in sweep.running:
            with contextlib.suppress(Exception):  # what cannot be canceled now ends with this process
                sweep.ray.cancel(task, force=True)
    return sweep.records


def _fill(sweep: _Sweep, limit: int) -> None:
    while sweep.waiting and len(sweep.running) < limit:
        experiment, attempt = sweep.waiting.popleft()
        make_folder(run_folder(sweep.out, experiment))  # a worker that does not see it knows that nothing is shared
        sweep.running[sweep.submit(sweep.order(experiment, attempt))] = _Submitted(experiment, attempt)
        if not sweep.streaming:
            sweep.on_event(Event("started", experiment, attempt=attempt))


def _message(sweep: _Sweep, task: Any) -> Iterator[Message]:
    """What a task that is ready says now: one message, or none if it has said its last before."""
    errors = sweep.ray.exceptions
    try:
        yield sweep.ray.get(next(task) if sweep.streaming else task)
    except StopIteration:
        return
    except errors.RayTaskError as error:
        if isinstance(error.cause, OSError):
            yield Trouble(error.cause.errno, str(error.cause))
            return
        reason = " ".join(str(error.cause or error).split())
        yield Refusal(
            "ImportError", f"a worker cannot begin ({reason}); is the same foreprune installed on every node?"
        )
    except errors.OutOfMemoryError:
        yield Death("was ended by Ray because memory ran out: run fewer jobs at a time")
    except errors.NodeDiedError:
        yield Death("was lost with its node")
    except errors.WorkerCrashedError:
        yield Death("was killed or crashed, perhaps because memory ran out: run fewer jobs at a time")
    except errors.RayError as error:
        first = (str(error).strip().splitlines() or [""])[0]
        yield Death(f"was lost ({type(error).__name__}: {first})")


def _take(sweep: _Sweep, task: Any, message: Message) -> None:
    """Note what a task has said."""
    experiment, attempt = sweep.running[task].experiment, sweep.running[task].attempt
    if isinstance(message, Started):
        sweep.on_event(Event("started", experiment, attempt=attempt))
        return
    if isinstance(message, Epoch):
        sweep.on_event(Event("epoch", experiment, epoch=message, attempt=attempt))
        return
    if isinstance(message, Refusal):
        raise {"ImportError": ImportError, "FileNotFoundError": FileNotFoundError}[message.kind](message.text)
    if isinstance(message, Trouble):
        raise _stopped(message, sweep.out, sweep.kept)
    del sweep.running[task]
    if isinstance(message, Death):
        written = finished(sweep.out, experiment)  # it may have died after its work was done
        if written is None and attempt <= sweep.retries:
            sweep.waiting.append((experiment, attempt + 1))
            sweep.on_event(Event("retried", experiment, attempt=attempt, note=message.why))
            return
        message = written or _record_death(sweep, experiment, attempt, message.why)
    else:
        _check_shared(sweep.out, message)
    sweep.records[experiment.id] = message
    sweep.kept += message.status == "finished"
    sweep.on_event(Event("ended", experiment, record=message, attempt=attempt))


def _record_death(sweep: _Sweep, experiment: Experiment, attempt: int, reason: str) -> Record:
    environment = ray_task.facts(sweep.order(experiment, attempt))
    del environment["machine"]  # it was another one, perhaps
    record = death_record(experiment, out=sweep.out, reason=reason, attempts=attempt, environment=environment)
    try:
        write_record(sweep.out, record)
    except OSError as error:
        raise _stopped(Trouble(error.errno, str(error)), sweep.out, sweep.kept) from error
    return record


def _check_shared(out: Path, record: Record) -> None:
    """Raise FileNotFoundError unless the record that a worker has written is in `out` here."""
    path = run_folder(out, record.experiment) / RECORD
    plain = record.model_dump_json()
    if not ray_task.wait_for(lambda: read_record(path).model_dump_json() == plain):
        raise FileNotFoundError(
            f"the record of {record.id} is not under {out}: is the folder shared with the workers? Every node must "
            "have it under the same path"
        )
