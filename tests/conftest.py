"""Settings for all tests. This folder is on the import path, so tests share `contract.nets` and `oracles.*`."""

from __future__ import annotations

import os
import sys

# Tiny networks are slower on several threads; this must come before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

settings.register_profile("foreprune", deadline=None, derandomize=True, database=None)
settings.load_profile("foreprune")


@pytest.fixture
def without_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the folder `foreprune/graph/replay` were not there."""
    monkeypatch.setitem(sys.modules, "foreprune.graph.replay", None)


@pytest.fixture(params=["replay", "no replay"])
def with_and_without_replay(request: pytest.FixtureRequest) -> None:
    """Both ways in which iterative path methods may run."""
    if request.param == "no replay":
        request.getfixturevalue("without_replay")
