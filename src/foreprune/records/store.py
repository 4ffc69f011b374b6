"""Records on disk: one folder per run, named by its id, each holding one `record.json` written whole or not at all.

Layout under an output folder: `runs/<experiment id>/record.json`. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from foreprune.core.atomic import atomic_write
from foreprune.records.experiment import Experiment
from foreprune.records.run_record import FORMAT, Record
from foreprune.records.tabulated import read_table

RUNS = "runs"
RECORD = "record.json"
_FULL = frozenset(getattr(errno, name) for name in ("ENOSPC", "EDQUOT") if hasattr(errno, name))
_FAMILY = FORMAT.partition("/")[0].encode() + b"/"
_FORMAT_IN_FILE = re.compile(rb'"format"\s*:\s*"([^"]{0,80})"')


@dataclass(frozen=True)
class Records:
    """What a folder holds: the records that could be read, and `(path, reason)` for every file left aside."""

    records: tuple[Record, ...]
    problems: tuple[tuple[Path, str], ...]


def run_folder(out: str | Path, experiment: Experiment) -> Path:
    """The folder of one run, `out/runs/<experiment id>`. Nothing is created."""
    return Path(out) / RUNS / experiment.id


def make_folder(folder: str | Path) -> Path:
    """Create `folder` and its parents if needed, and return it.

    Raises:
        PermissionError: a parent may not be written to.
        NotADirectoryError: a file stands where a folder is needed.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except PermissionError as error:
        raise PermissionError(f"no permission to create {folder}; choose an output folder you may write to") from error
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(f"cannot create the folder {folder}: a file stands in its way") from error
    return folder


def is_full(error: BaseException) -> bool:
    """Whether `error` says that the disk, or one's share of it, is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def remove_unfinished(folder: Path) -> None:
    """Remove what writes that were killed have left in and below `folder`; no other process may be writing there.

    Such files begin with a dot and end in ".tmp", and nothing ever reads them.
    """
    for left in folder.rglob(".*.tmp"):
        with contextlib.suppress(OSError):
            left.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged record to the next free `record.damaged-<n>.json` beside it, and return that."""
    number = 1
    while (aside := path.with_name(f"{path.stem}.damaged-{number}{path.suffix}")).exists():
        number += 1
    return path.rename(aside)


def write_record(out: str | Path, record: Record) -> Path:
    """Write `record` to its run's folder under `out`, replacing an earlier one whole, and return the file's path.

    Raises:
        ValueError: `record.id` is not the id of `record.experiment`.
        OSError: the file cannot be written; an earlier record stays as it was (see `atomic_write`).
    """
    if record.id != record.experiment.id:
        raise ValueError(f"a record's id must be its experiment's id, {record.experiment.id!r}, not {record.id!r}")
    content = record.model_dump_json(indent=2).encode() + b"\n"
    path = make_folder(run_folder(out, record.experiment)) / RECORD
    atomic_write(path, content)
    return path


def read_record(path: str | Path) -> Record:
    """Read one `record.json`.

    Raises:
        ValueError: it is damaged, of another format, or its id is not that of its experiment or of its folder. The
            message is one line.
        OSError: it cannot be opened.
    """
    path = Path(path)
    content = path.read_bytes()
    try:
        record = Record.model_validate_json(content)
    except ValidationError as error:
        raise ValueError(_reason(error, content)) from None
    if record.id != record.experiment.id:
        raise ValueError(
            f"its id is {record.id!r}, but its settings make {record.experiment.id!r}: one of them was changed"
        )
    if record.id != path.parent.name:
        raise ValueError(f"it is the record of {record.id!r}, but lies in the folder {path.parent.name!r}")
    return record


def _reason(error: ValidationError, content: bytes) -> str:
    """The first thing wrong, in one line, without echoing what may be a large or hostile input."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "json_invalid":
        return f"not valid JSON: {first['msg'].removeprefix('Invalid JSON: ')}"
    if where == "format":
        found = _FORMAT_IN_FILE.search(content)
        return f"not a record of the format {FORMAT!r}" + (
            f", but {found[1].decode(errors='replace')!r}" if found else ""
        )
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where or 'record'}: {first['msg']}{more}"


def read_records(folder: str | Path) -> Records:
    """Read every record under `folder`, which is an output folder or its `runs` folder, ordered by id.

    A file whose name ends in `.csv` is read as the table of a report (`read_table`). A record that cannot be used
    (damaged, another format, another run's, unreadable) is reported and left aside. Folders without a `record.json`,
    such as those of runs under way, are passed over.

    Raises:
        FileNotFoundError: there is no such folder.
        NotADirectoryError: `folder` is a file.
        PermissionError: it may not be read.
        ValueError: a `.csv` file is no table of records.
    """
    folder = Path(folder)
    if folder.suffix == ".csv" and folder.is_file():
        rows, reasons = read_table(folder)
        return Records(tuple(sorted(rows, key=lambda record: record.id)), reasons)
    try:
        paths = _record_files(folder / RUNS if os.path.isdir(folder / RUNS) else folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no folder {folder}; give the output folder of a comparison") from error
    except NotADirectoryError as error:
        raise NotADirectoryError(f"{folder} is a file; give the output folder that holds `{RUNS}/`") from error
    records: list[Record] = []
    problems: list[tuple[Path, str]] = []
    for path in paths:
        try:
            records.append(read_record(path))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except ValueError as error:
            problems.append((path, str(error)))
        except OSError as error:
            problems.append((path, f"cannot be read: {error.strerror or error}"))
    return Records(tuple(sorted(records, key=lambda record: record.id)), tuple(problems))


def _record_files(root: Path) -> list[Path]:
    """Where the records of all runs in `root` are, or would be."""
    try:
        return sorted(run / RECORD for run in root.iterdir())
    except PermissionError as error:
        raise PermissionError(f"no permission to read {error.filename or root}") from error


def finished(out: str | Path, experiment: Experiment) -> Record | None:
    """The finished record of `experiment` under `out`, or `None` if it has yet to be run (again).

    A failed run, a damaged record and the record of other settings all count as not finished.
    """
    try:
        return earlier(out, experiment)
    except ValueError:
        return None


def earlier(out: str | Path, experiment: Experiment) -> Record | None:
    """As `finished`, but a damaged record is an error.

    Raises:
        ValueError: there is a record, but it cannot be used; see `read_record`.
        OSError: there is one, but it cannot be opened.
    """
    try:
        record = read_record(run_folder(out, experiment) / RECORD)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return record if record.status == "finished" and record.experiment == experiment else None


def check_formats(out: str | Path) -> None:
    """Refuse a folder that holds records of another version of the format: the two would be mixed up in a report.

    Only the beginnings of the files are looked at, so that a folder of thousands of runs is checked in a moment.

    Raises:
        ValueError: there is one; the message names the file, its format and ours.
    """
    root = Path(out) / RUNS
    for path in _record_files(root) if os.path.isdir(root) else ():
        try:
            with open(path, "rb") as stream:
                found = _FORMAT_IN_FILE.search(stream.read(4096))
        except OSError:
            continue  # no record, or one that will be met when its run's turn comes
        if found and found[1].startswith(_FAMILY) and found[1] != FORMAT.encode():
            raise ValueError(
                f"{path} has the format {found[1].decode(errors='replace')!r}, and this version of foreprune writes "
                f"{FORMAT!r}; choose another output folder, or go on with the version that wrote it"
            )
