"""The lists of networks, by library. The libraries other than our own are extras."""

from __future__ import annotations

import importlib
import warnings
from importlib.metadata import version

from contract.extras import EXTRAS
from models.network import Network, Rows

LIBRARIES = {  # name -> the module and its list
    "torchvision": ("models.torchvision_rows", "VISION"),
    "timm": ("models.timm_rows", "TIMM"),
    "transformers": ("models.transformers_rows", "HF"),
    "own": ("models.own_forms", "OWN"),
}


def networks(library: str) -> dict[str, Network]:
    """Its networks.

    Raises:
        ImportError: the library is not installed; the message names the extra.
    """
    module, attribute = LIBRARIES[library]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what libraries say of themselves
        rows: Rows = getattr(importlib.import_module(module), attribute)
    return rows


def versions(library: str) -> str:
    """Of torch and the library."""
    named = ("torch", library) if library in EXTRAS else ("torch",)
    return ", ".join(f"{name} {version(name).partition('+')[0]}" for name in named)
