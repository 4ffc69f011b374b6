"""The record of the matrix, `docs/models.jsonl`: one line for each network, in the order of the lists."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from models.cell import RIGHT, Cell
from models.libraries import LIBRARIES

FILE = Path(__file__).parents[2] / "docs" / "models.jsonl"


@dataclass(frozen=True)
class Row:
    """What came of one network.

    Attributes:
        library: which list it is in.
        network: its name there.
        versions: of torch and the library.
        parameters: all of them; None where they do not exist yet.
        prunable: how many of them a method may prune by default; None where pruning is refused.
        outcomes: method or "analyze" -> the outcome of its cell.
        reasons: what cells say that are neither "ok" nor "warned" -> their columns.
    """

    library: str
    network: str
    versions: str
    parameters: int | None
    prunable: int | None
    outcomes: Mapping[str, str]
    reasons: Mapping[str, list[str]]

    @property
    def key(self) -> tuple[str, str]:
        return self.library, self.network

    def reason(self, column: str) -> str:
        return next(reason for reason, columns in self.reasons.items() if column in columns)

    def not_right(self) -> list[str]:
        """The columns with an error that is not ours or a wrong result."""
        return [column for column, outcome in self.outcomes.items() if outcome not in RIGHT]


def row(
    key: tuple[str, str], *, versions: str, parameters: int | None, prunable: int | None, cells: Mapping[str, Cell]
) -> Row:
    outcomes = {column: cell.outcome for column, cell in cells.items()}
    reasons: dict[str, list[str]] = {}
    for column, cell in cells.items():
        if cell.outcome not in ("ok", "warned"):
            reasons.setdefault(cell.detail, []).append(column)
    return Row(*key, versions, parameters, prunable, outcomes, reasons)


def load(file: Path = FILE) -> dict[tuple[str, str], Row]:
    if not file.exists():
        return {}
    rows = (Row(**json.loads(line)) for line in file.read_text().splitlines())
    return {row.key: row for row in rows}


def save(rows: Iterable[Row], *, order: Mapping[str, Iterable[str]], file: Path = FILE) -> None:
    """Write them by library; `order` gives the networks of the libraries at hand, whose other rows are dropped."""
    by_key = {row.key: row for row in rows}
    lines = []
    for library in LIBRARIES:
        names = order.get(library, [network for known, network in by_key if known == library])
        lines += [json.dumps(asdict(by_key[library, name])) for name in names if (library, name) in by_key]
    file.write_text("".join(line + "\n" for line in lines))
