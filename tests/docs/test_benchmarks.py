"""`python -m benchmarks` and the commands of that folder."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import trainers  # noqa: E402
from benchmarks.__main__ import COMMANDS, main  # noqa: E402


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["benchmarks", *words])
    try:
        return main()
    except SystemExit as stop:
        return int(stop.code or 0)


def test_every_module_with_a_command_is_listed_here_and_in_contributing() -> None:
    modules = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "benchmarks").glob("*.py")}
    with_main = {
        name
        for name, tree in modules.items()
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)
    }
    assert with_main - {"__main__"} == set(COMMANDS)
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [line.split("`")[1].split()[0] for line in contributing.splitlines() if line.startswith("| `")] == [
        *COMMANDS
    ]


def test_without_a_name_the_commands_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line[:3].strip() and line.startswith("  ")][: len(COMMANDS)] == [
        *COMMANDS
    ]


def test_an_unknown_name_is_answered_with_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "statement") == 2
    assert "no benchmark 'statement'; there are speed, growth, unchanged," in capsys.readouterr().err


def test_the_rest_of_the_line_is_the_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "statements", "first-run") == 2
    assert "no statements of a page 'first-run'" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_in_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert run(monkeypatch, name, "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: python -m benchmarks {name} ")
    assert max(map(len, lines)) <= 80


def test_it_runs_from_a_clone_as_documented() -> None:
    environment = {**os.environ, "PYTHONPATH": "src"}
    command = [sys.executable, "-m", "benchmarks", "certificate", "--help"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_masked_and_dense_steps_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def made(*, masked: bool) -> trainers.Chunk:
        calls.append(f"make {masked}")

        def chunk(number: int) -> list[float]:
            calls.append(f"run {masked}")
            return [99.0, 99.0, *(3.0 if masked else 2.0 for _ in range(number - 3)), 50.0]

        return chunk

    monkeypatch.setitem(trainers.TRAINERS, "fake", made)
    assert trainers.pairs("fake", rounds=9, steps=5) == [(3.0, 2.0)] * 9
    dense, masked = ["run False", "run True"], ["run True", "run False"]
    assert calls == [
        *("make False", "make True", *dense, *masked, *dense, *masked, *dense, *masked, *dense),
        *("make True", "make False", *masked, *dense),
    ]


@pytest.mark.parametrize(("count", "low", "high"), [(1, 1, 1), (5, 1, 5), (6, 1, 6), (31, 10, 22), (101, 41, 61)])
def test_the_interval_of_a_median(count: int, low: int, high: int) -> None:
    """The ranks of published tables."""
    assert trainers.interval([*range(count, 0, -1)]) == (low, high)
