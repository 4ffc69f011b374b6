"""What the loop of `run_all` and its executors say to each other: jobs, messages, and what an executor can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from foreprune.records import Epoch, Experiment, Record
from foreprune.runner.locks import Descriptor


@dataclass(frozen=True, eq=False)
class Job:
    """One attempt at a run. `snapshots` are steps of the dense training to save, as `run_experiment` takes them."""

    experiment: Experiment
    attempt: int = 1
    snapshots: tuple[int, ...] = ()


@dataclass(frozen=True)
class Started:
    """The run has begun."""


@dataclass(frozen=True)
class Trouble:
    """Why results cannot be written; it would befall every run."""

    code: int | None
    text: str


@dataclass(frozen=True)
class Death:
    """A process ended without a result, and how."""

    why: str


Message = Started | Epoch | Record | Trouble | Death


class Executor(Protocol):
    """Starts jobs somewhere and passes on what they say. A job's last message is a Record, a Trouble or a Death."""

    def room(self) -> int:
        """How many more jobs may be started now."""

    def start(self, job: Job) -> bool:
        """Start a job; whether it has begun. If not, it waits its turn, and `Started` says when it begins."""

    def messages(self) -> Iterator[tuple[Job, Message]]:
        """Wait until some job says something; at most one message of each, or nothing after a while."""

    def facts(self, job: Job) -> dict[str, Any]:
        """The environment to record for a job that has died."""


# An executor for (output folder, its lock, number of runs); what still runs at the end of the context is stopped.
Begin = Callable[[Path, Descriptor | None, int], AbstractContextManager[Executor]]
