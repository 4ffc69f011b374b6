"""A data set read once and used by many processes: its tensors lie in memory that all of them map.

Linux only, by anonymous files in memory. They are no part of /dev/shm, which is small in containers and where
torch.multiprocessing would put them, and vanish with the last process that has one open.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import sys
from typing import Any

import torch
from torch import Tensor

from foreprune.runner.locks import Descriptor

_ALIGNMENT = 64


class Shared:
    """A value in memory that processes share: hand it to a child as an argument, and `value()` is the value there."""

    def __init__(self, memory: Descriptor, pickled: bytes, parts: tuple[tuple[int, int], ...]) -> None:
        self._memory, self._pickled, self._parts = memory, pickled, parts

    def value(self) -> Any:
        """The value, its tensors views of the shared memory. What is written to them stays in this process."""
        size = max((start + length for start, length in self._parts if length), default=0)
        memory = memoryview(mmap.mmap(self._memory.number, size, flags=mmap.MAP_PRIVATE) if size else bytearray())
        return pickle.loads(self._pickled, buffers=[memory[start : start + length] for start, length in self._parts])

    def close(self) -> None:
        """Give the memory up in this process."""
        os.close(self._memory.number)


def share(value: Any) -> Shared | None:
    """Put the tensors of `value`, on the CPU, into shared memory; None where that cannot be done, as off Linux.

    Raises:
        OSError: there is not enough memory.
    """
    if sys.platform != "linux":
        return None
    stream = io.BytesIO()
    buffers: list[pickle.PickleBuffer] = []
    try:
        _Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(value)
    except (pickle.PicklingError, TypeError, AttributeError):
        return None
    parts: list[tuple[int, int]] = []
    number = os.memfd_create("foreprune", os.MFD_CLOEXEC)
    try:
        with open(number, "wb", closefd=False) as file:
            for buffer in buffers:
                start = file.seek(-(-file.tell() // _ALIGNMENT) * _ALIGNMENT)
                parts.append((start, file.write(buffer.raw())))
    except BaseException:
        os.close(number)
        raise
    return Shared(Descriptor(number), stream.getvalue(), tuple(parts))


class _Pickler(pickle.Pickler):
    """Pickles tensors as arrays, whose content pickle leaves to its `buffer_callback`."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        if value.device.type != "cpu" or type(value) is not Tensor:
            raise TypeError("only plain tensors on the CPU can be shared")
        return torch.from_numpy, (value.detach().contiguous().numpy(),)
