"""Where commands print: results to standard output, problems to standard error."""

from __future__ import annotations

from rich.console import Console

screen = Console()
errors = Console(stderr=True)
