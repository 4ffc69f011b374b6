"""Settings for all tests. This folder is on the import path, so tests share `contract.nets` and `oracles.*`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

# Tiny networks are slower on several threads; this must come before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

settings.register_profile("foreprune", deadline=None, derandomize=True, database=None)
settings.load_profile("foreprune")


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """`real_data("mnist")` is the folder of real files, or the test is skipped: `FOREPRUNE_DATA`, or a folder
    `shared/data` beside the repository."""
    root = Path(os.environ.get("FOREPRUNE_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")

    def folder(name: str) -> Path:
        if not (root / name).is_dir():
            pytest.skip(f"no real {name} images: set FOREPRUNE_DATA")
        return root / name

    return folder


@pytest.fixture
def without_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the folder `foreprune/graph/replay` were not there."""
    monkeypatch.setitem(sys.modules, "foreprune.graph.replay", None)


@pytest.fixture(params=["replay", "no replay"])
def with_and_without_replay(request: pytest.FixtureRequest) -> None:
    """Both ways in which iterative path methods may run."""
    if request.param == "no replay":
        request.getfixturevalue("without_replay")
