"""Libraries that may be there: those of the extras `vision`, `hf` and `lightning`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from types import ModuleType

import pytest
import torch

EXTRAS = {  # library -> the extra that installs it
    "torchvision": "vision",
    "timm": "vision",
    "transformers": "hf",
    "accelerate": "hf",
    "lightning": "lightning",
}
_OPERATORS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_kept_alive: list[torch.library.Library] = []


def imported(name: str) -> ModuleType:
    """The library, or a module of it.

    torchvision's wheel asks for a CUDA build of torch. Beside a CPU build two of its operators are missing, and then
    neither it nor what imports it where it is installed (timm, transformers, accelerate, lightning) can be imported. It
    is enough to declare them.

    Raises:
        ImportError: it is not installed; the message names the extra.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what libraries say of themselves
            if "torchvision" not in sys.modules and importlib.util.find_spec("torchvision") is not None:
                _import_torchvision()
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        library = name.partition(".")[0]
        if error.name != library:
            raise
        raise ImportError(f"{library} is not installed: pip install 'foreprune[{EXTRAS[library]}]'") from None


def needed(name: str) -> ModuleType:
    """The library, or the test is skipped by name."""
    try:
        return imported(name)
    except ImportError as error:
        pytest.skip(str(error))


def _import_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    else:
        return
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(operator + _OPERATORS)
    _kept_alive.append(library)
    importlib.import_module("torchvision")
