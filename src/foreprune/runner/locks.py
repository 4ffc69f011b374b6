"""One runner at a time in an output folder, by a lock that ends with the processes that hold it.

Not by the library filelock: its `release` unlocks the open file itself, and with it every child that still works.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import reduction
from pathlib import Path
from typing import Any

from foreprune.records import now

LOCK = ".lock"
_PATIENCE = 30.0  # seconds for the runs of a runner that was killed to go


class Descriptor:
    """An open file that a child process gets with its arguments: the same open file, not one opened again."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Callable[[Any], Descriptor], tuple[Any]]:
        return _received, (reduction.DupFd(self.number),)


def _received(duplicate: Any) -> Descriptor:
    return Descriptor(duplicate.detach())


@contextlib.contextmanager
def locked(out: Path) -> Iterator[Descriptor | None]:
    """Hold the lock of an output folder, which exists; `out/.lock` names the holder.

    The kernel frees the lock when the last process that has it open is gone: this one and every child that was handed
    the descriptor, so that nobody starts beside runs that a killed runner has left behind. None where locks are not
    to be had (Windows, some network drives); on such a drive a warning says so.

    Raises:
        BlockingIOError: another process holds it; the message says which.
        PermissionError: `out` may not be written to.
    """
    if sys.platform == "win32":
        yield None
        return
    try:
        number = os.open(out / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError as error:
        raise PermissionError(
            f"no permission to write in {out}; choose an output folder you may write to, or change its permissions"
        ) from error
    try:
        held = _take(number, out)
        if held:
            os.ftruncate(number, 0)
            os.pwrite(number, f"{os.getpid()} {_host()} {now()}\n".encode(), 0)
        yield Descriptor(number) if held else None
        if held:
            os.ftruncate(number, 0)
    finally:
        os.close(number)


def _take(number: int, out: Path) -> bool:
    """Whether the lock could be taken; False where there are none."""
    import fcntl

    end = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, host, since = (os.pread(number, 200, 0).decode(errors="replace").split() + ["?"] * 3)[:3]
            if _is_dead(pid, host) and time.monotonic() < end:
                time.sleep(0.05)
                continue
            raise BlockingIOError(
                f"{out} is in use by another run of foreprune (process {pid} on {host} since {since}); wait until it "
                "is done, or choose another output folder"
            ) from None
        except OSError as error:
            warnings.warn(
                f"{out} is on a drive without file locks ({error.strerror}): see to it that nothing else writes there",
                stacklevel=4,
            )
            return False
        return True


def _is_dead(pid: str, host: str) -> bool:
    if host != _host() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _host() -> str:
    return socket.gethostname() or "?"
