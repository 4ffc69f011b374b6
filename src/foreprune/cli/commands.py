"""The commands by name, and what becomes of their warnings and errors."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

import tyro

from foreprune.cli.compare import Compare, Report
from foreprune.cli.consoles import errors
from foreprune.cli.lists import Methods
from foreprune.cli.single import Analyze, Prune, Train
from foreprune.cli.sweep import Papers, Sweep


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    errors.print(f"warning: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def _brief(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same command, described by its first line alone."""
    assert isinstance(command, type)
    return type(command.__name__, (command,), {"__doc__": (command.__doc__ or "").split("\n")[0]})


def run() -> NoReturn:
    """Read the command and its arguments from `sys.argv`, carry it out and leave with its exit code."""
    commands: dict[str, Callable[..., Any]] = {
        "compare": Compare,
        "prune": Prune,
        "analyze": Analyze,
        "train": Train,
        "sweep": Sweep,
        "papers": Papers,
        "methods": Methods,
        "report": Report,
    }
    if sys.argv[1:2] in ([], ["-h"], ["--help"]):  # one line for each; their own --help has the rest
        commands = {name: _brief(command) for name, command in commands.items()}
    command = tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="foreprune",
        description="Prune neural networks before training them; `foreprune compare` shows how.",
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    warnings.showwarning = _show_warning
    try:
        code = command.run()
    except (ValueError, TypeError, OSError, ImportError) as error:
        errors.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        code = 2
    except KeyboardInterrupt:
        code = 130
    except Exception as error:  # of a network or its layers: whatever a user's model can raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = " ".join(str(error).split())
        errors.print(
            f"error: {type(error).__name__}: {what} ({place.filename}, line {place.lineno}); if the network raised "
            "it, see that it can be built and takes inputs of the shape given by --data or --input-shape",
            style="red",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        code = 2
    sys.exit(code)
