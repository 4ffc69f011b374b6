"""The examples in the documentation run, and print what the pages say they print.

All ```python blocks of a page are one program. What a page leaves out (a model, some data) stands in an HTML comment
that begins with `<!-- python`; a block marked ```python sketch is not run. A ```text output block is what the block
before it prints.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
GENERATED = ("methods", "procedures", "ablations", "papers", "_build")
END = "\x1e"  # printed after each block


class Program(NamedTuple):
    """The Python of a page, with its line numbers, and what each block must print (None: anything)."""

    source: str
    outputs: list[str | None]


def program_of(text: str) -> Program:
    lines: list[str] = []
    outputs: list[str | None] = []
    state = ""
    for line in text.splitlines():
        begins, ends = line in ("```python", "<!-- python"), line in ("```", "-->")
        if state == "python" and ends:
            outputs.append(None)
            lines.append(f"print({END!r}, end='')")
        elif state == "output" and not ends:
            outputs[-1] = (outputs[-1] or "") + line + "\n"
            lines.append("")
        else:
            lines.append(line if state == "python" else "")
        if state:
            state = "" if ends else state
        elif begins:
            state = "python"
        elif line == "```text output":
            state = "output"
        elif line.startswith("```"):
            state = "other"
    return Program("\n".join(lines), outputs)


def run(program: Program, *, page: Path, folder: Path) -> None:
    """Run it in a process of its own, in an empty folder."""
    code = f"exec(compile(open({str(folder / 'source')!r}).read(), {str(page)!r}, 'exec'))"
    (folder / "source").write_text(program.source)
    command = [sys.executable, "-W", "error::UserWarning", "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.split(END)[:-1]
    assert len(printed) == len(program.outputs)
    for found, expected in zip(printed, program.outputs, strict=True):
        assert expected is None or found == expected


def pages() -> list[Path]:
    site = (path for path in (ROOT / "docs").rglob("*.md") if path.relative_to(ROOT / "docs").parts[0] not in GENERATED)
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(site)]
    return [page for page in found if program_of(page.read_text()).outputs]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_the_examples_run(page: Path, tmp_path: Path) -> None:
    run(program_of(page.read_text()), page=page, folder=tmp_path)


def test_the_pages_with_examples_are_found() -> None:
    names = {page.name for page in pages()}
    assert {"README.md", "CONTRIBUTING.md", "index.md", "getting-started.md", "prunable.md", "records.md"} <= names


def test_a_broken_example_is_found_with_its_line(tmp_path: Path) -> None:
    page = "# Page\n\n<!-- python\nx = 1\n-->\n\n```python\nprint(x)\ny\n```\n"
    with pytest.raises(AssertionError, match=r'page.md", line 9.*\n.*NameError'):
        run(program_of(page), page=Path("page.md"), folder=tmp_path)


def test_a_wrong_output_is_found(tmp_path: Path) -> None:
    page = "```python\nprint(2)\n```\n\n```text output\n{}\n```\n\n```python sketch\nno\n```\n"
    run(program_of(page.format(2)), page=Path("page.md"), folder=tmp_path)
    with pytest.raises(AssertionError):
        run(program_of(page.format(3)), page=Path("page.md"), folder=tmp_path)
