"""Commands on one network: `foreprune prune`, `train` and `analyze`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from foreprune.cli.arguments import Device, Training
from foreprune.cli.consoles import errors, screen
from foreprune.experiments import parse_density, parse_method

if TYPE_CHECKING:
    from foreprune.core.masks import Masks
    from foreprune.experiments.one_network import OneNetwork
    from foreprune.records import Epoch


@dataclass(frozen=True)
class Network:
    """A network and its weights."""

    model: str
    """a network of the zoo, or package.module:factory (given input_shape, classes and seed if it takes them)"""
    data: str | None = None
    """data set, which also sets input shape and classes; for methods that score on data, and the tangent kernel"""
    data_dir: Path | None = None
    """folder with the data; default: the environment variable FOREPRUNE_DATA"""
    input_shape: tuple[int, int, int] = (3, 32, 32)
    """channels, height, width of an input, where no data set says it"""
    classes: int = 10
    """number of classes, where no data set says it"""
    weights: Path | None = None
    """weights, a safetensors file of the state dict; default: drawn from the seed"""
    init: str = "kaiming-normal-fan-in"
    """distribution of the initial weights (zoo networks), with +uniform-scale of batch normalization's scales too"""
    seed: int = 0
    """of the weights, and of masks that are made for them"""

    def build(self) -> OneNetwork:
        """The network, built."""
        from foreprune.experiments.one_network import build

        given = {key: value for key, value in vars(self).items() if key != "model"}
        return build(self.model, **given)


@dataclass(frozen=True)
class Prune:
    """Prune one network and write the masks. Prints how many weights each layer keeps.

    One of density, sparsity and compression says how many weights are kept.

      foreprune prune --model resnet-20 --method synflow --density 0.05
      foreprune prune --model my.package:build --method snip --sparsity 0.9 \\
          --data mnist --data-dir ~/data
      foreprune prune --model my.package:build --method erk \\
          --density 0.1 "head=1" "*.qkv[q,k]=0.5" --exclude "*.embed"
    """

    network: Annotated[Network, tyro.conf.arg(name="")]
    method: str
    """method, with settings as name:setting=value"""
    density: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FLOAT [PATTERN=FLOAT ...]")] = ()
    """fraction of weights to keep; of parts too, by patterns as of --exclude: the number alone is for the others"""
    sparsity: float | None = None
    """or: fraction to remove"""
    compression: float | None = None
    """or: total over kept weights"""
    samples_per_class: int = 10
    """training images of each class that data-driven methods look at"""
    exclude: tuple[str, ...] = ()
    """parts not to prune: names of modules or weights, globs, with blocks as in *.qkv[q,k], or re:expression"""
    scope: Literal["global", "local"] = "global"
    """compare scores over all layers, or keep the same fraction in each"""
    repair: Literal["head"] | None = None
    """head: score as if a last layer whose weights are all zero were drawn by its usual initialization"""
    gates: Literal["erk", "keep", "score"] = "erk"
    """queries, keys and layers without a score: keep their Erdős-Rényi share, keep all, or go by score"""
    floor: float = 0.0
    """least that each layer keeps, as a share of what Erdős-Rényi-kernel densities would keep of it"""
    out: Path = Path("masks.safetensors")
    """file to write"""

    def run(self) -> int:
        from foreprune.core.budget import as_densities
        from foreprune.experiments.one_network import prune_once

        density = as_densities(
            density=parse_density(self.density), sparsity=self.sparsity, compression=self.compression
        )
        name, settings = parse_method(self.method)
        with screen.status(f"pruning {self.network.model} with {name}"):
            masks = prune_once(
                self.network.build(),
                name,
                density=density,
                settings=settings,
                samples_per_class=self.samples_per_class,
                exclude=self.exclude,
                scope=self.scope,
                repair=self.repair,
                gates=self.gates,
                floor=self.floor,
            )
            masks.save(self.out, metadata={"model": self.network.model})
        _print_layers(masks)
        screen.print(f"wrote {self.out}", highlight=False, soft_wrap=True)
        return 0


