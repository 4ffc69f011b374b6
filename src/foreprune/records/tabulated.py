"""Records read back from the table that a report writes, `records.csv`: settings and results without layers and curves.

Nothing here imports torch.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from foreprune.records.experiment import Experiment, Scalar
from foreprune.records.run_record import Record

_RESULTS = ("kept", "total", "top1", "top5", "seconds_prune", "seconds_train")


def read_table(path: Path) -> tuple[tuple[Record, ...], tuple[tuple[Path, str], ...]]:
    """The records of a table and `(path with the number of the line, reason)` for every row that makes none.

    A row counts only if its settings have its id, so nothing is guessed. The test loss makes a curve of one point, the
    last epoch, without its accuracy where another epoch's was higher, so that no best accuracy is read off that point;
    what the table does not hold (layers, curves, environments) is left empty.

    Raises:
        ValueError: the file is no table of records.
        OSError: it cannot be opened.
    """
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        missing = {"id", "data", "model", "method", "density", "seed", "status"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(
                f"{path} is no table of records: it has no column {sorted(missing)[0]!r}; "
                "give the records.csv of a report, or the output folder of a comparison"
            )
        found, problems = [], []
        for row in reader:
            try:
                found.append(_record({key: value for key, value in row.items() if value}))
            except (ValidationError, ValueError) as error:
                reason = str(error).splitlines()[0]
                problems.append((path / f"line {reader.line_num}", reason))
    return tuple(found), tuple(problems)


def _record(row: dict[str, str]) -> Record:
    experiment = _experiment(row)
    loss = row.get("test_loss")
    last = {
        "epoch": experiment.recipe.epochs,
        "lr": experiment.recipe.lr,
        "train_loss": None,
        "train_top1": None,
        "test_loss": loss,
        "test_top1": row.get("top1") if row.get("best_top1") == row.get("top1") else None,
        "test_top5": row.get("top5"),
        "seconds": 0.0,
    }
    return Record.model_validate(
        {key: row[key] for key in ("id", "status", "error", *_RESULTS) if key in row}
        | {"experiment": experiment, "analysis": {key: _scalar(value) for key, value in _nested(row, "analysis")}}
        | ({"curve": [last]} if loss else {})
    )


def _experiment(row: dict[str, str]) -> Experiment:
    """The experiment whose id is the row's; a table writes whole numbers of `hyper` with or without a point."""
    settings: dict[str, Any] = {key: value for key, value in row.items() if key in Experiment.model_fields}
    recipe = {key: json.loads(value) if value.startswith("[") else value for key, value in _nested(row, "recipe")}
    hyper = {key: _scalar(value) for key, value in _nested(row, "hyper")}
    made = ""
    for values in (hyper, {key: _whole(value) for key, value in hyper.items()}):
        experiment = Experiment.model_validate(settings | {"recipe": recipe, "hyper": values})
        if experiment.id == row["id"]:
            return experiment
        made = experiment.id
    raise ValueError(f"its id is {row['id']!r}, but its settings make {made!r}")


def _nested(row: dict[str, str], prefix: str) -> list[tuple[str, str]]:
    return [(key.removeprefix(f"{prefix}."), value) for key, value in row.items() if key.startswith(f"{prefix}.")]


def _scalar(text: str) -> Scalar:
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _whole(value: Scalar) -> Scalar:
    return int(value) if isinstance(value, float) and value.is_integer() else value
