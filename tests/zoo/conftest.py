"""Where real images lie, if they do: `FOREPRUNE_DATA`, or a folder `shared/data` beside the repository."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """`real_data("mnist")` is the folder of real files, or the test is skipped."""
    sibling = Path(__file__).resolve().parents[3] / "shared" / "data"
    root = Path(os.environ.get("FOREPRUNE_DATA") or sibling)

    def folder(name: str) -> Path:
        if not (root / name).is_dir():
            pytest.skip(f"no real {name} images: set FOREPRUNE_DATA")
        return root / name

    return folder
