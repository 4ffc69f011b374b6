"""The pickled batches of CIFAR's python version, read without running anything that they contain."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def read_cifar_batch(path: Path, *, label_key: str) -> tuple[Tensor, Tensor]:
    """One file of the python version of CIFAR-10 or CIFAR-100.

    The file is a pickle of a dictionary with `data`, an array of 3072 bytes (red, green, blue planes of 32x32) for each
    image, and a list of labels. Only containers, strings, numbers and that array are accepted; the array is rebuilt
    here from its bytes, so not even NumPy's reconstruction is called.

    Args:
        path: the file.
        label_key: `labels` (CIFAR-10) or `fine_labels` (CIFAR-100).

    Returns:
        images (N, 3, 32, 32) uint8 and labels (N,) int64.

    Raises:
        ValueError: a pickle that asks for anything else, or no such dictionary.
    """
    content = _unpickle_plainly(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not the dictionary of a CIFAR batch")
    entries = {
        key.decode("ascii", "replace") if isinstance(key, bytes) else key: value for key, value in content.items()
    }
    missing = [key for key in ("data", label_key) if key not in entries]
    if missing:
        raise ValueError(f"{path} lacks {' and '.join(missing)}; it has {', '.join(map(repr, entries)) or 'nothing'}")
    pixels = getattr(entries["data"], "pixels", None)
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != 3072:
        raise ValueError(f"{path}: data must be an array of N x 3072 unsigned bytes")
    labels = entries[label_key]
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise ValueError(f"{path}: {label_key} must be a list of whole numbers")
    if len(labels) != len(pixels):
        raise ValueError(f"{path} has {len(pixels)} images and {len(labels)} labels")
    if labels and not -1 < min(labels) <= max(labels) < 2**31:
        raise ValueError(f"{path}: {label_key} must be 0 or more, found {min(labels)} to {max(labels)}")
    return torch.from_numpy(pixels.reshape(-1, 3, 32, 32)), torch.tensor(labels, dtype=torch.int64)


def _unpickle_plainly(path: Path) -> Any:
    # The stand-ins are made anew for every file: a pickle can set attributes on whatever `find_class` hands out, and
    # nothing it does to these can outlast the call.
    class Array:
        """What `numpy.ndarray` pickles to, kept as an array of bytes or refused."""

        pixels: np.ndarray[Any, Any]

        def fill(self, shape: Any, dtype: Any, fortran: Any, raw: Any) -> Array:
            if not isinstance(dtype, DType) or dtype.code not in ("u1", "|u1", b"u1", b"|u1"):
                raise pickle.UnpicklingError("an array that is not of unsigned bytes")
            if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
                raise pickle.UnpicklingError("an array without a proper shape")
            if not isinstance(raw, (bytes, bytearray)) or len(raw) != math.prod(shape):
                raise pickle.UnpicklingError("an array whose bytes do not fill its shape")
            flat = np.frombuffer(bytearray(raw), dtype=np.uint8)
            self.pixels = np.ascontiguousarray(flat.reshape(shape, order="F" if fortran else "C"))
            return self

        def __setstate__(self, state: Any) -> None:
            if not isinstance(state, tuple) or len(state) != 5:
                raise pickle.UnpicklingError("an array without a proper state")
            self.fill(*state[1:])

    class DType:
        """What `numpy.dtype` pickles to: its code alone."""

        def __init__(self, code: Any, *_: Any) -> None:
            self.code = code

        def __setstate__(self, state: Any) -> None:
            """Byte order and layout: of no consequence for single bytes."""

    def reconstruct(*_: Any) -> Array:
        return Array()

    def from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> Array:
        return Array().fill(shape, dtype, order != "C", raw)

    def encode(text: Any, encoding: Any) -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError("an encoding other than latin1")
        return text.encode("latin1")

    allowed: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "ndarray"): Array,
        ("numpy", "dtype"): DType,
        ("numpy.core.multiarray", "_reconstruct"): reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): reconstruct,
        ("numpy.core.numeric", "_frombuffer"): from_buffer,
        ("numpy._core.numeric", "_frombuffer"): from_buffer,
        ("_codecs", "encode"): encode,
    }

    class PlainUnpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) not in allowed:
                raise pickle.UnpicklingError(f"it asks for {module}.{name}")
            return allowed[module, name]

    try:
        with path.open("rb") as file:
            return PlainUnpickler(file, encoding="bytes").load()
    except (
        pickle.UnpicklingError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        MemoryError,
    ) as error:
        raise ValueError(
            f"{path} is not a CIFAR batch, or is damaged: {error}. Only arrays of bytes, lists, strings and numbers "
            "are read from a pickle; anything else could run code"
        ) from error
