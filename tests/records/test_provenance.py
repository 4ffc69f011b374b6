"""Where and with what a run was made."""

from __future__ import annotations

import sys
from importlib.metadata import version

import pytest

from foreprune.records import command_line, environment


def test_the_command_is_as_one_would_type_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/foreprune", "compare", "--out", "two words"])
    assert command_line() == "foreprune compare --out 'two words'"
    monkeypatch.setattr(sys, "argv", [""])
    assert command_line() == "python"


def test_facts_are_plain_values() -> None:
    facts = environment(device="cpu", threads=3, command="c", source=None)
    assert facts["versions"]["torch"] == version("torch")
    assert (facts["command"], facts["commit"]) == ("c", None)
    assert (facts["machine"]["device"], facts["machine"]["threads"]) == ("cpu", 3)
