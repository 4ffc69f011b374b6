"""`foreprune compare` and `foreprune report`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from foreprune.cli.shared import Device, Training, errors, print_report, screen
from foreprune.core.density import as_density
from foreprune.experiments.plan import grid


@dataclass(frozen=True)
class Compare:
    """Prune, train and test with several methods, densities and seeds; print a table and write a report.

    Without arguments: the demo, on 1,797 real images of handwritten digits that come with scikit-learn. Finished runs
    are kept in the output folder; the same command again skips them and continues what was interrupted.

    foreprune compare --data mnist --data-dir ~/data --methods random snip synflow --densities 0.1 0.02
    """

    methods: tuple[str, ...] = ("random", "erk", "magnitude", "snip", "grasp", "synflow")
    """methods to compare, with settings as name:setting=value, e.g. grasp:keep=magnitude; snip@1000 prunes after 1,000
    steps of dense training"""
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
    ablations: tuple[str, ...] = ()
    """also run every method with its masks shuffled within layers (shuffle) or over lost units too (widen:0.5), its
    weights drawn anew (reinit, reinit-layer, reinit-neuron), or its scores inverted (invert)"""
    init: str = "kaiming-normal-fan-in"
    """distribution of the initial weights (zoo networks)"""
    training: Annotated[Training, tyro.conf.arg(name="")] = field(default_factory=Training)
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
        counts = ((len(self.methods), "method"), (len(chosen), "density"), (self.seeds, "seed"))
        size = " x ".join(_count(*each) for each in counts)
        screen.print(
            f"{len(experiments)} runs: {self.model} on {self.data}, {size} and the dense network, "
            f"{experiments[0].recipe.epochs} epochs, on {device}",
            highlight=False,
        )
        try:
            with live(experiments, console=screen) as on_event:
                records = run_all(
                    experiments, out=self.out, data_dir=data_dir, device=device, jobs=self.jobs, on_event=on_event
                )
        except KeyboardInterrupt:
            errors.print(
                f"\ninterrupted. Finished runs are kept in {self.out}; run the same command again to go on from there",
                highlight=False,
            )
            return 130
        trained = [record for record in records if record.experiment.recipe.epochs or record.status == "failed"]
        for table in [*console_table(trained, width=screen.width), *structure_table(records)]:
            screen.print(table)
        failed = sum(record.status == "failed" for record in records)
        print_report(write_report(self.out))
        if failed:
            errors.print(f"{failed} of {len(records)} runs failed; the report says why, and running again repeats them")
        return 1 if failed else 0

    def _densities(self) -> list[float]:
        given = [*({"density": d} for d in self.densities), *({"sparsity": s} for s in self.sparsities)]
        given += [{"compression": c} for c in self.compressions]
        if sum(map(bool, (self.densities, self.sparsities, self.compressions))) > 1:
            raise TypeError("give only one of --densities, --sparsities and --compressions")
        return [as_density(**one) for one in given] or [0.2, 0.05, 0.02, 0.01]


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
        trained = [record for record in records if record.experiment.recipe.epochs or record.status == "failed"]
        for table in [*console_table(trained, width=screen.width), *structure_table(records)]:
            screen.print(table)
        print_report(page)
        return 0


def _count(number: int, word: str) -> str:
    plural = {"density": "densities"}.get(word, f"{word}s")
    return f"{number} {word if number == 1 else plural}"
