"""Records as a comparison would leave them, made up but plausible: accuracies fall with density, layers differ."""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from foreprune.core.mask_files import PackedMasks, write_bits
from foreprune.records import Epoch, Experiment, LayerRecord, Record
from foreprune.training.recipes import Recipe

METHODS = ("random", "magnitude", "snip", "grasp", "synflow", "ntk-sap")
DENSITIES = (0.2, 0.1, 0.05, 0.01)
SHAPES = (
    ("stem.conv.weight", (16, 3, 3, 3)),
    ("blocks.0.conv1.weight", (16, 16, 3, 3)),
    ("blocks.0.conv2.weight", (16, 16, 3, 3)),
    ("blocks.1.conv1.weight", (32, 16, 3, 3)),
    ("blocks.1.conv2.weight", (32, 32, 3, 3)),
    ("blocks.1.shortcut.weight", (32, 16, 1, 1)),
    ("blocks.2.conv1.weight", (64, 32, 3, 3)),
    ("blocks.2.conv2.weight", (64, 64, 3, 3)),
    ("classifier.weight", (10, 64)),
)


def record(method: str = "snip", *, top1: float | None = 0.9, **settings: Any) -> Record:
    """A finished record without layers or curve; `settings` are those of the experiment."""
    experiment = Experiment(**({"data": "digits", "model": "mlp", "method": method} | settings))
    return Record(id=experiment.id, experiment=experiment, status="finished", top1=top1)


def failed(method: str = "snip", *, error: str = "ValueError: no luck", **settings: Any) -> Record:
    """A failed record."""
    return record(method, top1=None, **settings).model_copy(update={"status": "failed", "error": error})


def full(
    method: str,
    density: float,
    seed: int,
    *,
    data: str = "digits",
    model: str = "resnet20",
    epochs: int = 20,
    **more: Any,
) -> Record:
    """A finished record with layers, curve, times and environment."""
    draw = random.Random(f"{method} {density} {seed} {data}")
    strength = {"random": 0.5, "magnitude": 0.6, "snip": 0.85, "grasp": 0.8, "synflow": 1.0, "ntk-sap": 1.05}.get(
        method, 0.7
    )
    best = 0.965 - 0.05 * (-math.log10(density)) ** 1.7 / strength + draw.gauss(0, 0.004)
    collapsed = method == "snip" and density <= 0.01
    layers = _layers(method, density, draw, collapsed=collapsed)
    if collapsed:
        best = 0.1
    curve = []
    for epoch in range(epochs):
        rise = 1 - math.exp(-(epoch + 1) / 4)
        top1 = min(1.0, max(0.05, 0.1 + (best - 0.1) * rise + draw.gauss(0, 0.006) * (epoch < epochs - 1)))
        loss = 2.3 * math.exp(-3.2 * rise * max(best - 0.1, 0)) + abs(draw.gauss(0, 0.02))
        curve.append(
            Epoch(
                epoch=epoch, lr=0.1, train_loss=loss, train_top1=top1, test_loss=loss + 0.1, test_top1=top1,
                test_top5=min(1.0, top1 + 0.08), seconds=1.5,
            )
        )  # fmt: skip
    settings: dict[str, Any] = {"data": data, "model": model, "method": method, "density": density, "seed": seed}
    experiment = Experiment(**(settings | {"recipe": Recipe(epochs=epochs, momentum=0.9)} | more))
    return Record(
        id=experiment.id,
        experiment=experiment,
        status="finished",
        top1=curve[-1].test_top1,
        top5=curve[-1].test_top5,
        kept=sum(layer.kept for layer in layers),
        total=sum(layer.total for layer in layers),
        layers=tuple(layers),
        curve=tuple(curve),
        seconds_prune=draw.uniform(0.5, 4),
        seconds_train=draw.uniform(20, 40),
        environment={
            "command": "foreprune compare --data digits --model resnet20",
            "commit": "0123456789abcdef",
            "versions": {"python": "3.11.2", "torch": "2.13.0"},
            "device": "cpu",
        },
    )


def _layers(method: str, density: float, draw: random.Random, *, collapsed: bool) -> list[LayerRecord]:
    """Layers that keep `round(density * total)` weights in all, tilted towards the input or output as methods do."""
    tilt = {"random": 0.0, "snip": -0.2, "grasp": 0.1, "synflow": -0.35, "ntk-sap": -0.1}.get(method, -0.28)
    totals = [math.prod(shape) for _, shape in SHAPES]
    wishes = [
        density * math.exp(tilt * (at - 4) / 2 + draw.gauss(0, 0.06)) * (3.0 if n < 1000 else 1.0)
        for at, n in enumerate(totals)
    ]
    kept = [min(total, max(1, round(total * wish))) for total, wish in zip(totals, wishes, strict=True)]
    if collapsed:
        kept[4] = 0
    while missing := round(density * sum(totals)) - sum(kept):
        at = draw.choices(range(len(totals)), weights=totals)[0]
        if not (collapsed and at == 4):
            kept[at] = min(totals[at], max(0, kept[at] + int(math.copysign(min(abs(missing), 8), missing))))
    layers = []
    for (name, shape), total, count in zip(SHAPES, totals, kept, strict=True):
        units = shape[0]
        alive = min(units, count, round(units * (1 - math.exp(-4 * count / units / 3))) or 1) if count else 0
        layers.append(LayerRecord(name=name, shape=shape, kept=count, total=total, units=units, units_alive=alive))
    return layers


