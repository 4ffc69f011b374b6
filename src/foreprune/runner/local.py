"""Runs on this machine: a process for each, several at a time, the data read once for all of them.

When the runner itself is killed its processes end at once, and the folder stays locked until they have.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreprune.records import Epoch, command_line, commit, environment
from foreprune.runner.executor import Begin, Executor, Job, Message, Trouble
from foreprune.runner.locks import Descriptor
from foreprune.runner.logged import run_logged
from foreprune.runner.placement import assign, at_a_time, cores, device_names, visible
from foreprune.runner.processes import Child, end, listen, process_context, start_child, stop

if TYPE_CHECKING:
    from foreprune.runner.shared_data import Shared


def local_executor(*, data_dir: str | None, device: str, jobs: int) -> Begin:
    """Processes of this machine, `jobs` at a time; 0 means one per core on a CPU and one per GPU.

    Raises:
        ValueError: "cuda" without a GPU.
    """
    devices = device_names(device)

    @contextlib.contextmanager
    def begin(out: Path, lock: Descriptor | None, runs: int) -> Iterator[Executor]:
        count = at_a_time(jobs, devices=devices, runs=runs)
        processes = _Processes(out, lock, data_dir=data_dir, devices=devices, count=count)
        try:
            yield processes
        finally:
            processes.close()

    return begin


class _Processes:
    """A process for each job: the executor of this machine."""

    def __init__(
        self, out: Path, lock: Descriptor | None, *, data_dir: str | None, devices: tuple[str, ...], count: int
    ) -> None:
        self._out, self._lock, self._data_dir = out, lock, data_dir
        self._devices, self._count, self._threads = devices, count, max(1, cores() // count)
        self._context = process_context()
        self._running: dict[Child, Job] = {}
        self._device_of: dict[Job, str] = {}
        self._data: tuple[str, Shared | None] = ("", None)

    def room(self) -> int:
        return self._count - len(self._running)

    def start(self, job: Job) -> bool:
        device = assign(self._devices, [self._device_of[other] for other in self._running.values()])
        seen = visible(device, os.environ.get("CUDA_VISIBLE_DEVICES"))
        self._device_of[job] = device
        child = start_child(
            self._context,
            _run,
            job=job,
            out=self._out,
            data_dir=self._data_dir,
            device=device if seen is None else "cuda",
            threads=self._threads,
            environment=self.facts(job),
            variables=dict(os.environ) | ({} if seen is None else {"CUDA_VISIBLE_DEVICES": seen}),
            shared=self._shared(job.experiment.data),
            lock=self._lock,
        )
        self._running[child] = job
        return True

    def messages(self) -> Iterator[tuple[Job, Message]]:
        for child, message in listen(self._running):
            job = self._running[child]
            if not isinstance(message, Epoch):
                del self._running[child]
                end(child)
            yield job, message

    def facts(self, job: Job) -> dict[str, Any]:
        device = self._device_of[job]
        return environment(device=device, threads=self._threads, command=command_line(), source=commit())

    def close(self) -> None:
        """End the processes in the middle of their runs and give up the memory that they share."""
        stop(self._running)
        self._hold("", None)

    def _shared(self, name: str) -> Shared | None:
        """A data set in shared memory, one at a time, as sweeps over several go through them one after the other."""
        if self._data[0] != name:
            self._hold("", None)  # before the next one is read
            self._hold(name, read_shared(name, self._data_dir))
        return self._data[1]

    def _hold(self, name: str, data: Shared | None) -> None:
        if self._data[1] is not None:
            self._data[1].close()
        self._data = name, data


def read_shared(name: str, data_dir: str | None) -> Shared | None:
    """A data set in memory that processes share; None where each run must read it for itself."""
    if not sys.platform.startswith("linux"):
        return None
    from foreprune.runner.shared_data import share
    from foreprune.zoo.datasets import load_cached

    try:
        return share(load_cached(name, data_dir))
    except Exception:  # every run will meet the same and record it
        return None
    finally:
        load_cached.cache_clear()


def _run(
    pipe: Connection,
    *,
    job: Job,
    variables: dict[str, str],
    shared: Shared | None,
    lock: Descriptor | None,  # held open as long as this process lives
    **settings: Any,
) -> None:
    """One run, in the process made for it."""
    os.environ.clear()
    os.environ.update(variables)

    def report(epoch: Epoch) -> None:
        with contextlib.suppress(OSError):  # the parent is gone, and this process with it in a moment
            pipe.send(epoch)

    data = None if shared is None else shared.value()
    message: Message
    try:
        message = run_logged(job, on_epoch=report, data=data, **settings)
    except OSError as error:
        message = Trouble(error.errno, str(error))
    with contextlib.suppress(OSError):
        pipe.send(message)
