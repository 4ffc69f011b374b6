"""`python -m benchmarks collapse`: channels without a weight before training, beyond what `frankle-figure-5` runs.

Two tables for docs/results/frankle-neuron-collapse.md. `conventions`: what each convention changes in SynFlow on
ResNet-20 and VGG-16. `resnet-18`: the row that needs TinyImageNet; SynFlow and magnitude need only its shape, SNIP
and GraSP take CIFAR-10 images at twice their size, 200 of each of ten classes where the paper has ten of each of 200.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from foreprune.ablations import shuffle
from foreprune.api import prune
from foreprune.core.masks import Masks
from foreprune.experiments.run import layers_of
from foreprune.papers.setting import powers
from foreprune.records import empty_share
from foreprune.zoo.datasets import load_cached
from foreprune.zoo.models import create

UNIFORM = "kaiming-normal-fan-in+uniform-scale"
ONES = "kaiming-normal-fan-in"
CONVENTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    (UNIFORM, {}),
    (UNIFORM, {"precision": "single"}),
    (UNIFORM, {"batchnorm": "identity"}),
    (ONES, {}),
    (ONES, {"batchnorm": "identity"}),
)


def conventions(seeds: int) -> Iterator[dict[str, Any]]:
    """SynFlow under each convention."""
    for model, exponent in (("resnet-20", 6), ("vgg-16", 12)):
        for init, settings in CONVENTIONS:
            for seed in range(seeds):
                network = create(model, input_shape=(3, 32, 32), classes=10, init=init, seed=seed)
                inputs = torch.zeros(1, 3, 32, 32)
                masks = prune(network, "synflow", density=0.8**exponent, inputs=inputs, seed=seed, **settings)
                for ablation, found in (("none", masks), ("shuffle", shuffle(masks, seed=seed))):
                    words = {"init": init, "batchnorm": "scale", "precision": "double", **settings}
                    yield {"model": model, **words, "ablation": ablation, "seed": seed, **_empty(network, found)}


def resnet_18(seeds: int, data_dir: str | None) -> Iterator[dict[str, Any]]:
    """ResNet-18 for 64 x 64 pixels and 200 classes at 3.52 % of the weights."""
    (density,) = powers(0.8, [15])
    train = load_cached("cifar-10", data_dir).train
    for seed in range(seeds):
        network = create("resnet-18-imagenet", input_shape=(3, 64, 64), classes=200, init=UNIFORM, seed=seed)
        for method in ("magnitude", "snip", "grasp", "synflow"):
            given: dict[str, Any] = {"inputs": torch.zeros(1, 3, 64, 64)}
            if method in ("snip", "grasp"):
                batches = train.scoring_batches(per_class=200, seed=seed, device="cpu")
                given = {"data": [(_twice(images), labels) for images, labels in batches]}
            masks = prune(network, method, density=density, seed=seed, **given)
            yield {"method": method, "ablation": "none", "seed": seed, **_empty(network, masks)}
            if method == "synflow":
                shuffled = shuffle(masks, seed=seed)
                yield {"method": method, "ablation": "shuffle", "seed": seed, **_empty(network, shuffled)}


def _twice(images: Tensor) -> Tensor:
    return F.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)


def _empty(network: torch.nn.Module, masks: Masks) -> dict[str, Any]:
    channels = [layer for layer in layers_of(network, masks) if len(layer.shape) == 4]
    return {"kept": masks.kept, "empty_channels": empty_share(channels)}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks collapse", description=__doc__)
    parser.add_argument("table", choices=("conventions", "resnet-18"), help="which of the two")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on (default: 3)")
    parser.add_argument("--data-dir", help="folder with CIFAR-10 (default: FOREPRUNE_DATA)")
    parser.add_argument("--out", type=Path, help="CSV file to write (default: the screen)")
    chosen = parser.parse_args(arguments)
    found = conventions(chosen.seeds) if chosen.table == "conventions" else resnet_18(chosen.seeds, chosen.data_dir)
    rows = []
    for row in found:
        rows.append(row)
        print(*row.values(), file=sys.stderr)
    file = sys.stdout if chosen.out is None else chosen.out.open("w", newline="", encoding="utf-8")
    with file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
