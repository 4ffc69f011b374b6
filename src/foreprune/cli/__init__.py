"""The command line. Arguments and printing only; the work is done elsewhere, and imported only when a command runs."""

from __future__ import annotations

import os
import sys

NEEDS = ("pydantic", "rich", "tyro")


def main() -> None:
    """Entry point of the `foreprune` command."""
    try:
        from foreprune.cli.commands import run
    except ImportError as error:
        if error.name not in NEEDS:
            raise
        sys.exit(f"error: the foreprune command needs {error.name}, write: pip install 'foreprune[cli]'")
    try:
        run()
    except BrokenPipeError:  # whoever read the help has seen enough, as in `foreprune compare --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
