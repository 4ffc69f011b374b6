"""The programs in examples/ run, and find what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from contract.extras import needed

import foreprune as fp

EXAMPLES = Path(__file__).parents[2] / "examples"
LAUNCH = Path(__file__).parents[1] / "integrations" / "launch.py"


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


def run_with(library: str, name: str, *arguments: str, folder: Path, processes: int = 1) -> str:
    """What a program that needs a library prints, on so many processes. Skipped where the library is missing."""
    needed(library)
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    path = os.pathsep.join([str(Path(fp.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [*start, str(LAUNCH), str(EXAMPLES / name), *arguments]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_pruned_language_model_is_fine_tuned(tmp_path: Path, processes: int) -> None:
    printed = run_with(
        "transformers", "finetune_transformers.py", "--steps", "50", folder=tmp_path, processes=processes
    )
    found = re.search(r"(\d) process\(es\), loss ([\d.]+) -> ([\d.]+)", printed)
    assert found is not None
    assert int(found[1]) == processes
    assert float(found[3]) < float(found[2])
    assert "49,152 weights pruned, 0 of them not zero after training" in printed
    assert (tmp_path / "runs" / "finetuned" / "checkpoint-50" / "masks.safetensors").is_file()


@pytest.mark.slow
def test_a_network_is_trained_with_lightning(tmp_path: Path) -> None:
    printed = run_with("lightning", "train_lightning.py", folder=tmp_path)
    found = re.search(r"accuracy ([\d.]+)% with 987 of 9,872 weights", printed)
    assert found is not None
    assert float(found[1]) > 85
    assert "revived: 0" in printed


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_network_is_trained_under_accelerate(tmp_path: Path, processes: int) -> None:
    printed = run_with("accelerate", "train_accelerate.py", folder=tmp_path, processes=processes)
    found = re.search(rf"{processes} process\(es\), loss ([\d.]+)", printed)
    assert found is not None
    assert float(found[1]) < 1
    assert "revived: 0" in printed


def test_every_example_is_tested_and_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    own = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f"({path.name})" in listed
        assert f'"{path.name}"' in own
