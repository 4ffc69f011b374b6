"""What somebody without the extras is told."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

EXTRAS = {"transformers": "hf", "lightning": "lightning"}


@pytest.mark.parametrize(("library", "extra"), EXTRAS.items())
def test_the_error_names_the_extra(library: str, extra: str) -> None:
    program = (
        f"import sys\nsys.modules[{library!r}] = None\n"
        f"import foreprune.integrations.{library} as module\nassert 'torch' in sys.modules\n"
        "from foreprune.integrations import mask_metrics\nmodule.MaskCallback"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: masks under ")
    assert last.endswith(f" need {library}: pip install 'foreprune[{extra}]'")


@pytest.mark.parametrize("library", EXTRAS)
def test_modules_say_what_they_have(library: str) -> None:
    module = importlib.import_module(f"foreprune.integrations.{library}")
    with pytest.raises(
        AttributeError, match=f"'foreprune.integrations.{library}' has no attribute 'Masks'; it has Mask"
    ):
        module.Masks  # noqa: B018


def test_the_extras_exist_and_stay_out_of_the_others() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert {need.partition(">=")[0] for need in extras["hf"]} == {"transformers", "accelerate"}
    assert [need.partition(">=")[0] for need in extras["lightning"]] == ["lightning"]
    assert not any(name in need for need in (*extras["all"], *extras["dev"]) for name in ("hf", "lightning"))
