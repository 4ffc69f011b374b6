"""A process for one run: how it is made, what it says, how it ends with whoever started it.

On Linux processes are copies of a server that has imported everything a run needs and has done nothing else, so that a
process costs milliseconds. Elsewhere each starts from nothing. Pools (concurrent.futures, joblib) are of no use here:
they reuse processes, and one that is killed breaks the pool, or leaves its tasks to another without a word.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from foreprune.runner.executor import Death
from foreprune.runner.logged import why

_SECONDS_TO_END = 5.0
_LOST = 255  # also the exit code of a process whose server was killed: it may be alive

Context = ForkServerContext | SpawnContext


@dataclass(frozen=True, eq=False)
class Child:
    """A process at work, and the pipe that it speaks through."""

    process: BaseProcess
    pipe: Connection


def process_context() -> Context:
    """How processes are made: on Linux as copies of one that has imported everything and done nothing else."""
    if not sys.platform.startswith("linux"):  # on macOS system libraries do not survive a fork
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["foreprune.runner.preloaded"])
    from multiprocessing import forkserver

    forkserver.ensure_running()  # it imports while this process reads the data
    return context


def start_child(context: Context, work: Callable[..., None], **arguments: Any) -> Child:
    """Call `work(pipe, **arguments)` in a process of its own.

    Raises:
        OSError: no process can be had.
    """
    ours, theirs = context.Pipe(duplex=False)
    deadline = time.monotonic() + _SECONDS_TO_END
    while True:
        process = context.Process(target=_call, args=(work, theirs, arguments))
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
    return Child(process, ours)


def listen(children: Iterable[Child]) -> Iterator[tuple[Child, Any]]:
    """Wait until some process says something or dies; one message of each that does, or its `Death`."""
    watched = tuple(children)
    ready = wait([source for child in watched for source in (child.pipe, child.process.sentinel)])
    for child in watched:
        if child.pipe not in ready and child.process.sentinel not in ready:
            continue
        message = None
        with contextlib.suppress(EOFError, OSError):
            message = child.pipe.recv() if child.pipe.poll() else None
        yield child, message or _death(child.process)


def end(child: Child) -> None:
    """Wait until a process that has said its last is gone, and help if need be."""
    child.process.join(_SECONDS_TO_END)
    if child.process.is_alive():
        child.process.kill()
        child.process.join()
    child.pipe.close()
    child.process.close()


def stop(children: Iterable[Child]) -> None:
    """End processes in the middle of their work."""
    stopped = tuple(children)
    for child in stopped:
        child.process.terminate()
    for child in stopped:
        end(child)


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


def _call(work: Callable[..., None], pipe: Connection, arguments: dict[str, Any]) -> None:
    """Body of a process."""
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    work(pipe, **arguments)
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
