"""Weights on disk, between a training and the runs that begin from it: whole or not at all, and checked when read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from foreprune.core.atomic import atomic_write

FORMAT = "foreprune-snapshot/1"


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Named tensors on the CPU, and strings that say what they are."""

    tensors: dict[str, Tensor]
    about: dict[str, str]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of parameters and buffers on the CPU, contiguous, no storage shared: what a snapshot holds."""
    return {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }


def write_snapshot(path: Path, tensors: Mapping[str, Tensor], *, about: Mapping[str, str]) -> None:
    """Write a safetensors file with a SHA-256 of its content; the folder must exist.

    Raises:
        OSError: it cannot be written; an earlier file stays as it was.
    """
    header = {**about, "format": FORMAT}
    content = save(dict(tensors), metadata={**header, "digest": _digest(header, tensors)})
    atomic_write(path, content)


def read_snapshot(path: Path, *, about: Mapping[str, str]) -> Snapshot | None:
    """What `write_snapshot` wrote with at least these entries in `about`; None if there is no such file.

    Warns:
        UserWarning: the file is damaged, or something else; it counts as missing.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, KeyError) as error:
        problem = str(error)
    else:
        problem = _problem(header, tensors, {**about, "format": FORMAT})
        if not problem:
            return Snapshot(tensors, header)
    warnings.warn(f"{path} is damaged ({problem}); it is made again", UserWarning, stacklevel=2)
    return None


def load_into(model: nn.Module, tensors: Mapping[str, Tensor], *, source: Path) -> None:
    """Copy parameters and buffers into `model`, wherever it is.

    Raises:
        ValueError: they belong to another network.
    """
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{source} holds weights of another network than the model builds now ({reason}); delete it to train again"
        ) from error


@contextlib.contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Hold the lock file `path`: one process at a time, freed by the system if that process dies.

    Yields whether it is held. Where the system or the file system has no locks, nothing is, and work is done twice with
    the same result: trainings repeat, and files are written whole.
    """
    with open(path, "ab") as stream:
        held = False
        if sys.platform != "win32":
            import fcntl

            with contextlib.suppress(OSError):
                fcntl.flock(stream, fcntl.LOCK_EX)
                held = True
        yield held


def _problem(header: dict[str, str], tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """What is wrong with a file that could be read, or nothing. The digest is taken out of the header."""
    if header.pop("digest", None) != _digest(header, tensors):
        return "its content does not fit its digest"
    for name, value in about.items():
        if header.get(name) != value:
            return f"its {name} is {header.get(name)!r} instead of {value!r}"
    return ""


def _digest(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(sorted(header.items())).encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
