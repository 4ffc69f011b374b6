"""Which fraction of each layer the methods keep: the numbers and the plot of every method's page.

ResNet-20 at density 0.05, weights drawn with seed 0. The network is that for scikit-learn's 8x8 digits, and methods
that look at data see ten images of each class. The numbers are cached until the sources that they depend on change.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import foreprune as fp

DENSITY = 0.05
CAPTION = "Fraction of the weights kept in each layer of ResNet-20 at density 0.05 (dotted), weights of seed 0{data}."
DATA = "; ten images of each class of scikit-learn's 8x8 digits"
_SOURCES = ("core", "graph", "methods", "zoo")

Densities = dict[str, dict[str, float]]


def layer_densities(cache: Path) -> Densities:
    """Method -> layer -> kept / total, from `cache` if it was written by the same sources."""
    digest = _digest()
    if cache.exists() and (known := json.loads(cache.read_text()))["digest"] == digest:
        return known["densities"]
    found = _measure()
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text(json.dumps({"digest": digest, "densities": found}))
    return found


def _digest() -> str:
    package = Path(fp.__file__).parent
    paths = sorted(path for room in _SOURCES for path in (package / room).rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def _measure() -> Densities:
    from foreprune.zoo import datasets, models

    data = datasets.load("digits")
    model = models.create("resnet-20", input_shape=data.shape, classes=data.classes, seed=0)
    batch = data.train.per_class(10, seed=0)
    raw_mean = data.train.images.float().mean(0) / 255
    found: Densities = {}
    for method in fp.list_methods():
        mean = raw_mean if "mean image" in method.needs else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fp.LayerCollapse)
            masks = fp.prune(model, method, density=DENSITY, data=[batch], inputs=batch[0], mean_image=mean)
        found[method.name] = masks.layer_densities()
    return found


def plot(densities: Mapping[str, float], path: Path) -> None:
    """Bars of one method, written as SVG with the same bytes every time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with plt.rc_context({"svg.hashsalt": "foreprune", "font.size": 9, "svg.fonttype": "none"}):
        figure, axes = plt.subplots(figsize=(7.2, 2.7), layout="constrained")
        axes.bar(range(len(densities)), list(densities.values()), color="#3b6ea5", width=0.75)
        axes.axhline(DENSITY, color="#444444", linewidth=1, linestyle=":")
        axes.set_xticks(range(len(densities)), _short(list(densities)), rotation=60, ha="right", fontsize=7)
        axes.set_ylabel("kept / total")
        axes.set_ylim(bottom=0)
        axes.margins(x=0.01)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None}, facecolor="white")
        plt.close(figure)


def _short(names: Sequence[str]) -> list[str]:
    return [name.removesuffix(".weight") for name in names]
