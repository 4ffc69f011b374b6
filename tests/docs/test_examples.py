"""The programs in examples/ run, and find what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *arguments: str, folder: Path) -> str:
    command = [sys.executable, "-W", "error::UserWarning", str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_resnet_is_pruned_and_trained(tmp_path: Path) -> None:
    printed = run("prune_resnet.py", folder=tmp_path)
    accuracies = dict(re.findall(r"^(\w+) .*test accuracy ([\d.]+)%$", printed, re.MULTILINE))
    assert accuracies.keys() == {"dense", "synflow", "snip"}
    assert all(float(value) > 80 for value in accuracies.values()), printed
    assert "dead layers: none" in printed


def test_scores_of_ones_own(tmp_path: Path) -> None:
    printed = run("own_score.py", folder=tmp_path)
    assert printed.count("kept 2,510 of 50,200") == 4
    assert "one round with power 1 is SNIP: True" in printed
    assert "gradient-power: Keep the weights with the largest" in printed


def test_two_methods_are_compared(tmp_path: Path) -> None:
    printed = run("compare_methods.py", "--out", str(tmp_path / "runs"), folder=tmp_path)
    rows = re.findall(r"^ *(\w+) +([\d.]+) +([\d.]+) ", printed, re.MULTILINE)
    means = {(method, float(density)): float(mean) for method, density, mean in rows}
    assert means.keys() == {("dense", 1), ("random", 0.01), ("random", 0.05), ("synflow", 0.01), ("synflow", 0.05)}
    assert means["dense", 1] > 0.9
    assert means["synflow", 0.01] > means["random", 0.01]
    assert (tmp_path / "runs" / "report.html").is_file()
    assert len(list((tmp_path / "runs" / "runs").glob("*/record.json"))) == 15


def test_every_example_is_tested_and_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    own = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f"({path.name})" in listed
        assert f'"{path.name}"' in own
