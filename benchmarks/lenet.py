"""`python -m benchmarks lenet`: SNIP's LeNet-300-100, written a second time without this library.

Table 1 of Lee, Ajanthan & Torr (ICLR 2019) as their code defines it, also where `foreprune sweep snip-table-1` differs:
weights from normals of variance 1 / fan-in cut at two deviations, biases drawn before scoring and pruned with the
weights, one batch of 100 images as they come, new weights and biases of zero after pruning. Only the images are read by
the library. `--variants` takes back one of the differences, or both. One row of test errors for each variant, density
and seed is added to `--out`; what stands there is not run again.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from foreprune.zoo.datasets import load_cached
from foreprune.zoo.images import ImageSet

_CUT = 0.87962566103423978  # standard deviation of a standard normal cut at two
_TRAIN, _BATCH, _PHASE = 54_000, 100, 25_000
SIZES = ((784, 300), (300, 100), (100, 10))
_SCALES = {"authors": 1, "kaiming": 2, "free-biases": 1, "kaiming-free-biases": 2}  # variance times fan-in


@dataclass(frozen=True)
class Errors:
    """Errors in percent: of the test images after the last step and at best, looked at every 1,000 steps, and of the
    training images after the last."""

    variant: str
    density: float
    seed: int
    steps: int
    last: float
    best: float
    train: float


def cut_normal(shape: tuple[int, ...], fan_in: int, generator: torch.Generator, scale: int = 1) -> Tensor:
    """Normals of variance `scale` / fan-in, drawn again beyond two deviations."""
    deviation = math.sqrt(scale / fan_in) / _CUT
    return torch.nn.init.trunc_normal_(
        torch.empty(shape), 0.0, deviation, -2 * deviation, 2 * deviation, generator=generator
    )


def logits(parameters: Sequence[Tensor], x: Tensor) -> Tensor:
    """Of three weights and three biases."""
    for layer in range(3):
        x = x @ parameters[layer] + parameters[layer + 3]
        x = F.relu(x) if layer < 2 else x
    return x


def masks(density: float, x: Tensor, y: Tensor, generator: torch.Generator, variant: str = "authors") -> list[Tensor]:
    """1 for the largest |dL/dc| at c = 1 among all weights and biases together; free biases are zero and all kept."""
    free = variant.endswith("free-biases")
    drawn = [cut_normal(size, size[0], generator, _SCALES[variant]) for size in SIZES]
    drawn += [torch.zeros(size[1]) if free else cut_normal(size[1:], size[0], generator) for size in SIZES]
    ones = [torch.ones_like(value, requires_grad=True) for value in drawn]
    loss = F.cross_entropy(logits([value * one for value, one in zip(drawn, ones, strict=True)], x), y)
    scored = ones[:3] if free else ones
    scores = torch.cat([grad.abs().flatten() for grad in torch.autograd.grad(loss, scored)])
    kept = torch.zeros_like(scores)
    kept[scores.topk(round(density * scores.numel())).indices] = 1
    parts = torch.split(kept, [one.numel() for one in scored])
    chosen = [part.view_as(one) for part, one in zip(parts, scored, strict=True)]
    return chosen + [torch.ones_like(one) for one in ones[len(scored) :]]


def run(
    density: float,
    seed: int,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    steps: int,
    variant: str = "authors",
) -> Errors:
    """Prune, draw again, train with momentum: rate 0.1, divided by ten every quarter, weight decay 5e-4."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(train[0]), generator=generator)[-_TRAIN:]
    x, y = train[0][chosen], train[1][chosen]
    first = torch.randperm(len(x), generator=generator)[:_BATCH]
    kept = masks(density, x[first], y[first], generator, variant)
    drawn = [cut_normal(size, size[0], generator, _SCALES[variant]) for size in SIZES]
    drawn += [torch.zeros(size[1]) for size in SIZES]
    parameters = [torch.nn.Parameter(value * mask) for value, mask in zip(drawn, kept, strict=True)]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4)
    best, order, at = 100.0, torch.empty(0, dtype=torch.int64), len(x)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * 0.1 ** min(3, step // _PHASE)
        if at + _BATCH > len(x):
            order, at = torch.randperm(len(x), generator=generator), 0
        batch = order[at : at + _BATCH]
        at += _BATCH
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(logits(parameters, x[batch]), y[batch]))
        optimizer.step()
        with torch.no_grad():
            for value, mask in zip(parameters, kept, strict=True):
                value.mul_(mask)
        if (step + 1) % 1000 == 0:
            best = min(best, error(parameters, *test))
    last = error(parameters, *test)
    found = [round(value, 3) for value in (last, min(best, last), error(parameters, x, y))]
    return Errors(variant, density, seed, steps, *found)


def error(parameters: Sequence[Tensor], x: Tensor, y: Tensor) -> float:
    """In percent."""
    with torch.no_grad():
        return 100 * float((logits(parameters, x).argmax(1) != y).float().mean())


def images(data_dir: str | None) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """MNIST, training and test: pixels as rows, normalized by one mean and deviation, and classes."""
    data = load_cached("mnist", data_dir)
    parts = [part for part in (data.train, data.test) if isinstance(part, ImageSet)]
    rows = [part.images.flatten(1).float() / 255 for part in parts]
    mean, deviation = rows[0].mean(), rows[0].std(correction=0)
    train, test = (((row - mean) / deviation, part.labels) for row, part in zip(rows, parts, strict=True))
    return train, test


def main(arguments: Sequence[str]) -> int:
    """Run what is missing in `--out`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks lenet", description=__doc__)
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=_SCALES,
        default=["authors"],
        help="kaiming: variance 2 / fan-in; free-biases: they begin at zero and are neither scored nor pruned",
    )
    parser.add_argument("--densities", metavar="D", type=float, nargs="+", default=[1.0, 0.05, 0.02])
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--data-dir", help="folder with MNIST; default: FOREPRUNE_DATA")
    parser.add_argument("--out", type=Path, default=Path("literal.csv"))
    asked = parser.parse_args(arguments)
    done: set[tuple[str, float, int, int]] = set()
    if asked.out.exists():
        with asked.out.open(newline="") as file:
            done = {
                (row["variant"], float(row["density"]), int(row["seed"]), int(row["steps"]))
                for row in csv.DictReader(file)
            }
    train, test = images(asked.data_dir)
    for seed, density, variant in itertools.product(range(asked.seeds), asked.densities, asked.variants):
        if (variant, density, seed, asked.steps) in done:
            continue
        found = run(density, seed, train, test, steps=asked.steps, variant=variant)
        new = not asked.out.exists()
        with asked.out.open("a", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Errors)])
            if new:
                writer.writeheader()
            writer.writerow(asdict(found))
        print(found, flush=True)
    return 0
