"""The command line. Arguments and printing only; the work is done elsewhere, and imported only when a command runs."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import tyro
from rich.console import Console

from foreprune.core.density import as_density
from foreprune.experiments.plan import grid, parse_method, shortened
from foreprune.experiments.spec import Ablation
from foreprune.training.recipes import RECIPES, Recipe, default_recipe, recipe

if TYPE_CHECKING:
    from foreprune.core.masks import Masks

Device = Literal["auto", "cpu", "cuda"]
_out = Console()
_err = Console(stderr=True)


@dataclass(frozen=True)
class Training:
    """How networks are trained. Without anything, the recipe that suits data and model."""

    recipe: str | None = None
    """a recipe of the papers by name; `foreprune methods --recipes` lists them"""
    epochs: int | None = None
    """passes over the training data; milestones move in proportion"""
    batch_size: int | None = None
    """images per step"""
    lr: float | None = None
    """learning rate"""

    def resolve(self, data: str, model: str) -> Recipe:
        chosen = recipe(self.recipe) if self.recipe else default_recipe(data, model)
        given = {"batch_size": self.batch_size, "lr": self.lr}
        settings = chosen.model_dump() | {key: value for key, value in given.items() if value is not None}
        chosen = Recipe.model_validate(settings)
        return chosen if self.epochs is None else shortened(chosen, self.epochs)


@dataclass(frozen=True)
class Compare:
    """Prune, train and test with several methods, densities and seeds; print a table and write a report.

    Without arguments: the demo, on 1,797 real images of handwritten digits that come with scikit-learn. Finished runs
    are kept in the output folder; the same command again skips them and continues what was interrupted.

    foreprune compare --data mnist --data-dir ~/data --methods random snip synflow --densities 0.1 0.02
    """

    methods: tuple[str, ...] = ("random", "erk", "magnitude", "snip", "grasp", "synflow")
    """methods to compare, with settings as name:setting=value, e.g. grasp:keep=magnitude"""
    densities: tuple[float, ...] = ()
    """fractions of weights to keep; default 0.2 0.05 0.02 0.01"""
    sparsities: tuple[float, ...] = ()
    """or: fractions of weights to remove"""
    compressions: tuple[float, ...] = ()
    """or: total over kept weights"""
    seeds: int = 3
    """how many seeds, from 0 on; a seed decides weights, masks and order of the data"""
    data: str = "digits"
    """digits, mnist, cifar-10, cifar-100, tiny-imagenet or imagenet"""
    data_dir: Path | None = None
    """folder with the data; default: the environment variable FOREPRUNE_DATA"""
    model: str = "lenet-300-100"
    """a network of the zoo, or package.module:factory"""
    ablations: tuple[Ablation, ...] = ()
    """also run every method with its masks shuffled within layers, its weights drawn anew, or its scores inverted"""
    init: str = "kaiming-normal-fan-in"
    """distribution of the initial weights (zoo networks)"""
    training: Annotated[Training, tyro.conf.arg(name="")] = Training()
    samples_per_class: int = 10
    """training images of each class that data-driven methods look at"""
    train_size: int = 0
    """train on so many images only; 0 for all"""
    out: Path = Path("runs/compare")
    """output folder: records, masks, report"""
    jobs: int = 0
    """runs at a time; 0 for one per core"""
    device: Device = "auto"
    """where to run"""

    def run(self) -> int:
        from foreprune.experiments.check import check, resolve_device
        from foreprune.experiments.progress import live
        from foreprune.experiments.workers import run_all
        from foreprune.report.render import write_report
        from foreprune.report.structure import structure_table
        from foreprune.report.tables import console_table

        chosen = self._densities()
        experiments = grid(
            data=self.data,
            model=self.model,
            methods=self.methods,
            densities=chosen,
            seeds=range(self.seeds),
            recipe=self.training.resolve(self.data, self.model),
            ablations=self.ablations,
            init=self.init,
            samples_per_class=self.samples_per_class,
            train_size=self.train_size,
        )
        data_dir = None if self.data_dir is None else str(self.data_dir)
        check(experiments, data_dir=data_dir)
        device = resolve_device(self.device)
        _out.print(
            f"{len(experiments)} runs: {self.model} on {self.data}, {len(self.methods)} methods x "
            f"{len(chosen)} densities x {self.seeds} seeds, {experiments[0].recipe.epochs} epochs, on {device}",
            highlight=False,
        )
        try:
            with live(experiments, console=_out) as on_event:
                records = run_all(
                    experiments, out=self.out, data_dir=data_dir, device=device, jobs=self.jobs, on_event=on_event
                )
        except KeyboardInterrupt:
            _err.print(
                f"\ninterrupted. Finished runs are kept in {self.out}; run the same command again to go on from there",
                highlight=False,
            )
            return 130
        for table in [*console_table(records, width=_out.width), *structure_table(records)]:
            _out.print(table)
        failed = sum(record.status == "failed" for record in records)
        _print_report(write_report(self.out))
        if failed:
            _err.print(f"{failed} of {len(records)} runs failed; the report says why, and running again repeats them")
        return 1 if failed else 0

    def _densities(self) -> list[float]:
        given = [*({"density": d} for d in self.densities), *({"sparsity": s} for s in self.sparsities)]
        given += [{"compression": c} for c in self.compressions]
        if sum(map(bool, (self.densities, self.sparsities, self.compressions))) > 1:
            raise TypeError("give only one of --densities, --sparsities and --compressions")
        return [as_density(**one) for one in given] or [0.2, 0.05, 0.02, 0.01]


@dataclass(frozen=True)
class Prune:
    """Prune one network and write the masks. Prints how many weights each layer keeps.

    foreprune prune --model resnet-20 --method synflow --density 0.05 --input-shape 3 32 32
    foreprune prune --model my.package:build --method snip --sparsity 0.9 --data mnist --data-dir ~/data
    """

    model: str
    """a network of the zoo, or package.module:factory (given input_shape, classes and seed if it takes them)"""
    method: str
    """method, with settings as name:setting=value"""
    density: float | None = None
    """fraction of weights to keep"""
    sparsity: float | None = None
    """or: fraction to remove"""
    compression: float | None = None
    """or: total over kept weights"""
    data: str | None = None
    """data set to score on (data-driven methods), which also sets input shape and classes"""
    data_dir: Path | None = None
    """folder with the data; default: the environment variable FOREPRUNE_DATA"""
    input_shape: tuple[int, int, int] = (3, 32, 32)
    """channels, height, width of an input, where no data set says it"""
    classes: int = 10
    """number of classes, where no data set says it"""
    weights: Path | None = None
    """initial weights, a safetensors file of the state dict; default: drawn from the seed"""
    init: str = "kaiming-normal-fan-in"
    """distribution of the initial weights (zoo networks)"""
    samples_per_class: int = 10
    """training images of each class that data-driven methods look at"""
    exclude: tuple[str, ...] = ()
    """parts not to prune: module names, globs, or re:expression"""
    scope: Literal["global", "local"] = "global"
    """compare scores over all layers, or keep the same fraction in each"""
    seed: int = 0
    """of weights and masks"""
    out: Path = Path("masks.safetensors")
    """file to write"""

    def run(self) -> int:
        from foreprune.experiments.single import prune_once

        density = as_density(density=self.density, sparsity=self.sparsity, compression=self.compression)
        name, hyper = parse_method(self.method)
        with _out.status(f"pruning {self.model} with {name}"):
            masks = prune_once(
                model=self.model,
                method=name,
                hyper=hyper,
                density=density,
                data=self.data,
                data_dir=self.data_dir,
                input_shape=self.input_shape,
                classes=self.classes,
                weights=self.weights,
                init=self.init,
                samples_per_class=self.samples_per_class,
                exclude=self.exclude,
                scope=self.scope,
                seed=self.seed,
            )
            masks.save(self.out, metadata={"model": self.model})
        _print_layers(masks)
        _out.print(f"wrote {self.out}", highlight=False, soft_wrap=True)
        return 0


@dataclass(frozen=True)
class Train:
    """Train one network, sparse if masks are given, and write weights and training curve.

    foreprune train --model lenet-300-100 --data mnist --data-dir ~/data --masks masks.safetensors
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
    """distribution of the initial weights (zoo networks)"""
    training: Annotated[Training, tyro.conf.arg(name="")] = Training()
    seed: int = 0
    """of weights and order of the data; the same as in `foreprune prune` gives the weights that were pruned"""
    out: Path = Path("runs/train")
    """output folder: weights.safetensors, history.json, and a checkpoint to continue from if interrupted"""
    device: Device = "auto"
    """where to run"""

    def run(self) -> int:
        from foreprune.experiments.check import resolve_device
        from foreprune.experiments.single import train_once

        try:
            train_once(
                model=self.model,
                data=self.data,
                data_dir=self.data_dir,
                masks=self.masks,
                weights=self.weights,
                init=self.init,
                recipe=self.training.resolve(self.data, self.model),
                seed=self.seed,
                out=self.out,
                device=resolve_device(self.device),
                console=_out,
            )
        except KeyboardInterrupt:
            _err.print(f"\ninterrupted. Run the same command again to go on from the checkpoint in {self.out}")
            return 130
        return 0


