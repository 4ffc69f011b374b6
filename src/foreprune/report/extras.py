"""What the report needs beyond the library's own dependencies."""

from __future__ import annotations

import importlib

_NEEDED = {
    "matplotlib": ("figures need matplotlib", "report"),
    "jinja2": ("the report page needs jinja2", "report"),
    "plotly.offline": ("the interactive page needs plotly", "interactive"),
    "scipy": ("tests of significance need SciPy", "report"),
}


def require(*modules: str) -> None:
    """Raise an `ImportError` that names the extra to install for the first of `modules` that is missing."""
    for name in modules:
        words, extra = _NEEDED[name]
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(f"{words}: pip install 'foreprune[{extra}]'") from error
