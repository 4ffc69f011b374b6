"""What the documentation site is generated with, and what its first figure claims."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Literal

import pytest
import torch
from torch import nn

import foreprune as fp
from foreprune.core.init import initializers
from foreprune.papers import entries

DOCS = Path(__file__).parents[2] / "docs"
PACKAGE = Path(fp.__file__).parent


def extension(name: str) -> ModuleType:
    """A module of docs/extensions; not imported by name, because `markdown` is one of a library too."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / "extensions" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_name_papers_and_initializers() -> None:
    sweeps = (DOCS / "sweeps.md").read_text(encoding="utf-8")
    papers = {entry.name.partition("-")[0] for entry in entries()}
    assert {
        line.split("`")[1] for line in sweeps.splitlines() if line.startswith("| `") and "20" in line.split("|")[2]
    } == {f"{paper}-*" for paper in papers}
    assert all(f"`{name}`" in sweeps for name in initializers() if "+" not in name)
    count = {5: "five", 6: "six", 7: "seven", 8: "eight"}[len(papers)]
    assert f"tables and figures of {count} papers" in (DOCS / "index.md").read_text(encoding="utf-8")
    assert f"tables and figures of {count} papers" in (DOCS.parent / "README.md").read_text(encoding="utf-8")


def test_plain_text_becomes_markdown() -> None:
    text = extension("markdown").text
    assert text("|w_l| <1> `a_b|c` arXiv:2006.05467, eq. 3") == (
        r"\|w\_l\| \<1\> `a_b|c` [arXiv:2006.05467](https://arxiv.org/abs/2006.05467), eq. 3"
    )


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (int, "a whole number"),
        (float | None, "a number or `None`"),
        (Literal["a", "b"], '`"a"`, `"b"`'),
        (bool, "`True` or `False`"),
    ],
)
def test_allowed_values_in_words(kind: Any, words: str) -> None:
    assert extension("markdown").allowed(kind) == words


def test_a_function_is_shown_without_decorators_and_docstring() -> None:
    shown = extension("markdown").source(fp.get_method("er").function)
    assert shown.startswith("`src/foreprune/methods/random.py`:\n\n```python\ndef er(")
    assert '"""' not in shown
    assert "@masker" not in shown


def test_docstrings_are_escaped_outside_of_code() -> None:
    pytest.importorskip("sphinx")
    assert (
        extension("plain_docstrings").escaped("|w| *args apply_ a_b `|m_| *`") == r"\|w\| \*args apply\_ a_b `|m_| *`"
    )


def test_the_first_figure_names_the_files_that_a_call_goes_through() -> None:
    figure = (DOCS / "images" / "call-to-mask.svg").read_text()
    api, rounds, score, paths, select = re.findall(r"src/foreprune/([\w/]+\.py)", figure)
    stacks: dict[str, set[str]] = {}

    def note(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_qualname in ("PathGraph.gradients", "keep_top") and code.co_name not in stacks:
            files = set()
            above: FrameType | None = frame
            while above is not None:
                if (path := Path(above.f_code.co_filename)).is_relative_to(PACKAGE):
                    files.add(path.relative_to(PACKAGE).as_posix())
                above = above.f_back
            stacks[code.co_name] = files

    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    sys.setprofile(note)
    try:
        fp.prune(model, "synflow", density=0.5, inputs=torch.zeros(1, 4), rounds=2)
    finally:
        sys.setprofile(None)
    handed_on = "core/method.py"  # masks by rounds of scores, or at once
    assert {path for path in stacks["gradients"] if "/replay/" not in path} == {api, handed_on, rounds, score, paths}
    # core/net.py: where a sharded view has a rule of its own
    assert stacks["keep_top"] == {api, handed_on, rounds, select, "core/net.py"}
