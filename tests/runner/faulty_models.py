"""Networks for tests of the runner, that misbehave: they hang, print, fill disks and kill their own processes.

Runs import them by name in processes of their own; what they do depends on files in the folder `FAULTY_MODELS`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foreprune.core import atomic

_BUFFER = ctypes.create_string_buffer(4096)


def first_time(name: str) -> bool:
    """Whether nobody has asked for this name before."""
    mark = Path(os.environ["FAULTY_MODELS"]) / name
    if mark.exists():
        return False
    mark.touch()
    return True


class Plain(nn.Sequential):
    """Pixels to ten classes, slower by some seconds for each batch."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        result: Tensor = super().forward(x)
        return result


def quick() -> nn.Module:
    return Plain()


def slow() -> nn.Module:
    return Plain(0.01)


def dying() -> nn.Module:
    """Kills its own process at once, as the kernel does when memory is out."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def crashing() -> nn.Module:
    """Reads address zero, as broken C code does."""
    ctypes.string_at(0)
    raise AssertionError("unreachable")


def leaving() -> nn.Module:
    sys.exit(7)


class Pausing(Plain):
    """Sleeps for minutes after 60 batches of training, until somebody kills it."""

    batches = 0

    def forward(self, x: Tensor) -> Tensor:
        self.batches += self.training
        if self.batches == 60:
            time.sleep(240)
        return super().forward(x)


def pausing(seed: int) -> nn.Module:
    """Pauses the first time; with a seed from 2 on the second time too."""
    pauses = first_time(f"pausing-{seed}") or (seed >= 2 and first_time(f"pausing-{seed}-again"))
    return Pausing() if pauses else Plain()


def stuck() -> nn.Module:
    """The first time in C code that never lets another thread of Python run."""
    if first_time("stuck"):
        re.match(r"(a+)+$", "a" * 60 + "b")
    return Plain()


def talking() -> nn.Module:
    sys.stdout.write("said by Python\n")
    sys.stderr.write("complained by Python \udc80\n")
    libc = ctypes.CDLL(None)
    # what goes to a file is held back, unless PYTHONUNBUFFERED is set; so that it always is
    libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), _BUFFER, 0, len(_BUFFER))
    libc.puts(b"said by C")
    os.write(2, b"complained by C\n")
    subprocess.run([sys.executable, "-c", "print('said by a child')"], check=True)
    sys.stdout.write(f"variable {os.environ.get('SAID_BY_A_VARIABLE')}\n")
    sys.stdout.write(f"threads {torch.get_num_threads()}\n")
    return Plain()


def raising() -> nn.Module:
    raise ValueError("this network cannot be built")


def filling() -> nn.Module:
    """The first time the disk is full once, for whatever is written next, and has room again for smaller things."""
    sync = os.fsync

    def full(descriptor: int) -> None:
        atomic.os.fsync = sync
        raise OSError(getattr(errno, os.environ.get("FULL", "ENOSPC")), "No space left on device")

    if first_time("filling"):
        atomic.os.fsync = full
    return Plain()


def done_then_killed() -> nn.Module:
    """Dies after its record is written, before anybody hears of it."""
    replace = atomic.os.replace

    def last_words(source: Any, target: Any) -> None:
        replace(source, target)
        if Path(target).name == "record.json":
            os.kill(os.getpid(), signal.SIGKILL)

    atomic.os.replace = last_words
    return Plain()
