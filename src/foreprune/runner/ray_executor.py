"""Runs on a Ray cluster: each is one task in a process of its own, on whichever node has room.

Results come through the output folder, which all nodes share; epochs are streamed from the task itself (a Ray
generator), so that watching costs no further process and no look at the disk. A Ray Client connection ("ray://") has no
such streams: there, only beginnings and ends are told.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from foreprune.records import RECORD, Record, command_line, make_folder, read_record, run_folder
from foreprune.runner import ray_task
from foreprune.runner.executor import Begin, Death, Executor, Job, Message, Trouble
from foreprune.runner.locks import Descriptor
from foreprune.runner.ray_cluster import connected, import_ray, places, share_of

_AHEAD = 2  # times the places of the cluster: tasks that wait are what makes a cluster grow


def ray_executor(*, data_dir: str | None, device: str, jobs: int, address: str | None) -> Begin:
    """Tasks on the Ray cluster at `address`; None starts Ray on this machine and stops it at the end.

    Args:
        device: "cpu", or "cuda" for the GPUs of the cluster.
        jobs: runs at a time; 0 means as many as the cluster has cores, or GPUs. With more jobs than GPUs, several share
            one; with fewer than cores, each run has several threads.

    Raises:
        ImportError: ray is not installed.
    """
    ray = import_ray()

    @contextlib.contextmanager
    def begin(out: Path, lock: Descriptor | None, runs: int) -> Iterator[Executor]:
        with connected(ray, address):
            tasks = _Tasks(ray, out.absolute(), data_dir=data_dir, device=device, jobs=jobs)
            try:
                yield tasks
            finally:
                tasks.cancel()

    return begin


class _Tasks:
    """A task for each job: the executor of a cluster that `ray` is connected to."""

    def __init__(self, ray: ModuleType, out: Path, *, data_dir: str | None, device: str, jobs: int) -> None:
        share = share_of(ray.nodes(), device=device, jobs=jobs)
        data = data_dir if data_dir is not None else os.environ.get("FOREPRUNE_DATA") or None
        self._ray, self._out, self._device, self._jobs = ray, out, device, jobs
        self._same = {
            "out": str(out),
            "data_dir": None if data is None else str(Path(data).expanduser().absolute()),
            "device": device,
            "threads": share.cpus,
            "command": command_line(),
            "version": ray_task.version(),
            "ray": ray.__version__,
        }
        self._streaming = not ray.util.client.ray.is_connected()
        stream = {"num_returns": "streaming"} if self._streaming else {}
        # one task to a process, and lost ones are retried by `run_all`: Ray would not tell of them or keep a record
        options = {"num_cpus": share.cpus, "num_gpus": share.gpus, "max_calls": 1, "max_retries": 0}
        function = ray_task.carry_out if self._streaming else ray_task.carry_out_whole
        self._remote = ray.remote(**stream, **options)(function)
        self._running: dict[Any, Job] = {}

    def room(self) -> int:
        most = self._jobs
        if not most:  # as many as the cluster has places for now: it may have grown
            nodes = self._ray.nodes()
            most = _AHEAD * places(nodes, share_of(nodes, device=self._device, jobs=0))
        return most - len(self._running)

    def start(self, job: Job) -> bool:
        make_folder(run_folder(self._out, job.experiment))  # a worker that does not see it knows that nothing is shared
        self._running[self._remote.remote(self._order(job))] = job
        return not self._streaming

    def messages(self) -> Iterator[tuple[Job, Message]]:
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=5.0, fetch_local=False)
        for task in ready:
            job = self._running[task]
            for message in self._said(task):
                if isinstance(message, (Record, Death)):
                    del self._running[task]
                if isinstance(message, Record):
                    _check_shared(self._out, message)
                yield job, message

    def facts(self, job: Job) -> dict[str, Any]:
        found = ray_task.facts(self._order(job))
        del found["machine"]  # it was another one, perhaps
        return found

    def cancel(self) -> None:
        """End the tasks in the middle of their runs."""
        for task in self._running:
            with contextlib.suppress(Exception):  # what cannot be canceled now ends with this process
                self._ray.cancel(task, force=True)

    def _order(self, job: Job) -> dict[str, Any]:
        """What a task is told."""
        experiment = job.experiment.model_dump_json()
        return self._same | {"experiment": experiment, "attempt": job.attempt, "snapshots": job.snapshots}

    def _said(self, task: Any) -> Iterator[Message]:
        """What a task that is ready says now: one message, or none if it has said its last before.

        Raises:
            ImportError, FileNotFoundError: no run can be carried out by these workers.
        """
        errors = self._ray.exceptions
        try:
            yield self._ray.get(next(task) if self._streaming else task)
        except StopIteration:
            return
        except errors.RayTaskError as error:
            cause = error.cause or error
            if isinstance(cause, FileNotFoundError):  # nothing is shared
                raise FileNotFoundError(str(cause)) from error
            if not isinstance(cause, OSError):
                reason = " ".join(str(cause).split())
                raise ImportError(f"a worker cannot begin ({reason}); install this foreprune on every node") from error
            yield Trouble(cause.errno, str(cause))
        except errors.OutOfMemoryError:
            yield Death("was ended by Ray because memory ran out: run fewer jobs at a time")
        except errors.NodeDiedError:
            yield Death("was lost with its node")
        except errors.WorkerCrashedError:
            yield Death("was killed or crashed, perhaps because memory ran out: run fewer jobs at a time")
        except errors.RayError as error:
            first = (str(error).strip().splitlines() or [""])[0]
            yield Death(f"was lost ({type(error).__name__}: {first})")


def _check_shared(out: Path, record: Record) -> None:
    """Raise FileNotFoundError unless the record that a worker has written is in `out` here."""
    path = run_folder(out, record.experiment) / RECORD
    plain = record.model_dump_json()
    if not ray_task.wait_for(lambda: read_record(path).model_dump_json() == plain):
        raise FileNotFoundError(
            f"the record of {record.id} is not under {out}: is the folder shared with the workers? Every node must "
            "have it under the same path"
        )
