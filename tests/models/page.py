"""`docs/models.md`: the record of the matrix as a table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from models.cell import DENSITY, RIGHT
from models.libraries import LIBRARIES
from models.record import Row

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
FAMILIES = {  # column of the table -> methods; a method in none has a column of its own
    "random": ("random", "uniform", "er", "erk"),
    "magnitude": ("magnitude",),
    "snip": ("snip", "iterative-snip", "force"),
    "grasp": ("grasp",),
    "synflow": ("synflow", "synflow-l2"),
    "synflow-dist": ("synflow-dist", "synflow-l2-dist"),
    "phew": ("phew",),
    "ntk-sap": ("ntk-sap",),
    "px": ("px",),
    "analyze": ("analyze",),
}
NOTE = "paths: "  # how `analyze` begins its notes
WORDS = {"raw": "**error**", "wrong": "**wrong**", "partly": "partly", "refused": "no"}
ABOUT = """# Networks

Every method on networks that were written elsewhere, and on some of our own for what those lack, with the methods' own
defaults but few rounds. Each network is as small as its structure allows and has random weights. {summary}
`make matrix` writes this page; `tests/models/` holds the list.

* **ok**: exactly as many weights kept as asked for (density {density:g}), the module and the global random state bit
  for bit as before, no layer and no query, key or value of a fused projection left empty without a warning. With * some
  method of the column gave a warning.
* **no**: refused with an error that says why and what to do: one of the [reasons](#reasons). **partly**: `analyze`
  measures the rest and says what has no meaning.
* **error**: an error that is not ours. **wrong**: a result that is not what was asked for.

The columns stand for {families}. *Prunable* is the share of the [weights pruned by default](prunable.md) among all
parameters.
"""


def write(rows: Sequence[Row], file: Path = PAGE) -> None:
    file.write_text(text(rows))


def text(rows: Sequence[Row]) -> str:
    families = _families(rows)
    numbers = _numbered(rows)
    several = [f"*{name}*: {', '.join(f'`{one}`' for one in some)}" for name, some in families.items() if len(some) > 1]
    parts = [ABOUT.format(summary=_summary(rows), density=DENSITY, families="; ".join(several))]
    for library in LIBRARIES:
        found = [row for row in rows if row.library == library]
        if found:
            versions = ", ".join(dict.fromkeys(row.versions for row in found))
            parts.append(
                f"## {library}: {len(found)} networks\n\nWith {versions}.\n\n{_table(found, families, numbers)}\n"
            )
    counted: Counter[str] = Counter()
    for row in rows:
        for reason, found in row.reasons.items():
            counted[_kind(reason)] += len(found)
    first = {_kind(reason): reason for row in reversed(rows) for reason in row.reasons}
    listed = [f"{number}. {_quoted(first[kind])} ({_cells(counted[kind])})" for kind, number in numbers.items()]
    parts.append(
        "## Reasons\n\nThe first message of each kind; other cells differ in names and numbers.\n\n"
        + "\n".join(listed)
        + "\n"
    )
    return "\n".join(parts)


def _families(rows: Sequence[Row]) -> dict[str, tuple[str, ...]]:
    grouped = {column for family in FAMILIES.values() for column in family}
    alone = dict.fromkeys(column for row in rows for column in row.outcomes if column not in grouped)
    return {**FAMILIES, **{column: (column,) for column in alone}}


def _numbered(rows: Sequence[Row]) -> dict[str, int]:
    """kind of reason -> its number, in the order of the page."""
    kinds = dict.fromkeys(_kind(reason) for row in rows for reason in row.reasons)
    return {kind: number for number, kind in enumerate(kinds, start=1)}


def _kind(reason: str) -> str:
    """The message without names, classes and numbers."""
    reason = re.sub(r"'[^']*'|\((?:the model itself|\w+)\)", "_", reason.removeprefix(NOTE))
    return re.sub(r"\d[\d,.]*|(?<=no weight in ).*(?= without)|(?<=returns )\w+", "_", reason)


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"


def _quoted(reason: str) -> str:
    return "`" + reason.removeprefix(NOTE).replace("`", "'").replace("\n", " ") + "`"


def _table(rows: Sequence[Row], families: dict[str, tuple[str, ...]], numbers: dict[str, int]) -> str:
    head = f"| network | parameters | prunable | {' | '.join(families)} |"
    lines = [head, "|---|---:|---:|" + "---|" * len(families)]
    for row in rows:
        size = "-" if row.parameters is None else f"{row.parameters:,}"
        share = "-" if not row.parameters or row.prunable is None else _percent(row.prunable / row.parameters)
        cells = [_cell(row, members, numbers) for members in families.values()]
        lines.append(f"| {row.network} | {size} | {share} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


def _cell(row: Row, members: tuple[str, ...], numbers: dict[str, int]) -> str:
    """What the members of a family have in common, then those that differ, by name."""
    groups: dict[str, list[str]] = {}
    for column in members:
        if column not in row.outcomes:
            continue
        outcome = row.outcomes[column]
        if outcome in WORDS:
            said = f"{WORDS[outcome]} ({numbers[_kind(row.reason(column))]})"
        else:
            said = "ok*" if outcome == "warned" else "ok"
        groups.setdefault(said, []).append(column)
    if "ok*" in groups:  # one star is enough
        groups.setdefault("ok*", []).extend(groups.pop("ok", []))
    if len(groups) <= 1:
        return next(iter(groups), "-")
    good = [said for said in groups if said.startswith("ok")]
    rest = [f"{', '.join(found)}: {said}" for said, found in groups.items() if said not in good]
    return "; ".join([*good, *rest])


def _summary(rows: Sequence[Row]) -> str:
    outcomes = Counter(outcome for row in rows for outcome in row.outcomes.values())
    wrong = sum(count for outcome, count in outcomes.items() if outcome not in RIGHT)
    works = outcomes["ok"] + outcomes["warned"]
    return (
        f"Of {sum(outcomes.values()):,} cells, {len(rows)} networks times {len(rows[0].outcomes)} columns, {works:,} "
        f"work, {outcomes['warned']:,} of them with a warning; {outcomes['refused']:,} are refused in words and "
        f"{outcomes['partly']:,} partly; {wrong:,} are errors or wrong."
    )