@dataclass(frozen=True)
class Train:
    """Train one network, sparse if masks are given; writes weights and training curve.

    Without a recipe, it is trained by the one that suits data and network.

      foreprune train --model lenet-300-100 --masks masks.safetensors \\
          --data mnist --data-dir ~/data
    """

    model: str
    """a network of the zoo, or package.module:factory"""
    data: str = "digits"
    """data set"""
    data_dir: Path | None = None
    """folder with the data; default: the environment variable FOREPRUNE_DATA"""
    masks: Path | None = None
    """masks written by `foreprune prune`"""
    weights: Path | None = None
    """initial weights, a safetensors file of the state dict; default: drawn from the seed"""
    init: str = "kaiming-normal-fan-in"
    """distribution of the initial weights (zoo networks), with +uniform-scale of batch normalization's scales too"""
    training: Annotated[Training, tyro.conf.arg(name="")] = field(default_factory=Training)
    seed: int = 0
    """of weights and order of the data; the same as in `foreprune prune` gives the weights that were pruned"""
    out: Path = Path("runs/train")
    """output folder: weights.safetensors, history.json, and a checkpoint to continue from if interrupted"""
    device: Device = "auto"
    """where to run"""

    def run(self) -> int:
        from foreprune.experiments import resolve_device
        from foreprune.experiments.one_network import build, train_once

        network = build(
            self.model,
            data=self.data,
            data_dir=self.data_dir,
            weights=self.weights,
            init=self.init,
            seed=self.seed,
        )
        masks = _read(self.masks)
        if masks is not None:
            screen.print(f"{masks}", highlight=False)
        recipe = self.training.resolve(self.data, self.model)
        device = resolve_device(self.device)

        def show(point: Epoch) -> None:
            screen.print(_progress(point, recipe.epochs), highlight=False)

        try:
            history = train_once(network, recipe=recipe, out=self.out, masks=masks, device=device, on_epoch=show)
        except KeyboardInterrupt:
            errors.print(f"\ninterrupted. Run the same command again to go on from the checkpoint in {self.out}")
            return 130
        if history.top1 is not None:
            screen.print(f"test accuracy of the last epoch: {100 * history.top1:.2f} %", highlight=False)
        elif history.curve:
            screen.print(f"test loss of the last epoch: {history.curve[-1].test_loss:.4g}", highlight=False)
        written = f"wrote {self.out / 'weights.safetensors'} and {self.out / 'history.json'}"
        screen.print(written, highlight=False, soft_wrap=True)
        return 0


@dataclass(frozen=True)
class Analyze:
    """Measure what masks leave of a network: densities, widths, paths, trace, MACs.

    Without masks, the dense network.

      foreprune analyze --model resnet-20 --masks masks.safetensors \\
          --input-shape 3 32 32 --out analysis.json
    """

    network: Annotated[Network, tyro.conf.arg(name="")]
    masks: Path | None = None
    """masks written by `foreprune prune`"""
    samples_per_class: int = 1
    """training images of each class for the tangent kernel; its cost grows with samples times classes"""
    out: Path | None = None
    """also write all numbers to this JSON file"""

    def run(self) -> int:
        from foreprune.core.atomic import atomic_write
        from foreprune.experiments.one_network import analyze_once

        with screen.status(f"analyzing {self.network.model}"):
            masks = _read(self.masks)
            found = analyze_once(self.network.build(), masks=masks, samples_per_class=self.samples_per_class)
        screen.print(found)
        if self.out is not None:
            atomic_write(self.out, json.dumps(found.to_dict(), indent=2) + "\n")
            screen.print(f"wrote {self.out}", highlight=False, soft_wrap=True)
        return 0


def _read(masks: Path | None) -> Masks | None:
    from foreprune.core.masks import Masks

    return None if masks is None else Masks.load(masks)


def _progress(point: Epoch, epochs: int) -> str:
    """ "epoch   3/20  train loss 0.1234  test accuracy  98.76 %  0.3 s"."""
    test = "" if point.test_loss is None else f"  test loss {point.test_loss:.4f}"
    if point.test_top1 is not None:
        test = f"  test accuracy {100 * point.test_top1:6.2f} %"
    return f"epoch {point.epoch:3d}/{epochs}  train loss {point.train_loss or 0:.4f}{test}  {point.seconds:.1f} s"


def _print_layers(masks: Masks) -> None:
    from rich.table import Table

    table = Table("layer", "shape", "kept", "total", "density", box=None, pad_edge=False, header_style="bold")
    for column in table.columns[2:]:
        column.justify = "right"
    shapes = {block.name: block.shape for block in masks.blocks}
    for name, (kept, total) in masks.block_counts().items():
        shape = "x".join(map(str, shapes[name]))
        table.add_row(name, shape, f"{kept:,}", f"{total:,}", f"{kept / max(total, 1):.4f}")
    screen.print(table, markup=False)
    screen.print(
        f"kept {masks.kept}/{masks.total} (density {masks.density:.6g}, sparsity {masks.sparsity:.6g})", highlight=False
    )
    parameters = int(masks.metadata["parameters"])
    share = 100 * masks.total / parameters
    screen.print(f"prunable: {masks.total:,} of {parameters:,} parameters ({share:.1f} %)", highlight=False)