@dataclass(frozen=True)
class Analyze:
    """Measure what masks leave of a network: densities, widths, paths, path-kernel trace, MACs. Without masks, the
    dense one.

    foreprune analyze --model resnet-20 --masks masks.safetensors --input-shape 3 32 32 --out analysis.json
    """

    model: str
    """a network of the zoo, or package.module:factory"""
    masks: Path | None = None
    """masks written by `foreprune prune`"""
    input_shape: tuple[int, int, int] = (3, 32, 32)
    """channels, height, width of an input"""
    classes: int = 10
    """number of classes"""
    weights: Path | None = None
    """weights, a safetensors file of the state dict; default: drawn from the seed"""
    init: str = "kaiming-normal-fan-in"
    """distribution of the initial weights (zoo networks)"""
    seed: int = 0
    """of the weights; the same as in `foreprune prune`"""
    out: Path | None = None
    """also write all numbers to this JSON file"""

    def run(self) -> int:
        from foreprune.experiments.single import analyze_once

        with _out.status(f"analysing {self.model}"):
            found = analyze_once(
                model=self.model,
                masks=self.masks,
                input_shape=self.input_shape,
                classes=self.classes,
                weights=self.weights,
                init=self.init,
                seed=self.seed,
                out=self.out,
            )
        _out.print(found)
        if self.out is not None:
            _out.print(f"wrote {self.out}", highlight=False, soft_wrap=True)
        return 0


