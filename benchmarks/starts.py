"""`python -m benchmarks starts`: how pruned networks start, before any training, and what becomes of a hot start.

For each method, density and seed, the network of `--recipe` is drawn and pruned as in a run, and measured on 1,000
training images (a choice by the seed), batch normalization with their statistics: the mean cross-entropy, the Euclidean
norm of its gradient with respect to the kept weights, and the standard deviation of all logits. "cooled" divides the
weights of every layer by one constant, so that the logits deviate as those of the randomly pruned network of the same
seed and density; "cooled at the output" divides the output layer alone; neither means much behind normalizations. With
`--epochs`, each network is then trained by the recipe, so many epochs, and its test accuracy is measured.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from torch import nn

from foreprune.analysis.statistics import mean_interval
from foreprune.core.masks import Masks
from foreprune.procedures.shared import RunContext, start_of, train
from foreprune.records import Experiment
from foreprune.training.recipes import recipe
from foreprune.zoo.datasets import DataSet, load_cached

METHODS = (
    *("random", "magnitude", "snip", "synflow", "grasp"),
    *("grasp, shuffled", "grasp, reinitialized", "grasp, cooled", "grasp, cooled at the output"),
)
_ABLATIONS = {"shuffled": "shuffle", "reinitialized": "reinit"}
IMAGES = 1000
NETWORKS = {  # recipe -> data set and network
    "frankle-lenet-mnist": ("mnist", "lenet-300-100"),
    "frankle-resnet-20-cifar-10": ("cifar-10", "resnet-20"),
}


@dataclass(frozen=True)
class Start:
    """How one network starts: on so many images, its loss, gradient and logits; `top1` after training, if it was."""

    method: str
    density: float
    seed: int
    loss: float
    gradient_norm: float
    logit_deviation: float
    epochs: int = 0
    top1: float | None = None


def starts(
    methods: Sequence[str],
    densities: Iterable[float],
    seeds: Iterable[int],
    *,
    data: DataSet,
    recipe_name: str = "frankle-lenet-mnist",
    epochs: int = 0,
) -> list[Start]:
    """One `Start` for each method, density and seed; those that are cooled need "random" before them."""
    found: dict[tuple[str, float, int], Start] = {}
    places = [(density, seed, method) for density in densities for seed in seeds for method in methods]
    with tempfile.TemporaryDirectory() as folder:
        for density, seed, label in places:
            method, _, words = label.partition(", ")
            experiment = Experiment(
                data=data.name,
                model=NETWORKS[recipe_name][1],
                method=method,
                density=density,
                seed=seed,
                ablation=_ABLATIONS.get(words, "none"),
                recipe=replace(recipe(recipe_name), epochs=max(epochs, 1)),
            )
            run = RunContext(experiment, data, data.train, Path(folder), "cpu")
            start = start_of(run)
            model, masks = start.model, start.masks
            masks.apply_(model)
            measured = measure(model, masks, data, seed=seed)
            if words.startswith("cooled"):
                layers = list(masks)[-1:] if words == "cooled at the output" else list(masks)
                cool(model, layers, measured[2] / found["random", density, seed].logit_deviation)
                measured = measure(model, masks, data, seed=seed)
            made = Start(label, density, seed, *measured)
            if epochs:
                history = train(run, model, order=start.order, masks=masks, checkpoint=None)
                made = replace(made, epochs=epochs, top1=history.top1)
            found[label, density, seed] = made
    return list(found.values())


def measure(model: nn.Module, masks: Masks, data: DataSet, *, seed: int) -> tuple[float, float, float]:
    """Mean cross-entropy, Euclidean norm of its gradient with respect to kept weights, and deviation of all logits."""
    images = data.train.subset(IMAGES, seed=seed)
    inputs, targets = next(iter(images.batches(IMAGES)))
    logits = model(inputs)
    loss = nn.functional.cross_entropy(logits, targets)
    gradients = torch.autograd.grad(loss, [model.get_parameter(name) for name in masks])
    squares = sum(
        float(gradient[masks[name]].double().square().sum()) for name, gradient in zip(masks, gradients, strict=True)
    )
    return float(loss.detach()), squares**0.5, float(logits.detach().double().std())


@torch.no_grad()
def cool(model: nn.Module, layers: Sequence[str], factor: float) -> None:
    """Divide the outputs by `factor`, in equal parts in the weights of `layers`; biases are zero at the start."""
    for name in layers:
        model.get_parameter(name).div_(factor ** (1 / len(layers)))


def table(found: Sequence[Start]) -> str:
    """Mean ± sample standard deviation over seeds, as Markdown: a row for each density and method."""
    trained = found[0].epochs
    head = ["density", "method", "cross-entropy", "gradient norm", "logit deviation", "n"]
    if trained:
        head += [f"accuracy after {trained} epochs", "difference to grasp [95 % CI]"]
    lines = [f"| {' | '.join(head)} |", f"|---:|---|{'---:|' * (len(head) - 2)}"]
    for density, method in dict.fromkeys((each.density, each.method) for each in found):
        mine = [each for each in found if (each.density, each.method) == (density, method)]
        values = [[getattr(each, name) for each in mine] for name in ("loss", "gradient_norm", "logit_deviation")]
        cells = [f"{density:.3g}", method, *map(_spread, values), str(len(mine))]
        if trained:
            cells.append(_spread([100 * (each.top1 or 0) for each in mine]))
            cells.append(_change(mine, [each for each in found if (each.density, each.method) == (density, "grasp")]))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def _change(mine: Sequence[Start], others: Sequence[Start]) -> str:
    """The paired difference of accuracies in points; a dash for the same runs, or without two seeds."""
    if len(others) < 2 or mine == others:
        return "–"
    theirs = {each.seed: each.top1 or 0 for each in others}
    found = mean_interval([100 * ((each.top1 or 0) - theirs[each.seed]) for each in mine])
    return f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command: the table on the screen, one row for each network in the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks starts", description=__doc__)
    parser.add_argument(
        "--recipe",
        default="frankle-lenet-mnist",
        choices=NETWORKS,
        metavar="RECIPE",
        help=f"network, data and training, of {', '.join(NETWORKS)} (default: the first)",
    )
    parser.add_argument("--data-dir", help="folder of the data sets (default: FOREPRUNE_DATA)")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=METHODS,
        choices=METHODS,
        metavar="METHOD",
        help=f"of {', '.join(map(repr, METHODS))} (default: all)",
    )
    parser.add_argument(
        "--densities",
        nargs="+",
        type=float,
        default=[0.8**k for k in (4, 6, 12, 18)],
        metavar="DENSITY",
        help="fractions of weights kept (default: 0.41 0.262 0.0687 0.018)",
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 on (default: 5)")
    parser.add_argument("--epochs", type=int, default=0, help="train so many epochs (default: none)")
    parser.add_argument("--out", type=Path, help="also write every network's numbers to this CSV file")
    chosen = parser.parse_args(arguments)
    data = load_cached(NETWORKS[chosen.recipe][0], chosen.data_dir)
    seeds = range(chosen.seeds)
    found = starts(chosen.methods, chosen.densities, seeds, data=data, recipe_name=chosen.recipe, epochs=chosen.epochs)
    print(table(found))
    if chosen.out:
        with chosen.out.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, [field.name for field in fields(Start)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(each) for each in found)


if __name__ == "__main__":
    main()
