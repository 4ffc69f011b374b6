"""What works with torch, NumPy and safetensors alone, and without the rooms that make up the program."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import foreprune
from foreprune import cli

PACKAGE = Path(foreprune.__file__).parent
ROOT = Path(__file__).parents[1]
PROGRAM = ("report", "cli", "runner", "papers")  # rooms that the library can do without

# what a program begins with that hides packages: they are not found, as if not installed
HIDE = """
import sys
class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        hidden = name in HIDDEN or name.partition(".")[0] in HIDDEN
        return None if hidden else self.finder.find_spec(name, path, target)
sys.meta_path[:] = map(Hiding, sys.meta_path)
"""

LIBRARY = """
import torch
import foreprune as fp
from torch import nn

model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
x, y = torch.rand(6, 3, 2, 2), torch.arange(6) % 3
masks = fp.prune(model, "synflow", density=0.5, inputs=x, rounds=3)
assert masks.kept == round(0.5 * masks.total)
assert fp.prune(model, "snip", density=0.5, data=(x, y)).kept == masks.kept
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
handle = masks.attach(model, optimizer)
nn.functional.cross_entropy(model(x), y).backward()
optimizer.step()
handle.remove()
report = fp.analyze(model, masks, inputs=x, data=(x, y))
assert 0 < report.effective_density <= 0.5
str(report)
history = fp.fit(model, [(x, y)], [(x, y)], recipe=fp.Recipe(epochs=2, lr=0.1), masks=masks)
assert [point.epoch for point in history.curve] == [1, 2] and history.top1 is not None
for name, mask in masks.items():
    assert not model.get_parameter(name)[~mask].any()
assert fp.score(model, "magnitude").keys() == masks.keys()
"""


def extras() -> set[str]:
    """Every package that is installed here and is not a part of Python, torch, NumPy or safetensors."""
    needed = {"torch", "torchgen", "functorch", "numpy", "safetensors", "foreprune"}
    of_torch = {"typing_extensions", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "fsspec", "filelock"}
    return {name for name in packages_distributions() if name.isidentifier() and name not in needed | of_torch}


def hidden(*names: str) -> str:
    return f"HIDDEN = {set(names)!r}\n{HIDE}"


def output_of(program: str, *, path: Path = PACKAGE.parent, ok: bool = True) -> str:
    environment = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode == 0) is ok, done.stderr
    return done.stdout + done.stderr


def test_the_dependencies_are_three() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [need.partition(">=")[0] for need in project["dependencies"]] == ["torch", "numpy", "safetensors"]
    named = [need.partition(">=")[0] for need in project["optional-dependencies"]["cli"]]
    assert sorted(named) == sorted(cli.NEEDS)


def test_the_library_works_without_any_extra() -> None:
    assert {"pydantic", "rich", "tyro", "pandas", "scipy", "matplotlib"} <= extras()
    output_of(hidden(*extras()) + LIBRARY)


@pytest.mark.parametrize("name", ["Experiment", "Record", "load_records"])
def test_records_say_what_to_install(name: str) -> None:
    message = output_of(hidden(*extras()) + f"import foreprune\nforeprune.{name}", ok=False)
    assert message.strip().endswith("ImportError: records of runs need pydantic: pip install 'foreprune[cli]'")


@pytest.mark.parametrize("room", ["records", "procedures.shared", "experiments", "papers"])
def test_rooms_of_runs_say_what_to_install(room: str) -> None:
    message = output_of(hidden("pydantic") + f"import foreprune.{room}", ok=False)
    assert message.strip().endswith("ImportError: records of runs need pydantic: pip install 'foreprune[cli]'")


@pytest.mark.parametrize("missing", cli.NEEDS)
def test_the_command_says_what_to_install(missing: str) -> None:
    message = output_of(hidden(missing) + "from foreprune.cli import main\nmain()", ok=False)
    assert message == f"error: the foreprune command needs {missing}, write: pip install 'foreprune[cli]'\n"


def test_other_missing_modules_are_no_matter_of_installing() -> None:
    program = hidden("foreprune.cli.consoles") + "from foreprune.cli import main\nmain()"
    message = output_of(program, ok=False)
    assert "ModuleNotFoundError: No module named 'foreprune.cli.consoles'" in message


def test_the_library_works_without_the_rooms_of_the_program(tmp_path: Path) -> None:
    home = tmp_path / "foreprune"
    shutil.copytree(PACKAGE, home, ignore=shutil.ignore_patterns("__pycache__"))
    for room in PROGRAM:
        shutil.rmtree(home / room)
    names = [".".join(path.relative_to(tmp_path).with_suffix("").parts) for path in sorted(home.rglob("*.py"))]
    assert len(names) > 50
    program = f"import foreprune, importlib\nassert foreprune.__file__.startswith({str(home)!r})\n"
    program += f"for name in {names!r}:\n    importlib.import_module(name.removesuffix('.__init__'))\n"
    output_of(program + LIBRARY, path=tmp_path)
