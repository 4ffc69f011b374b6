"""A data set read once and used by many processes: its tensors lie in memory that all of them map.

Linux only, by anonymous files in memory. They are no part of /dev/shm, which is small in containers, and vanish with
the last process that has one open.
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

    def __init__(self, memory: Descriptor, size: int, pickled: bytes, layout: tuple[tuple[int, Any, Any], ...]) -> None:
        self._memory, self._size, self._pickled, self._layout = memory, size, pickled, layout

    def value(self) -> Any:
        """The value, its tensors views of the shared memory. What is written to them stays in this process."""
        memory = mmap.mmap(self._memory.number, self._size, flags=mmap.MAP_PRIVATE) if self._size else None
        tensors = [
            torch.frombuffer(memory, dtype=dtype, count=shape.numel(), offset=start).view(shape)
            if memory is not None and shape.numel()
            else torch.empty(shape, dtype=dtype)
            for start, dtype, shape in self._layout
        ]
        return _Unpickler(io.BytesIO(self._pickled), tensors).load()

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
    pickler = _Pickler(stream)
    try:
        pickler.dump(value)
    except (pickle.PicklingError, TypeError, AttributeError):
        return None
    layout: list[tuple[int, Any, Any]] = []
    size = 0
    for tensor in pickler.tensors:
        layout.append((size, tensor.dtype, tensor.shape))
        size += -(-tensor.numel() * tensor.element_size() // _ALIGNMENT) * _ALIGNMENT
    number = os.memfd_create("foreprune", os.MFD_CLOEXEC)
    try:
        os.ftruncate(number, size)
        for (start, _, _), tensor in zip(layout, pickler.tensors, strict=True):
            os.lseek(number, start, os.SEEK_SET)
            with open(number, "wb", closefd=False) as file:
                file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    except BaseException:
        os.close(number)
        raise
    return Shared(Descriptor(number), size, stream.getvalue(), tuple(layout))


class _Pickler(pickle.Pickler):
    """Puts the tensors of a value aside."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self.tensors: list[Tensor] = []

    def persistent_id(self, value: Any) -> int | None:
        if not isinstance(value, Tensor):
            return None
        if value.device.type != "cpu" or type(value) is not Tensor:
            raise TypeError("only plain tensors on the CPU can be shared")
        self.tensors.append(value.detach())
        return len(self.tensors) - 1


class _Unpickler(pickle.Unpickler):
    """The other way around."""

    def __init__(self, stream: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(stream)
        self._tensors = tensors

    def persistent_load(self, number: int) -> Tensor:
        return self._tensors[number]
