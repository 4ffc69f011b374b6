"""One run in this process, with a log of what it prints; and the record of a run whose process died."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreprune.records import (
    RUNS,
    Epoch,
    Experiment,
    Record,
    make_folder,
    now,
    remove_unfinished,
    run_folder,
    write_record,
)
from foreprune.runner.executor import Job

if TYPE_CHECKING:
    from foreprune.zoo.datasets import DataSet

LOG = "log.txt"
LOG_BYTES = 1_000_000


def run_logged(
    job: Job,
    *,
    out: Path,
    data_dir: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    environment: dict[str, Any] | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    data: DataSet | None = None,
) -> Record:
    """Carry one run out in this process and write its record, which is returned; a failure is a record too.

    What the run prints goes to `log.txt` in its folder, after what earlier attempts have left there. Like
    `run_experiment`, it continues from a checkpoint. No other process may be doing the same run.

    Args:
        threads: of torch; None leaves them as they are.
        data: the data set, if it has been read already.

    Raises:
        OSError: the output folder cannot be written to, or the disk is full. That is no result of the run.
    """
    import torch

    from foreprune.experiments import run_experiment

    faulthandler.enable(file=2)  # a crash in C leaves a traceback in the log
    if threads is not None:
        torch.set_num_threads(threads)
    experiment, attempt = job.experiment, job.attempt
    folder = make_folder(run_folder(out, experiment))
    remove_unfinished(folder)
    started = now()

    def note(epoch: Epoch) -> None:
        tested = "" if epoch.test_top1 is None else f", test top-1 {epoch.test_top1:.4f}"
        sys.stdout.write(f"epoch {epoch.epoch} of {experiment.recipe.epochs}: loss {epoch.train_loss:.4g}{tested}\n")
        on_epoch(epoch)

    with log_to(folder / LOG):
        sys.stdout.write(f"--- {started}: attempt {attempt} of {experiment.id}, process {os.getpid()}, on {device}\n")
        try:
            record = run_experiment(
                experiment,
                out=out,
                data_dir=data_dir,
                device=device,
                environment=environment,
                on_epoch=note,
                data=data,
                snapshots=job.snapshots,
            )
            if record.status == "failed":
                with contextlib.suppress(OSError):
                    sys.stdout.write((folder / "traceback.txt").read_text())
        except OSError as error:
            sys.stdout.write(f"--- {now()}: stopped, the results cannot be written: {error}\n")
            raise
        except Exception as error:  # not the experiment's own failure, but one run's all the same
            traceback.print_exc()
            record = Record(
                id=experiment.id,
                experiment=experiment,
                status="failed",
                error=f"{type(error).__name__}: {error}",
                environment={**(environment or {}), "started": started, "ended": now()},
            )
        sys.stdout.write(f"--- {now()}: {record.status}" + (f", {record.error}\n" if record.error else "\n"))
    if record.status == "failed" or attempt > 1:
        error_text = f"{record.error}{_see_log(out, experiment)}" if record.status == "failed" else None
        record = record.model_copy(update={"error": error_text, "attempts": attempt})
        write_record(out, record)
    return record


def death_record(job: Job, reason: str, *, out: Path, environment: dict[str, Any]) -> Record:
    """The failed record, not yet written, of a run whose process died in every attempt, the last time for `reason`."""
    times = f", {job.attempt} times" if job.attempt > 1 else ""
    return Record(
        id=job.experiment.id,
        experiment=job.experiment,
        status="failed",
        error=f"the process {reason}{times}{_see_log(out, job.experiment)}",
        attempts=job.attempt,
        environment=environment | {"ended": now()},
    )


def why(code: int | None) -> str:
    """What an exit code says of a process that should not have ended: "was killed by SIGKILL, ..."."""
    if code is None or code >= 0:
        return f"ended with exit code {code}" if code is not None else "ended"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = ", perhaps because memory ran out: run fewer jobs at a time" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


def _see_log(out: Path, experiment: Experiment) -> str:
    exists = (run_folder(out, experiment) / LOG).exists()
    return f" (log: {RUNS}/{experiment.id}/{LOG})" if exists else ""


@contextlib.contextmanager
def log_to(path: Path, *, limit: int = LOG_BYTES, every: float = 1.0) -> Iterator[None]:
    """Append what this process prints, from C and its child processes too, to the file `path`; its folder must exist.

    Of a file that grows beyond `limit` bytes the beginning is left out; looked at every so many seconds.
    """
    shorten(path, limit)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    _flush()
    kept = os.dup(1), os.dup(2)
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(every):
            shorten(path, limit)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        with (
            open(1, "w", buffering=1, closefd=False, encoding="utf-8", errors="backslashreplace") as stream,
            contextlib.redirect_stdout(stream),
            contextlib.redirect_stderr(stream),
        ):
            yield
    finally:
        stop.set()
        watcher.join()
        _flush()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for number in (descriptor, *kept):
            os.close(number)
        shorten(path, limit)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    if os.name == "posix":
        ctypes.CDLL(None).fflush(None)  # what C code has printed


def shorten(path: Path, limit: int) -> None:
    """Leave the last half of `limit` bytes of a file that is larger than `limit`, from the beginning of a line on."""
    with contextlib.suppress(OSError):
        if path.stat().st_size <= limit:
            return
        with open(path, "r+b") as file:
            file.seek(-(limit // 2), os.SEEK_END)
            rest = file.read()
            rest = rest[rest.find(b"\n") + 1 :]
            file.seek(0)
            file.write(b"[the beginning is left out]\n" + rest)
            file.truncate()
