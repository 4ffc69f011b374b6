"""Mask files: safetensors with one bit per weight, written whole and read without trust. No torch.

Each tensor is uint8, packed most significant bit first. The header holds the shapes as JSON under "shapes", the masks'
metadata, and under "digest" the SHA-256 of all of it, which shows damage. Where tensors hold several layers,
"block-table" says which rows are whose.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foreprune.core.atomic import atomic_write
from foreprune.core.blocks import Table, from_plain, to_plain

FORMAT = "foreprune-masks/1"
_LARGEST = 2**40  # weights in one tensor of a mask file; anything larger is a damaged or hostile header
_TABLE = "block-table"
_MOST_AXES = 64  # of a torch tensor

Bits = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, eq=False)
class PackedMasks:
    """What a mask file holds: name -> packed bits, name -> shape, the metadata, and the blocks of split tensors."""

    bits: Mapping[str, Bits]
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]
    table: Table = field(default_factory=dict)


def write_bits(path: Path, masks: PackedMasks) -> Path:
    """Write a mask file, whole or not at all."""
    from safetensors.numpy import save

    header = {**masks.metadata, "format": FORMAT, "shapes": json.dumps(masks.shapes)}
    if masks.table:
        header[_TABLE] = json.dumps(to_plain(masks.table))
    header["digest"] = digest_of(header, masks.bits)
    return atomic_write(path, save(dict(masks.bits), metadata=header))


def read_bits(path: Path) -> PackedMasks:
    """Read a mask file. Nothing in it is executed or trusted; the tensors come in the order of its shapes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, damaged, or not a mask file; the message begins with what follows "the file is".
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:  # before tensors are read: it may be a whole model
                raise ValueError(
                    f"a safetensors file but not a mask file of format {FORMAT!r} (found {header.get('format')!r}); "
                    "write masks with masks.save(path)"
                )
            for name in file.keys():  # noqa: SIM118
                if (kind := file.get_slice(name).get_dtype()) != "U8":
                    raise _damaged(f"{name!r} holds {kind} instead of packed bits")
            packed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"damaged or not a safetensors file ({error}); make the masks again") from error
    if header.pop("digest", None) != digest_of(header, packed):
        raise _damaged("its content does not fit its digest")
    shapes = _read_shapes(header.get("shapes", ""))
    if shapes.keys() != packed.keys():
        odd = sorted(shapes.keys() ^ packed.keys())[0]
        raise _damaged(f"the header and the tensors disagree about {odd!r}")
    for name, shape in shapes.items():
        _check_size(name, packed[name], math.prod(shape))
    metadata = {key: value for key, value in header.items() if key not in ("format", "shapes", _TABLE)}
    return PackedMasks({name: packed[name] for name in shapes}, shapes, metadata, _read_table(header, shapes))


def digest_of(header: Mapping[str, str], packed: Mapping[str, Bits]) -> str:
    """SHA-256 of a file's header and tensors, in hexadecimal."""
    digest = hashlib.sha256(json.dumps(sorted(header.items())).encode())
    for name in sorted(packed):
        digest.update(json.dumps([name, packed[name].size]).encode() + packed[name].tobytes())
    return digest.hexdigest()


def _damaged(what: str) -> ValueError:
    return ValueError(f"damaged: {what}; make the masks again")


def _read_shapes(text: str) -> dict[str, tuple[int, ...]]:
    try:
        shapes = {str(name): tuple(shape) for name, shape in json.loads(text).items()}
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise _damaged(f"its list of shapes is unreadable ({error})") from None
    for name, shape in shapes.items():
        sound = len(shape) <= _MOST_AXES and all(type(size) is int and 0 <= size <= _LARGEST for size in shape)
        if not sound or math.prod(max(size, 1) for size in shape) > _LARGEST:  # strides are computed as if 0 were 1
            raise _damaged(f"{name!r} claims the impossible shape {shape[:8]}")
    return shapes


def _read_table(header: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> Table:
    try:
        return from_plain(json.loads(header[_TABLE]), shapes) if _TABLE in header else {}
    except (ValueError, RecursionError) as error:
        raise _damaged(f"its table of blocks is unreadable ({error})") from None


def _check_size(name: str, bits: Bits, count: int) -> None:
    if bits.ndim != 1 or bits.size != (count + 7) // 8:
        raise _damaged(
            f"{name!r} of {count:,} weights needs {(count + 7) // 8} bytes, found {bits.size} of {bits.dtype}"
        )
    if count % 8 and int(bits[-1]) & (0xFF >> count % 8):
        raise _damaged(f"{name!r} has bits beyond its last weight")
