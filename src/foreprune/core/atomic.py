"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def atomic_write(path: str | Path, content: bytes | str) -> Path:
    """Write `content` to `path` so that a reader sees the old file or the new one, never a part of either.

    The bytes go to a temporary file in the same folder, are flushed to the disk, and take the name in one step; on any
    failure the temporary file is removed and an existing file stays as it was. The folder must exist.

    Raises:
        FileNotFoundError: the folder does not exist.
        PermissionError: the folder may not be written to.
        OSError: anything else the disk answers, such as a full disk, unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "xb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, PermissionError):
            raise PermissionError(
                f"no permission to write {path}; choose an output folder you may write to, or change its permissions"
            ) from error
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(
                f"cannot write {path}: the folder {path.parent} does not exist; create it first"
            ) from error
        raise
    _sync_folder(path.parent)
    return path


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system lets folders be opened (POSIX)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
