"""The record of the matrix of trainers, `docs/trainers.jsonl`, and its table in `docs/trainers.md`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from integrations.cells import FEATURES, LAYOUTS, TRAINERS, Found, versions
from integrations.runs.__main__ import CONTROL
from integrations.shared import masks_for, network

PAGE = Path(__file__).parents[2] / "docs" / "trainers.md"
RECORD = PAGE.with_suffix(".jsonl")
BEGIN, END = "<!-- cells: written by `make trainers` -->\n", "<!-- end of cells -->\n"
NAMES = {"plain": "a loop of one's own"}
PROCESSES = {"single": "1", "ddp": "2, DDP", "fsdp2": "2, `fully_shard`"}
TITLES = {
    "resume": "save and resume",
    "compile": "compile",
    "ema": "average",
    "timm": "timm's average",
    "clip": "clipping",
    "accumulate": "accumulation",
    "bf16": "bf16",
    "unmasked": "not attached",
}


@dataclass(frozen=True)
class Row:
    """What came of one trainer in one layout: feature -> weights revived, steps; or how the trainer refuses it."""

    trainer: str
    layout: str
    versions: str
    revived: Mapping[str, int]
    steps: Mapping[str, int]
    refused: Mapping[str, str]

    @classmethod
    def of(cls, trainer: str, layout: str, found: Mapping[str, Found]) -> Row:
        ran = {feature: found[feature] for feature in FEATURES if "error" not in found[feature]}
        revived = {feature: cell["end"] if feature == "unmasked" else _revived(cell) for feature, cell in ran.items()}
        refused = {feature: found[feature]["error"] for feature in FEATURES if feature not in ran}
        steps = {feature: cell["steps"] for feature, cell in ran.items()}
        return cls(trainer, layout, versions(trainer), revived, steps, refused)


def _revived(cell: Found) -> int:
    """After any step, after loading, in the average, in the end."""
    return sum(cell.get(name, 0) for name in ("revived", "loaded", "average", "end"))


def load(file: Path = RECORD) -> dict[tuple[str, str], Row]:
    rows = (Row(**json.loads(line)) for line in file.read_text().splitlines()) if file.exists() else ()
    return {(row.trainer, row.layout): row for row in rows}


def save(row: Row, file: Path = RECORD) -> None:
    """In place of what the record has of that trainer and layout."""
    rows = {**load(file), (row.trainer, row.layout): row}
    order = [(trainer, layout) for trainer in TRAINERS for layout in LAYOUTS]
    file.write_text("".join(json.dumps(asdict(rows[key])) + "\n" for key in order if key in rows))


def write(file: Path = PAGE) -> None:
    file.write_text(text(file.read_text(), list(load().values())))


def text(page: str, rows: Sequence[Row]) -> str:
    """The page with the table of these rows in its place."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + table(rows) + END + rest.split(END)[1]


def table(rows: Sequence[Row]) -> str:
    sentences = list(dict.fromkeys(said for row in rows for said in row.refused.values()))
    lines = [
        f"| trainer | processes | {' | '.join(TITLES[feature] for feature in FEATURES)} |",
        "|---|---|" + "---:|" * len(FEATURES),
    ]
    for row in rows:
        cells = [
            f"no ({sentences.index(row.refused[feature]) + 1})"
            if feature in row.refused
            else f"{row.revived[feature]:,}"
            for feature in FEATURES
        ]
        name = NAMES.get(row.trainer, row.trainer)
        lines.append(f"| {name} | {PROCESSES[row.layout]} | {' | '.join(cells)} |")
    masks = masks_for(network())
    counted = [steps for row in rows for feature, steps in row.steps.items() if feature != "unmasked"]
    return "\n".join(
        [
            *lines,
            "",
            f"{len(counted)} cells of at least {min(counted, default=0):,} steps. The last column is the control: with "
            f"the pruned weights set to zero once and nothing attached, so many of {masks.total - masks.kept:,} were "
            f"not zero after {CONTROL} steps.",
            "",
            *(f"{number}. `{said}`" for number, said in enumerate(sentences, start=1)),
            "",
            f"With {', '.join(dict.fromkeys(name for row in rows for name in row.versions.split(', ')))}.",
            "",
        ]
    )
