"""`foreprune compare` and `foreprune report`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from foreprune.cli.arguments import Execution, Training
from foreprune.cli.execution import carry_out
from foreprune.cli.printing import count, print_report, print_tables
from foreprune.core.density import as_density
from foreprune.experiments import grid


@dataclass(frozen=True)
class Compare:
    """Prune, train and test with several methods, densities and seeds; tables, report.

    * Without arguments: the demo, on 1,797 real images of handwritten digits.
    * The same command again skips finished runs and continues the others.

      foreprune compare
      foreprune compare --data mnist --data-dir ~/data --densities 0.1 0.02 \\
          --methods random snip synflow magnitude-after --ablations shuffle
    """

    methods: tuple[str, ...] = ("random", "erk", "magnitude", "snip", "grasp", "synflow")
    """names of `foreprune methods`, with settings (grasp:keep=magnitude snip:gates=score), after steps (snip@1000)"""
    densities: tuple[float, ...] = ()
    """fractions of weights to keep; default 0.2 0.05 0.02 0.01"""
    sparsities: tuple[float, ...] = ()
    """or: fractions of weights to remove"""
    compressions: tuple[float, ...] = ()
    """or: total over kept weights"""
    seeds: int = 3
    """how many seeds, from 0 on; a seed decides weights, masks and order of the data"""
    data: str = "digits"
    """digits, mnist, cifar-10, cifar-100, (modified-)tiny-imagenet, imagenet, digits- or mnist-transformation"""
    model: str = "lenet-300-100"
    """a network of the zoo, or package.module:factory"""
    ablations: tuple[str, ...] = ()
    """also run every method with each of these changes, such as shuffle or widen:0.5; `foreprune methods` lists them"""
    init: str = "kaiming-normal-fan-in"
    """distribution of the initial weights (zoo networks), with +uniform-scale of batch normalization's scales too"""
    training: Annotated[Training, tyro.conf.arg(name="")] = field(default_factory=Training)
    samples_per_class: int = 10
    """training images of each class that data-driven methods look at"""
    train_size: int = 0
    """train on so many images only; 0 for all"""
    out: Path = Path("runs/compare")
    """output folder: records, masks, report"""
    execution: Annotated[Execution, tyro.conf.arg(name="")] = field(default_factory=Execution)

    def run(self) -> int:
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
        counts = ((len(self.methods), "method"), (len(chosen), "density"), (self.seeds, "seed"))
        size = " x ".join(count(*each) for each in counts)
        title = (
            f"{count(len(experiments), 'run')}: {self.model} on {self.data}, {size} and the dense network, "
            f"{count(experiments[0].recipe.epochs, 'epoch')}"
        )
        return carry_out(experiments, out=self.out, execution=self.execution, title=title)

    def _densities(self) -> list[float]:
        given = [*({"density": d} for d in self.densities), *({"sparsity": s} for s in self.sparsities)]
        given += [{"compression": c} for c in self.compressions]
        if sum(map(bool, (self.densities, self.sparsities, self.compressions))) > 1:
            raise TypeError("give only one of --densities, --sparsities and --compressions")
        return [as_density(**one) for one in given] or [0.2, 0.05, 0.02, 0.01]


@dataclass(frozen=True)
class Report:
    """Make the report again, from the records of a folder or the table of a report.

    From a table, what needs layers, masks or training curves is left out.

      foreprune report runs/compare
      foreprune report docs/results/first-run/records.csv --out report
    """

    folder: tyro.conf.Positional[Path] = Path("runs/compare")
    """folder that `foreprune compare` or `foreprune sweep` wrote, or the `records.csv` of a report"""
    out: Path | None = None
    """where to write; default: the same folder"""

    def run(self) -> int:
        from foreprune.records import read_records
        from foreprune.report import write_report

        page = write_report(self.folder, out=self.out)
        print_tables(read_records(self.folder).records)
        print_report(page)
        return 0
