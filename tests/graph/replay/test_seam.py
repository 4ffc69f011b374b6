"""`foreprune.graph.replay` may be deleted: everything works, with the same results."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from contract.golden import DENSITIES, ITERATIVE_PATHS, digests
from contract.nets import NETS
from torch import nn

import foreprune
from foreprune.core.net import Net
from foreprune.core.task import as_inputs
from foreprune.graph import PathGraph, path_graph
from foreprune.graph.replay import ReplayedPaths, rounds

TESTS = Path(__file__).parents[2]


def parts() -> tuple[Net, Any]:
    return Net.of(nn.Linear(3, 2)), as_inputs(torch.ones(1, 3))


def test_with_the_folder_rounds_are_replayed() -> None:
    assert type(path_graph(*parts())) is ReplayedPaths


@pytest.mark.usefixtures("without_replay")
def test_without_the_folder_the_network_runs() -> None:
    assert type(path_graph(*parts())) is PathGraph


def test_nothing_but_the_seam_imports_the_folder() -> None:
    package = Path(foreprune.__file__).parent
    mention = [path for path in package.rglob("*.py") if "graph.replay" in path.read_text()]
    outside = {str(path.relative_to(package)) for path in mention if "replay" not in path.parts}
    assert outside == {"graph/sums/paths.py"}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("method", ITERATIVE_PATHS)
def test_a_replay_has_a_part_in_the_masks(method: str, net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the comparisons with and without it would compare nothing."""
    real, used = rounds.Replay.gradients, []

    def counting(self: Any, *args: Any) -> Any:
        found = real(self, *args)
        used.append(found is not None)
        return found

    monkeypatch.setattr(rounds.Replay, "gradients", counting)
    digests(method, net)
    # the comparison in round 2, and rounds 3 to 6; torch's fused attention is tagged as drawing at random
    assert sum(used) == (0 if net in ("encoder", "attention") else len(DENSITIES) * (1 + 4))


def test_a_package_without_the_folder_passes_the_same_tests(tmp_path: Path) -> None:
    """Contract, oracles and pinned masks of the methods that it accelerates, on a copy."""
    copy = tmp_path / "foreprune"
    shutil.copytree(Path(foreprune.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__", "replay"))
    assert not (copy / "graph" / "replay").exists()
    program = f"import foreprune; assert foreprune.__file__.startswith({str(copy)!r}), foreprune.__file__\n"
    files = ["contract/test_contract_counts.py", "contract/test_contract_golden.py", "graph/sums/test_graph_inputs.py"]
    chosen = "(synflow and not equal and not documentation) or inputs"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    for command in (
        ["-c", program],
        ["-m", "pytest", "-q", "-p", "no:xdist", *(str(TESTS / file) for file in files), "-k", chosen],
    ):
        done = subprocess.run(
            [sys.executable, *command], cwd=TESTS.parent, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "%]" in done.stdout  # a run without a single test prints no progress
