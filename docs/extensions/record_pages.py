"""Sphinx extension: pages written from the records of methods, procedures, ablations and papers before each build.

They go to docs/methods, docs/procedures, docs/ablations and docs/papers, which git ignores.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import layer_densities
import torch
from markdown import code, facts, index, page, paragraphs, settings_table, source, source_path, table, text
from paper_pages import paper_pages
from sphinx.application import Sphinx

import foreprune as fp
from foreprune.ablations import Ablation, list_ablations
from foreprune.core.net import Net
from foreprune.core.schedule import ScheduleName
from foreprune.core.settings import types_of
from foreprune.procedures import Procedure, list_procedures
from foreprune.zoo import models

Pages = Iterable[tuple[str, str]]  # name, content

_CIFAR = ((3, 32, 32), 10)
_DATA = {  # network, or the first word of its name -> images of the data set that the papers train it on, outputs
    "lenet": ((1, 28, 28), 10),
    "fc": ((1, 28, 28), 10),
    "mlp": ((1, 28, 28), 784),
    "resnet-18": ((3, 64, 64), 200),
    "resnet-18-imagenet": ((3, 64, 64), 200),
    "resnet-50": ((3, 224, 224), 1000),
}


def method_pages(folder: Path, cache: Path) -> Pages:
    """Index, one page each, and the plots."""
    found = fp.list_methods()
    densities = layer_densities.layer_densities(cache)
    for method in found:
        layer_densities.plot(densities[method.name], folder / f"{method.name}.svg")
        yield method.name, method_page(method)
    intro = (
        "A method prunes a network without training it. Each page is generated from the method's record: "
        "`fp.get_method(name)` in Python, `foreprune methods NAME` on the command line."
    )
    rows = {m.name: [text(m.summary), ", ".join(sorted(m.needs)) or "nothing", text(m.paper)] for m in found}
    yield "index", index("Methods", intro, ["what it does", "needs", "paper"], rows)


def method_page(method: fp.Method) -> str:
    """Everything that the record of a method says, with the plot of its layer densities."""
    summary, *details = paragraphs(method.doc)
    by_need = {"labels": "data=batches", "images": "data=batches", "shape": "inputs=x", "mean image": "mean_image=mean"}
    given = "".join(f", {words}" for need, words in by_need.items() if need in method.needs)
    mean = ["mean = images.float().mean(0) / 255  # raw pixels in [0, 1]"] if "mean image" in method.needs else []
    call = f'masks = fp.prune(model, "{method.name}", density=0.05{given})'
    back = "; a pruned weight may come back in a later one" if method.revives else ""
    looks_at_data = method.needs & {"labels", "images", "mean image"}
    return page(
        f"# {method.name}",
        text(summary),
        code("python", "import foreprune as fp", "", *mean, call),
        facts(
            paper=text(method.paper),
            needs=text(method.requirements) or "nothing but the model",
            rounds=f"{method.rounds}, {method.schedule} schedule{back}" if method.rounds else "one",
            weights_kept=f"{'exactly ' if method.exact else 'about '}`round(density * total)`",
        ),
        "## Settings",
        settings_table(method.settings, {"rounds": int, "schedule": ScheduleName, **types_of(method.function)}),
        "## Details and differences from the authors' code" if details else "",
        *map(text, details),
        "## Source",
        source(method.function),
        "## Layer densities",
        f"![Layer densities of {method.name}]({method.name}.svg)",
        layer_densities.CAPTION.format(data=layer_densities.DATA if looks_at_data else ""),
    )


def procedure_pages() -> Pages:
    """Index and one page each."""
    found = list_procedures()
    for one in found:
        yield one.name, procedure_page(one)
    intro = (
        "A procedure trains in order to prune, where a [method](../methods/index.md) does not. It stands where a "
        "method's name does in `foreprune compare` and in `fp.Experiment`; `fp.prune` cannot carry it out. Any method "
        "can also prune after some steps of training: `foreprune compare --methods snip@1000`."
    )
    rows = {one.name: [text(one.summary), text(one.paper)] for one in found}
    yield "index", index("Procedures", intro, ["what it does", "paper"], rows)


def procedure_page(one: Procedure) -> str:
    """Everything that the record of a procedure says."""
    summary, *details = paragraphs(one.doc)
    return page(
        f"# {one.name}",
        text(summary),
        code("", f"foreprune compare --methods random snip {one.name}"),
        facts(
            paper=text(one.paper),
            needs="training",
            ablations=", ".join(f"`{name}`" for name in one.ablations),
            source=f"`{source_path(one.start)}`",
        ),
        "## Settings",
        settings_table(one.settings, types_of(one.start)),
        "## Details" if details else "",
        *map(text, details),
    )


def ablation_pages() -> Pages:
    """Index and one page each."""
    found = list_ablations()
    for one in found:
        yield one.name, ablation_page(one)
    intro = (
        "An ablation changes one thing about pruned networks and leaves the rest, to see what mattered. In Python they "
        "are functions of `foreprune.ablations`, on the command line `foreprune compare --ablations`."
    )
    rows = {one.name: [f"the {one.changes}", text(one.words), text(one.paper)] for one in found}
    yield "index", index("Ablations", intro, ["changes", "a network is then called", "paper"], rows)


def ablation_page(one: Ablation) -> str:
    """What the record and the docstring of an ablation say."""
    function, fixed = (one.apply.func, one.apply.keywords) if isinstance(one.apply, partial) else (one.apply, {})
    given = [{"masks": "masks", "weights": "model, masks", "method": '"snip"'}[one.changes]]
    given += [f"{name}={value!r}" for name, value in fixed.items()] + ([f"{one.value}=0.5"] if one.value else [])
    given += ["model=model"] if one.takes_model else []
    return page(
        f"# {one.name}",
        text(paragraphs(function.__doc__ or "")[0]),
        code("python", f"{one.changes} = fp.ablations.{function.__name__}({', '.join(given)})"),
        facts(
            changes=f"the {one.changes}",
            paper=text(one.paper),
            value=f"`{one.value}`: {text(one.meaning)}" if one.value else "",
            on_the_command_line=f"`foreprune compare --ablations {one.name}{':0.5' if one.value else ''}`",
        ),
        code("{eval-rst}", f".. autofunction:: foreprune.ablations.{function.__name__}", "   :no-index:"),
        "## Source",
        source(function),
    )


def zoo_shares() -> str:
    """How many of the parameters of each network of the zoo are prunable."""
    rows = []
    for name in models.names():
        shape, outputs = _DATA.get(name) or _DATA.get(name.split("-")[0], _CIFAR)
        with torch.device("meta"):
            model = models.create(name, input_shape=shape, classes=outputs)
        model.to_empty(device="cpu")  # what has no values is no network; memory that is never written costs nothing
        total, everything = Net.of(model).total, sum(parameter.numel() for parameter in model.parameters())
        images = "x".join(map(str, shape))
        rows.append([f"`{name}`", images, str(outputs), f"{total:,}", f"{everything:,}", f"{total / everything:.2%}"])
    return table(["network", "images", "outputs", "prunable", "all parameters", "share"], rows)


def write(folder: Path, pages: Pages, *, remove: bool = True) -> None:
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
    write(docs / "methods", method_pages(docs / "methods", docs / "_build" / "layer-densities.json"))
    write(docs / "procedures", procedure_pages())
    write(docs / "ablations", ablation_pages())
    write(docs / "papers", paper_pages())
    write(docs, [("_zoo_shares", zoo_shares())], remove=False)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", generate)
    return {"parallel_read_safe": True}
