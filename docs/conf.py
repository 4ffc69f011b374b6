"""Sphinx configuration of the documentation site: `make docs`. Building needs no network."""

from __future__ import annotations

import sys
from pathlib import Path

import foreprune

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "foreprune"
author = "The foreprune authors"
project_copyright = "2026, The foreprune authors"
version = release = foreprune.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "myst_parser",
    "plain_docstrings",
    "record_pages",
]
exclude_patterns = ["_build", "extensions", "**/_*.md"]

html_theme = "furo"
html_title = f"foreprune {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}

highlight_language = "none"
smartquotes_action = "D"  # dashes only
default_role = "literal"  # docstrings write `name` as Markdown does
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Warns", "params_style")]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
copybutton_prompt_text = "$ "
