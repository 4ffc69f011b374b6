"""What a worker of a Ray cluster does: one run, in a process that does nothing else before or after."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import platform
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import foreprune
from foreprune.procedures.shared import lock
from foreprune.records import Epoch, Experiment, commit, environment, finished, run_folder
from foreprune.runner.executor import Death, Job, Message, Started, Trouble
from foreprune.runner.logged import run_logged, why

RUN_LOCK = ".lock"
_PATIENCE = 10.0  # seconds until a file that one machine has written is seen by another, over a network


def version() -> dict[str, str]:
    """What must be the same everywhere: the version and, so that edited sources count, a digest of all of them."""
    return {"foreprune": foreprune.__version__, "source": _digest(), "commit": commit() or "unknown"}


@functools.cache
def _digest() -> str:
    root = Path(foreprune.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)} ".encode() + content)
    return digest.hexdigest()[:12]


def carry_out(order: dict[str, Any]) -> Iterator[Message]:
    """Do the run that `order` describes, saying how it goes on; the last message is how it ended.

    Args:
        order: plain values, so that a worker with another version can read it and say so: `experiment` (JSON),
            `attempt`, `out`, `data_dir`, `device`, `threads`, `command`, `snapshots`, `version` and `ray`.

    Raises:
        ImportError: this worker has another version of the package.
        FileNotFoundError: it does not see the folder of the run.
    """
    ours, theirs = order["version"], version()
    if any(ours[key] != theirs[key] for key in ("foreprune", "source")):
        raise ImportError(
            f"the worker on {platform.node()} has foreprune {_in_words(theirs)}, and this process {_in_words(ours)}"
        )
    experiment = Experiment.model_validate_json(order["experiment"])
    out = Path(order["out"])
    folder = run_folder(out, experiment)
    if not wait_for(folder.is_dir):
        raise FileNotFoundError(
            f"the worker on {platform.node()} does not see {folder}: is the folder shared with the workers? "
            "Every node must have it under the same path"
        )
    yield Started()
    # runs of a driver that was killed go on for some seconds
    with lock(folder / RUN_LOCK):
        if (earlier := finished(out, experiment)) is not None:
            yield earlier
            return
        yield from _run(order, Job(experiment, order["attempt"], tuple(order["snapshots"])), out)


def carry_out_whole(order: dict[str, Any]) -> Message:
    """`carry_out` where values cannot be sent one by one: only how it ended."""
    *_, last = carry_out(order)
    return last


def _run(order: dict[str, Any], job: Job, out: Path) -> Iterator[Message]:
    """The run, in a thread of its own while this one passes on what it says."""
    said: SimpleQueue[Message] = SimpleQueue()
    threading.Thread(target=_in_thread, args=(order, job, out, said), daemon=True).start()
    while isinstance(message := said.get(), Epoch):
        yield message
    yield message


def _in_thread(order: dict[str, Any], job: Job, out: Path, said: SimpleQueue[Message]) -> None:
    settings = {key: order[key] for key in ("data_dir", "device", "threads")}
    try:
        said.put(run_logged(job, out=out, environment=facts(order), on_epoch=said.put, **settings))
    except OSError as error:
        said.put(Trouble(error.errno, str(error)))
    except BaseException as error:  # sys.exit in a user's model would end a process
        code = error.code if isinstance(error, SystemExit) else 1
        said.put(Death(why(code if isinstance(code, int) else int(code is not None))))


def facts(order: dict[str, Any]) -> dict[str, Any]:
    """What the record of a run says of its environment."""
    source = None if order["version"]["commit"] == "unknown" else order["version"]["commit"]
    found = environment(device=order["device"], threads=order["threads"], command=order["command"], source=source)
    return found | {"executor": "ray", "versions": found["versions"] | {"ray": order["ray"]}}


def _in_words(found: dict[str, str]) -> str:
    return f"{found['foreprune']} (commit {found['commit']}, sources {found['source']})"


def wait_for(condition: Any, *, seconds: float | None = None) -> bool:
    """Whether `condition()` becomes true before so many seconds (default: `_PATIENCE`) have passed."""
    end = time.monotonic() + (_PATIENCE if seconds is None else seconds)
    while True:
        with contextlib.suppress(OSError, ValueError):
            if condition():
                return True
        if time.monotonic() >= end:
            return False
        time.sleep(0.1)
