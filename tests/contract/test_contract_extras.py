"""What tests say of libraries that are not installed."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest
from contract.extras import EXTRAS, imported, needed


@pytest.mark.parametrize(("library", "extra"), EXTRAS.items())
def test_a_missing_library_is_named_with_its_extra(library: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert library in {need.partition(">=")[0] for need in project["optional-dependencies"][extra]}
    monkeypatch.setitem(sys.modules, library, None)
    message = rf"^{library} is not installed: pip install 'foreprune\[{extra}\]'$"
    with pytest.raises(ImportError, match=message):
        imported(library)
    with pytest.raises(pytest.skip.Exception, match=message):
        needed(library)
