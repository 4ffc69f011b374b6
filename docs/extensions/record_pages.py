"""Sphinx extension: pages written from the records of methods, procedures, ablations and papers before each build.

They go to docs/methods, docs/procedures, docs/ablations and docs/papers, which git ignores.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import pkgutil
import re
import textwrap
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import layer_densities
from sphinx.application import Sphinx

import foreprune as fp
from foreprune import papers
from foreprune.core.schedule import SCHEDULES

NEEDS = {
    "labels": "data with labels",
    "images": "data; labels are not looked at",
    "shape": "example inputs, of which only shape and type count",
    "mean image": "the mean image of the data, raw pixels in [0, 1]",
}
CALLS = {
    "labels": ", data=batches",
    "images": ", data=batches",
    "mean image": ", inputs=x, mean_image=mean",
    "shape": ", inputs=x",
}


def text(plain: str) -> str:
    """Plain text as Markdown: what has a meaning there is escaped, outside of `code`; arXiv numbers become links."""
    parts = re.split(r"(`[^`]+`)", plain)
    for index in range(0, len(parts), 2):
        escaped = re.sub(r"[\\*_<>\[\]|#$~]", r"\\\g<0>", parts[index])
        parts[index] = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", escaped)
    return "".join(parts)


def paragraphs(doc: str) -> list[str]:
    """The paragraphs of a docstring, each on one line."""
    return [" ".join(part.split()) for part in inspect.cleandoc(doc).split("\n\n") if part.strip()]


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def toctree(names: Iterable[str]) -> str:
    """A hidden table of contents."""
    return "\n".join(["```{toctree}", ":hidden:", "", *names, "```"])


def function_of(package: str, name: str) -> Callable[..., Any] | None:
    """The function of a room that is named like a record."""
    room = importlib.import_module(package)
    for module in pkgutil.iter_modules(room.__path__):
        found = getattr(importlib.import_module(f"{package}.{module.name}"), name.replace("-", "_"), None)
        if inspect.isfunction(found) and found.__module__.startswith(package):
            return found
    return None


def settings_table(settings: Mapping[str, Any], function: Callable[..., Any] | None) -> str:
    """Name, default and allowed values of each setting."""
    hints = typing.get_type_hints(function) if function is not None else {}
    rows = [[f"`{name}`", f"`{default!r}`", allowed(name, default, hints.get(name))] for name, default in settings.items()]
    return table(["setting", "default", "allowed values"], rows) if rows else "None."


def allowed(name: str, default: Any, hint: Any) -> str:
    """Which values a setting takes, in words."""
    if name == "rounds":
        return "a whole number, at least 1"
    choices = tuple(SCHEDULES) if name == "schedule" else typing.get_args(hint)
    if choices and all(isinstance(choice, str) for choice in choices):
        return ", ".join(f'`"{choice}"`' for choice in choices)
    kinds = [kind for kind in (typing.get_args(hint) or (hint or type(default),)) if kind is not type(None)]
    words = {bool: "`True` or `False`", int: "a whole number", float: "a number"}
    return " or ".join(words.get(kind, f"a `{getattr(kind, '__name__', kind)}`") for kind in kinds)


def source(function: Callable[..., Any]) -> str:
    """The body of a score without its docstring: what it computes."""
    code = textwrap.dedent(inspect.getsource(function))
    doc = function.__doc__
    return code.replace(f'    """{doc}"""\n', "", 1) if doc else code


def method_page(method: fp.Method) -> str:
    """Everything that the record of a method says, with the plot of its layer densities."""
    summary, *details = paragraphs(method.doc)
    function = function_of("foreprune.methods", method.name)
    call = "".join(words for need, words in CALLS.items() if need in method.needs)
    mean = "mean = images.float().mean(0) / 255  # raw pixels\n" if "mean image" in method.needs else ""
    looks_at_data = {"labels", "images", "mean image"} & set(method.needs)
    facts = [
        ["paper", text(method.paper)],
        ["needs", "; ".join(words for need, words in NEEDS.items() if need in method.needs) or "nothing but the model"],
        ["rounds", rounds(method)],
        ["weights kept", "exactly `round(density * total)`" if method.exact else "approximately `density * total`"],
    ]
    return "\n\n".join(
        [
            f"# {method.name}",
            text(summary),
            f'```python\nimport foreprune as fp\n\n{mean}masks = fp.prune(model, "{method.name}", density=0.05{call})\n```',
            table(["", ""], facts),
            "## Settings",
            settings_table(method.settings, function),
            *(["## Formula and differences from the authors' code", *map(text, details)] if details else []),
            *(["## Source", f"```python\n{source(function)}```"] if function is not None else []),
            "## Layer densities",
            f"![Layer densities of {method.name}]({method.name}.svg)",
            layer_densities.CAPTION.format(data=layer_densities.DATA if looks_at_data else ""),
        ]
    )


def rounds(method: fp.Method) -> str:
    """One shot, or how many rounds."""
    if "rounds" not in method.settings:
        return "one"
    back = "; a pruned weight may come back" if getattr(method, "revives", False) else ""
    return f"{method.settings['rounds']}, {method.settings['schedule']} schedule{back}"


def methods(folder: Path, cache: Path) -> Iterable[tuple[str, str]]:
    """Index, one page each, and the plots."""
    found = fp.list_methods()
    densities = layer_densities.layer_densities(cache)
    for method in found:
        layer_densities.plot(densities[method.name], folder / f"{method.name}.svg")
        yield method.name, method_page(method)
    rows = [[f"[{m.name}]({m.name}.md)", text(m.summary), needs(m), text(m.paper)] for m in found]
    intro = (
        "A method prunes a network without training it. Each page is generated from the method's record: "
        "`fp.get_method(name)` in Python, `foreprune methods NAME` on the command line."
    )
    yield "index", "\n\n".join(["# Methods", intro, table(["name", "what it keeps", "needs", "paper"], rows), toctree(m.name for m in found)])


def needs(method: fp.Method) -> str:
    """A word or two."""
    return ", ".join(need for need in NEEDS if need in method.needs) or "nothing"


def papers_pages() -> Iterable[tuple[str, str]]:
    """Index, and one page for each paper with its tables and figures."""
    groups = [(name, list(group)) for name, group in itertools.groupby(papers.entries(), key=paper_name)]
    rows = []
    for name, group in groups:
        yield name, paper_page(group)
        rows.append([f"[{name}]({name}.md)", text(group[0].paper), str(len(group))])
    intro = (
        "Every table and figure is a list of runs with the published networks, densities, seeds and hyperparameters, "
        "at three scales: `smoke` takes minutes and needs no data files, `small` takes hours on a CPU, `paper` is as "
        "published. [How to run them](../sweeps.md)"
    )
    yield "index", "\n\n".join(["# Papers", intro, table(["name", "paper", "tables and figures"], rows), toctree(name for name, _ in groups)])


def paper_name(entry: papers.Entry) -> str:
    """"frankle" of "frankle-figure-3"."""
    return re.split(r"-(?=figure|table|appendix)", entry.name)[0]


def paper_page(entries: Sequence[papers.Entry]) -> str:
    """All entries of one paper."""
    parts = [f"# {text(entries[0].paper)}"]
    for entry in entries:
        parts += [f"## {text(entry.name)}", f"**{text(entry.title)}.** {text(capital(entry.where))}."]
        parts += map(text, entry.notes)
        parts += [f"*Look at:* {text(entry.look)}", costs(entry), f"```\nforeprune sweep {entry.name}\n```"]
    return "\n\n".join(parts)


def capital(words: str) -> str:
    """The first letter in upper case."""
    return words[:1].upper() + words[1:]


def costs(entry: papers.Entry) -> str:
    """Runs, epochs and FLOPs at every scale."""
    from foreprune.cli.amounts import duration, flops
    from foreprune.experiments.cost import RATE, estimate

    rows = []
    for scale in papers.SCALES:
        cost = estimate(entry.experiments(scale))
        epochs = f"{cost.epochs:,.0f}" if cost.epochs else "-"
        rows.append([scale, f"{cost.runs:,}", epochs, flops(cost.flops), duration(cost.seconds(RATE))])
    return table(["scale", "runs", "epochs", "FLOPs", f"at {RATE / 1e9:.0f} GFLOP/s"], rows)


def write(folder: Path, pages: Iterable[tuple[str, str]]) -> None:
    """Write pages that have changed, and remove those that are no longer there."""
    folder.mkdir(exist_ok=True)
    names = set()
    for name, content in pages:
        path = folder / f"{name}.md"
        names.add(path.name)
        if not path.exists() or path.read_text() != content + "\n":
            path.write_text(content + "\n")
    for path in folder.glob("*.md"):
        if path.name not in names:
            path.unlink()


def generate(app: Sphinx) -> None:
    """Write all pages."""
    docs = Path(app.srcdir)
    (docs / "methods").mkdir(exist_ok=True)
    write(docs / "methods", methods(docs / "methods", docs / "_build" / "layer-densities.json"))
    write(docs / "papers", papers_pages())


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", generate)
    return {"parallel_read_safe": True}
