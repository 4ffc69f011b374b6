"""torchvision beside a CPU build of torch.

The wheel of the package index is built for a CUDA torch. Beside a CPU build two of its operators are missing, and
neither torchvision nor what imports it (timm, transformers) can be imported. It is enough to declare them.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch

_OPERATORS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_kept_alive: list[torch.library.Library] = []


def torchvision() -> Any:
    """The package.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(operator + _OPERATORS)
    _kept_alive.append(library)
    return importlib.import_module("torchvision")
