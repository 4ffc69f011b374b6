"""A process for one run: how it is made, what it says, how it ends with whoever started it.

On Linux processes are copies of a server that has imported everything a run needs and has done nothing else, so that a
process costs milliseconds. Elsewhere each starts from nothing.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreprune.records import Epoch, Experiment, Record, environment
from foreprune.runner.locks import Descriptor
from foreprune.runner.logged import run_logged, why
from foreprune.runner.placement import visible

if TYPE_CHECKING:
    from foreprune.runner.shared_data import Shared

# The command line too where it is used, because a new process imports its parent's main module.
_PRELOAD = ("foreprune.runner.preloaded", "foreprune.cli")
_SECONDS_TO_END = 5.0
_LOST = 255  # also the exit code of a process whose server was killed: it may be alive


@dataclass(frozen=True)
class Settings:
    """What all runs of one call share: where records go, where data are, with how many threads, and facts to record."""

    out: Path
    data_dir: str | None
    threads: int
    command: str
    commit: str | None


@dataclass(frozen=True)
class Task:
    """What a process is to do, and what it inherits."""

    experiment: Experiment
    attempt: int
    device: str
    settings: Settings
    variables: dict[str, str]
    data: Shared | None
    lock: Descriptor | None
    snapshots: tuple[int, ...] = ()


@dataclass(frozen=True)
class Trouble:
    """Why a process could not write its results."""

    code: int | None
    text: str


@dataclass(frozen=True, eq=False)
class Run:
    """A process at work."""

    task: Task
    process: BaseProcess
    pipe: Connection


@dataclass(frozen=True)
class Death:
    """A process ended without a result, and how."""

    why: str


Message = Epoch | Record | Trouble | Death
Context = ForkServerContext | SpawnContext


def process_context() -> Context:
    """How processes are made: on Linux as copies of one that has imported everything and done nothing else."""
    if not sys.platform.startswith("linux"):  # on macOS system libraries do not survive a fork
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([name for name in _PRELOAD if name in sys.modules or name == _PRELOAD[0]])
    from multiprocessing import forkserver

    forkserver.ensure_running()  # it imports while this process reads the data
    return context


def start(context: Context, task: Task) -> Run:
    """Begin a run in a process of its own.

    Raises:
        OSError: no process can be had.
    """
    ours, theirs = context.Pipe(duplex=False)
    deadline = time.monotonic() + _SECONDS_TO_END
    while True:
        process = context.Process(target=_work, args=(theirs, task))
        try:
            process.start()
            break
        except (EOFError, ConnectionError) as error:  # the server was killed, perhaps; another takes its place
            if time.monotonic() > deadline:
                raise OSError(
                    f"no process could be started ({error}); perhaps memory ran out: run fewer jobs at a time"
                ) from error
            time.sleep(0.05)
    theirs.close()  # so that the death of the process closes the pipe
    return Run(task, process, ours)


def messages(running: Sequence[Run]) -> Iterator[tuple[Run, Message]]:
    """Wait until some process says something or dies; at most one message of each."""
    ready = wait([source for run in running for source in (run.pipe, run.process.sentinel)])
    for run in tuple(running):
        if run.pipe not in ready and run.process.sentinel not in ready:
            continue
        message: Message | None = None
        with contextlib.suppress(EOFError, OSError):
            message = run.pipe.recv() if run.pipe.poll() else None
        yield run, message or _death(run.process)


def _death(process: BaseProcess) -> Death:
    process.join(_SECONDS_TO_END)
    if process.exitcode == _LOST and process.pid is not None:
        _kill_stranger(process.pid)
    return Death(why(process.exitcode))


def _kill_stranger(pid: int) -> None:
    """Kill a process that is no child of this one, and wait until it is gone: its run is about to begin again."""
    deadline = time.monotonic() + _SECONDS_TO_END
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        while time.monotonic() < deadline and not _is_zombie(pid):
            time.sleep(0.01)
            os.kill(pid, 0)


def _is_zombie(pid: int) -> bool:
    """Whether it has ended and nobody has asked how; False where that cannot be told."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return False


def end(run: Run) -> None:
    """Wait until a process that has said its last is gone, and help if need be."""
    run.process.join(_SECONDS_TO_END)
    if run.process.is_alive():
        run.process.kill()
        run.process.join()
    run.pipe.close()
    run.process.close()


def stop(running: Sequence[Run]) -> None:
    """End processes in the middle of their runs."""
    for run in running:
        run.process.terminate()
    for run in running:
        end(run)


def facts(task: Task) -> dict[str, Any]:
    """What the record of a task says of its environment."""
    settings = task.settings
    return environment(device=task.device, threads=settings.threads, command=settings.command, source=settings.commit)


def _work(pipe: Connection, task: Task) -> None:
    """Body of a process: one run."""
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    os.environ.clear()
    os.environ.update(task.variables)
    faulthandler.enable(file=2)  # a crash in C leaves a traceback in the log
    import torch

    torch.set_num_threads(task.settings.threads)

    def report(epoch: Epoch) -> None:
        with contextlib.suppress(OSError):  # the parent is gone, and this process with it in a moment
            pipe.send(epoch)

    data = None if task.data is None else task.data.value()
    message: Record | Trouble
    try:
        message = run_logged(
            task.experiment,
            out=task.settings.out,
            data_dir=task.settings.data_dir,
            device=task.device if visible(task.device, None) is None else "cuda",
            environment=facts(task),
            attempt=task.attempt,
            on_epoch=report,
            data=data,
            snapshots=task.snapshots,
        )
    except OSError as error:
        message = Trouble(error.errno, str(error))
    with contextlib.suppress(OSError):
        pipe.send(message)
    os._exit(0)  # threads and atexit of a user's model must not keep the next run waiting


def _end_with_parent() -> None:
    """Let this process die with the one that asked for it, whatever it is doing."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def watch() -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if sys.platform.startswith("linux"):
        import fcntl

        # the kernel kills even a process in the middle of C code that does not let the thread above run
        fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(sentinel, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)