def comparison(
    *,
    methods: Iterable[str] = METHODS,
    densities: Iterable[float] = DENSITIES,
    seeds: Iterable[int] = (0, 1, 2),
    dense: bool = True,
    **more: Any,
) -> list[Record]:
    """A whole comparison: every method at every density with every seed, and the dense reference."""
    seeds, densities = tuple(seeds), tuple(densities)
    found = [full("dense", 1.0, seed, **more) for seed in seeds] if dense else []
    return found + [full(m, density, seed, **more) for m in methods for density in densities for seed in seeds]


ABLATIONS: tuple[tuple[str, float], ...] = (
    ("shuffle", 1.0),
    ("reinit", 1.0),
    ("reinit-layer", 1.0),
    ("invert", 1.0),
    ("widen", 0.5),
)
# what an ablation adds to the accuracy of a made-up run
_SHIFTS = {"none": 0.0, "shuffle": 0.004, "reinit": -0.001, "reinit-layer": -0.002, "invert": -0.2, "widen": 0.006}


def whole(method: str, density: float, seed: int, **more: Any) -> Record:
    """`full` with all that later versions measure: units by density, distances, traces."""
    run = full(method, density, seed, **more)
    draw = random.Random(f"{run.id} more")
    shift = _SHIFTS[run.experiment.ablation] + 0.01 * (run.experiment.prune_at > 0) + 0.02 * (method == "ltr")
    curve = tuple(
        replace(epoch, test_top1=min(1.0, max(0.0, (epoch.test_top1 or 0) + shift + draw.gauss(0, 0.002))))
        for epoch in run.curve
    )
    layers = []
    for layer in run.layers:
        bins = [0] * 21
        bins[0] = layer.units - layer.units_alive
        for _ in range(layer.units_alive):
            bins[max(1, min(20, math.ceil(20 * layer.kept / layer.total * draw.uniform(0.4, 1.6))))] += 1
        layers.append(layer.model_copy(update={"unit_densities": tuple(bins)}))
    trace = 3 + math.log10(density) + 0.5 * (method == "synflow") + draw.gauss(0, 0.1)
    analysis = {
        "effective_density": 0.97 * (run.density or 0),
        "width": 0.9,
        "log10_path_kernel_trace": trace,
        "log10_paths": 5.0,
        "weight_distance": 4 + 1.5 * trace + draw.gauss(0, 0.3),
        "output_distance": 9 + 2.5 * trace + draw.gauss(0, 0.8),
    }
    return run.model_copy(
        update={"layers": tuple(layers), "analysis": analysis, "curve": curve, "top1": curve[-1].test_top1}
    )


def study(
    *,
    methods: Iterable[str] = ("random", "magnitude", "snip", "synflow"),
    densities: Iterable[float] = (0.1, 0.01),
    seeds: Iterable[int] = (0, 1, 2),
    steps: Iterable[int] = (100, 1000),
    ablated: Iterable[tuple[str, float]] = ABLATIONS,
    **more: Any,
) -> list[Record]:
    """A comparison with ablations, pruning later, and references that see the trained network."""
    seeds, densities, methods = tuple(seeds), tuple(densities), tuple(methods)
    found = [whole("dense", 1.0, seed, **more) for seed in seeds]
    for seed in seeds:
        for density in densities:
            found += [whole(method, density, seed, **more) for method in (*methods, "magnitude-after", "ltr")]
            for method in methods:
                found += [whole(method, density, seed, prune_at=step, **more) for step in steps]
                if method != "random":
                    found += [
                        whole(method, density, seed, ablation=name, widen=fraction, **more)
                        for name, fraction in ablated
                    ]
    return found


def write_masks(runs: Path, record: Record, *, seed: int | None = None) -> Path:
    """Made-up masks with the record's layer counts, in the run's folder."""
    draw = np.random.default_rng(zlib.crc32(record.id.encode()) if seed is None else seed)
    tensors = {}
    for layer in record.layers:
        bits = np.zeros(layer.total, dtype=bool)
        bits[draw.permutation(layer.total)[: layer.kept]] = True
        tensors[layer.name] = np.packbits(bits)
    path = runs / record.id / "masks.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_bits(path, PackedMasks(tensors, {layer.name: layer.shape for layer in record.layers}, {}))


def regression(method: str, density: float, seed: int, **more: Any) -> Record:
    """A finished record without accuracies."""
    run = full(method, density, seed, data="rotated", model="mlp", **more)
    curve = tuple(replace(epoch, train_top1=None, test_top1=None, test_top5=None) for epoch in run.curve)
    return run.model_copy(update={"curve": curve, "top1": None, "top5": None})
