"""The names that the room shows: all there, and none hidden by a file of the same name."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

from foreprune import analysis


def test_every_name_is_what_it_says_even_when_all_files_are_loaded() -> None:
    for file in pkgutil.iter_modules(analysis.__path__):
        importlib.import_module(f"foreprune.analysis.{file.name}")
    for name in analysis.__all__:
        assert getattr(analysis, name).__name__ == name
    assert analysis.__all__ == sorted(analysis.__all__)
    assert set(analysis.__all__) == set(analysis._HOME)


def test_an_unknown_name() -> None:
    with pytest.raises(
        AttributeError, match=r"'foreprune\.analysis' has no attribute 'analyse'; it has Analysis, Cost"
    ):
        analysis.analyse  # noqa: B018


def test_statistics_load_without_torch() -> None:
    program = "import sys; from foreprune.analysis import Overlap; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