@dataclass(frozen=True)
class Methods:
    """List the pruning methods: what each keeps, where it comes from, what it needs.

    With names, everything about those: formula, settings, what the authors' code does differently.
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """methods to describe in full"""
    recipes: bool = False
    """list the training recipes instead"""

    def run(self) -> int:
        if self.recipes:
            _print_recipes()
            return 0
        from foreprune.methods import method, methods

        for name in self.names:
            found = method(name)
            paragraphs = [" ".join(part.split()) for part in found.doc.split("\n\n")[1:]]
            _out.print("\n\n".join([str(found), *paragraphs]) + "\n", markup=False, highlight=False)
        if not self.names:
            from rich.table import Table

            table = Table("method", "needs", "settings", "paper", box=None, pad_edge=False, header_style="bold")
            for found in methods():
                needs = "labels" if "labels" in found.needs else "input shape" if found.needs else "-"
                settings = ", ".join(f"{key}={value}" for key, value in found.hyper.items()) or "-"
                table.add_row(found.name, needs, settings, found.paper)
            _out.print(table, markup=False)
        return 0


@dataclass(frozen=True)
class Report:
    """Draw the report again from the records of a folder."""

    folder: tyro.conf.Positional[Path] = Path("runs/compare")
    """folder that `foreprune compare` wrote"""
    out: Path | None = None
    """where to write; default: the same folder"""

    def run(self) -> int:
        from foreprune.experiments.store import read_records
        from foreprune.report.render import write_report
        from foreprune.report.structure import structure_table
        from foreprune.report.tables import console_table

        page = write_report(self.folder, out=self.out)
        records = read_records(self.folder).records
        for table in [*console_table(records, width=_out.width), *structure_table(records)]:
            _out.print(table)
        _print_report(page)
        return 0


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    _err.print(f"warning: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def _print_report(page: Path) -> None:
    _out.print(f"report: {page.resolve()}", highlight=False, soft_wrap=True)


def _print_layers(masks: Masks) -> None:
    from rich.table import Table

    table = Table("layer", "shape", "kept", "total", "density", box=None, pad_edge=False, header_style="bold")
    for column in table.columns[2:]:
        column.justify = "right"
    for name, (kept, total) in masks.layer_counts().items():
        shape = "x".join(map(str, masks.shapes[name]))
        table.add_row(name, shape, f"{kept:,}", f"{total:,}", f"{kept / max(total, 1):.4f}")
    _out.print(table, markup=False)
    _out.print(
        f"kept {masks.kept}/{masks.total} (density {masks.density:.6g}, sparsity {masks.sparsity:.6g})", highlight=False
    )


def _print_recipes() -> None:
    from rich.table import Table

    from foreprune.training.recipes import SOURCES

    table = Table(
        "recipe", "epochs", "batch", "optimizer", "lr", "source", box=None, pad_edge=False, header_style="bold"
    )
    for name, value in RECIPES.items():
        table.add_row(name, str(value.epochs), str(value.batch_size), value.optimizer, f"{value.lr:g}", SOURCES[name])
    _out.print(table, markup=False)


def main() -> None:
    """Entry point of the `foreprune` command."""
    commands: dict[str, Callable[..., Any]] = {
        "compare": Compare,
        "prune": Prune,
        "analyze": Analyze,
        "train": Train,
        "methods": Methods,
        "report": Report,
    }
    command = tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="foreprune",
        description="Prune neural networks before training them. `foreprune compare` shows what that does.",
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    warnings.showwarning = _show_warning
    try:
        code = command.run()
    except (ValueError, TypeError, OSError, ImportError) as error:
        _err.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        code = 2
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
