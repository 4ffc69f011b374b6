"""Sphinx extension: pages written from the records of methods, procedures, ablations and papers before each build.

They go to docs/methods, docs/procedures, docs/ablations and docs/papers, which git ignores.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import layer_densities
import torch
from sphinx.application import Sphinx

import foreprune as fp
from foreprune import ablations, papers
from foreprune.core.schedule import ScheduleName
from foreprune.core.net import Net
from foreprune.core.settings import types_of
from foreprune.zoo import models

CALLS = {"labels": ", data=batches", "images": ", data=batches", "mean image": ", inputs=x, mean_image=mean", "shape": ", inputs=x"}
_DATA = {  # network, or the first word of its name -> images of the data set that the papers train it on, classes
    "lenet": ((1, 28, 28), 10),
    "fc": ((1, 28, 28), 10),
    "mlp": ((1, 28, 28), 784),
    "resnet-18": ((3, 64, 64), 200),
    "resnet-18-imagenet": ((3, 64, 64), 200),
    "resnet-50": ((3, 224, 224), 1000),
}
_CIFAR = ((3, 32, 32), 10)
MEAN = "mean = images.float().mean(0) / 255  # raw pixels in [0, 1]\n"


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


def settings_table(settings: Mapping[str, Any], kinds: Mapping[str, Any]) -> str:
    """Name, default and allowed values of each setting."""
    rows = [[f"`{name}`", f"`{default!r}`", allowed(kinds.get(name, Any))] for name, default in settings.items()]
    return table(["setting", "default", "allowed values"], rows) if rows else "None."


def allowed(kind: Any) -> str:
    """Which values an annotation allows, in words."""
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(f'`"{part}"`' if isinstance(part, str) else f"`{part!r}`" for part in parts)
    if parts:
        return " or ".join(map(allowed, parts))
    words = {bool: "`True` or `False`", int: "a whole number", float: "a number", type(None): "`None`", Any: "anything"}
    return words.get(kind, f"a `{getattr(kind, '__name__', kind)}`")


def source(function: Callable[..., Any]) -> str:
    """A function without its docstring: what it computes."""
    code = textwrap.dedent(inspect.getsource(function))
    node = typing.cast("ast.FunctionDef", ast.parse(code).body[0])
    lines = code.splitlines()
    if function.__doc__ and node.body[0].end_lineno is not None:
        del lines[node.body[0].lineno - 1 : node.body[0].end_lineno]
    path = "/".join(function.__module__.split("."))
    return "\n".join([f"`src/{path}.py`:", "", "```python", *lines[node.lineno - 1 :], "```"])


def method_page(method: fp.Method) -> str:
    """Everything that the record of a method says, with the plot of its layer densities."""
    summary, *details = paragraphs(method.doc)
    call = next((words for need, words in CALLS.items() if need in method.needs), "")
    mean = MEAN if "mean image" in method.needs else ""
    facts = [
        ["paper", text(method.paper)],
        ["needs", text(method.requirements) or "nothing but the model"],
        ["rounds", rounds(method)],
        ["weights kept", "exactly `round(density * total)`" if method.exact else "`round(density * total)`, approximately"],
    ]
    looks_at_data = method.needs & {"labels", "images", "mean image"}
    return "\n\n".join(
        [
            f"# {method.name}",
            text(summary),
            f'```python\nimport foreprune as fp\n\n{mean}masks = fp.prune(model, "{method.name}", density=0.05{call})\n```',
            table(["", ""], facts),
            "## Settings",
            settings_table(method.settings, {"rounds": int, "schedule": ScheduleName, **types_of(method.function)}),
            *(["## Details and differences from the authors' code", *map(text, details)] if details else []),
            "## Source",
            source(method.function),
            "## Layer densities",
            f"![Layer densities of {method.name}]({method.name}.svg)",
            layer_densities.CAPTION.format(data=layer_densities.DATA if looks_at_data else ""),
        ]
    )


def rounds(method: fp.Method) -> str:
    """One, or how many and on which schedule."""
    if method.rounds is None:
        return "one"
    back = "; a pruned weight may come back in a later one" if method.revives else ""
    return f"{method.rounds}, {method.schedule} schedule{back}"


def methods(folder: Path, cache: Path) -> Iterable[tuple[str, str]]:
    """Index, one page each, and the plots."""
    found = fp.list_methods()
    densities = layer_densities.layer_densities(cache)
    for method in found:
        layer_densities.plot(densities[method.name], folder / f"{method.name}.svg")
        yield method.name, method_page(method)
    rows = [
        [f"[{m.name}]({m.name}.md)", text(m.summary), ", ".join(sorted(m.needs)) or "nothing", text(m.paper)] for m in found
    ]
    intro = (
        "A method prunes a network without training it. Each page is generated from the method's record: "
        "`fp.get_method(name)` in Python, `foreprune methods NAME` on the command line."
    )
    yield "index", "\n\n".join(["# Methods", intro, table(["name", "what it keeps", "needs", "paper"], rows), toctree(m.name for m in found)])


def ablation_pages() -> Iterable[tuple[str, str]]:
    """Index and one page each."""
    found = ablations.list_ablations()
    for one in found:
        function, fixed = (one.apply.func, one.apply.keywords) if isinstance(one.apply, partial) else (one.apply, {})
        given = {"masks": "masks", "weights": "model, masks", "method": '"snip"'}[one.changes]
        settings = [*(f"{name}={value!r}" for name, value in fixed.items()), *([f"{one.value}=0.5"] if one.value else [])]
        call = f"fp.ablations.{function.__name__}({', '.join([given, *settings])})"
        result = {"masks": "masks", "weights": "weights", "method": "method"}[one.changes]
        facts = [
            ["changes", f"the {one.changes}"],
            ["paper", text(one.paper)],
            *([["value", f"`{one.value}`: {text(one.meaning)}"]] if one.value else []),
            ["on the command line", f"`foreprune compare --ablations {one.name}{':0.5' if one.value else ''}`"],
        ]
        summary = text(paragraphs(function.__doc__ or "")[0])
        described = f"```{{eval-rst}}\n.. autofunction:: foreprune.ablations.{function.__name__}\n   :no-index:\n```"
        parts = [f"# {one.name}", summary, f"```python\n{result} = {call}\n```", table(["", ""], facts), described]
        yield one.name, "\n\n".join([*parts, "## Source", source(function)])
    rows = [[f"[{one.name}]({one.name}.md)", f"the {one.changes}", text(one.words), text(one.paper)] for one in found]
    intro = (
        "An ablation changes one thing about pruned networks and leaves the rest, to see what mattered. In Python they are "
        "functions of `foreprune.ablations`, on the command line `foreprune compare --ablations`."
    )
    listed = table(["name", "changes", "a network is then called", "paper"], rows)
    yield "index", "\n\n".join(["# Ablations", intro, listed, toctree(one.name for one in found)])


def zoo_shares() -> str:
    """How many of the parameters of each network of the zoo are prunable."""
    rows = []
    for name in models.names():
        shape, classes = _DATA.get(name) or _DATA.get(name.split("-")[0], _CIFAR)
        with torch.device("meta"):
            model = models.create(name, input_shape=shape, classes=classes)
        total, everything = Net.of(model).total, sum(parameter.numel() for parameter in model.parameters())
        size = "x".join(map(str, shape))
        rows.append([f"`{name}`", size, str(classes), f"{total:,}", f"{everything:,}", f"{total / everything:.2%}"])
    return table(["network", "images", "outputs", "prunable", "all parameters", "share"], rows)


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
    parts = [f"# {re.sub(', arXiv.*', '', entries[0].paper)}", f"{text(entries[0].paper)}."]
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


def write(folder: Path, pages: Iterable[tuple[str, str]], *, remove: bool = True) -> None:
    """Write pages that have changed, and remove those that are no longer there."""
    folder.mkdir(exist_ok=True)
    names = set()
    for name, content in pages:
        path = folder / f"{name}.md"
        names.add(path.name)
        if not path.exists() or path.read_text() != content + "\n":
            path.write_text(content + "\n")
    for path in folder.glob("*.md") if remove else ():
        if path.name not in names:
            path.unlink()


def generate(app: Sphinx) -> None:
    """Write all pages."""
    docs = Path(app.srcdir)
    (docs / "methods").mkdir(exist_ok=True)
    write(docs / "methods", methods(docs / "methods", docs / "_build" / "layer-densities.json"))
    write(docs / "ablations", ablation_pages())
    write(docs / "papers", papers_pages())
    write(docs, [("_zoo_shares", zoo_shares())], remove=False)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", generate)
    return {"parallel_read_safe": True}
