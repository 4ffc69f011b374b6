"""The panels of a report. A new one is one function from a section to a `Panel`, registered in a file of its own:

    @panel("seconds")
    def seconds(section: Section) -> Panel:
        '''Seconds spent pruning, per method.'''
        ...

Everything else (page, image files, legends, colors, the density selector) follows from the value it returns.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable

from foreprune.report.charts import Panel
from foreprune.report.sections import Section

PanelFunction = Callable[[Section], Panel | None]
PANELS: dict[str, PanelFunction] = {}
# in this order they stand on the page
_FILES = (
    *("accuracy", "ablated", "pruned_later", "layers", "neuron_collapse", "structure", "mask_overlap"),
    *("convergence", "curves"),
)


def panel(name: str) -> Callable[[PanelFunction], PanelFunction]:
    """Register a panel under `name`, which also names its files; others' panels come after the built-in ones.

    A panel without charts and notes counts as none: the registered function returns `None` for it.

    Raises:
        ValueError: the name is taken, or not of lower-case letters, digits and dashes.
    """
    if name in PANELS:
        raise ValueError(f"there is a panel {name!r} already; choose another name (taken: {', '.join(PANELS)})")
    if not name or not all(mark.isascii() and (mark.islower() or mark.isdigit() or mark == "-") for mark in name):
        raise ValueError(
            f"a panel's name is of lower-case letters, digits and dashes, such as 'layer-density', not {name!r}"
        )

    def register(function: PanelFunction) -> PanelFunction:
        @functools.wraps(function)
        def drawn(section: Section) -> Panel | None:
            found = function(section)
            shows = found is not None and (found.notes or any(view.charts for view in found.views))
            return found if shows else None

        PANELS[name] = drawn
        return drawn

    return register


def build_panels(section: Section) -> tuple[Panel, ...]:
    """Every registered panel that has something to draw for `section`."""
    order = {f"{__name__}.{file}": at for at, file in enumerate(_FILES)}
    for module in order:  # registers the built-in panels
        importlib.import_module(module)
    functions = sorted(PANELS.values(), key=lambda function: order.get(function.__module__, len(order)))
    drawn = (function(section) for function in functions)
    return tuple(found for found in drawn if found is not None)
