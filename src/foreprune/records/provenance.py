"""Where and with what a run was made: versions, commit, machine, command."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import foreprune


def now() -> str:
    """The time in UTC, to the second, as records, logs and locks name it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def command_line() -> str:
    """The command that is running, as one would type it again."""
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    return shlex.join([program, *sys.argv[1:]])


@cache
def commit() -> str | None:
    """Commit of the source tree this package is run from, "+changes" appended if it differs; None outside one."""
    source = Path(foreprune.__file__).parent
    try:
        tracked = _git(source, "ls-files", "--error-unmatch", "__init__.py")
        head = _git(source, "rev-parse", "--short=12", "HEAD")
        changed = _git(source, "status", "--porcelain", "--untracked-files=no", ".")
    except (OSError, subprocess.SubprocessError):
        return None
    return (head + ("+changes" if changed else "")) if tracked else None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def environment(*, device: str, threads: int, command: str, source: str | None) -> dict[str, Any]:
    """Facts that a reader of a number asks for, as plain JSON values."""
    return {
        "command": command,
        "commit": source,
        "versions": {
            "foreprune": foreprune.__version__,
            "torch": version("torch"),
            "numpy": version("numpy"),
            "python": platform.python_version(),
        },
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count(),
            "threads": threads,
            "device": device,
        },
    }
