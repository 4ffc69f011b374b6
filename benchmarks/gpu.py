"""`python -m benchmarks gpu`: the published accuracies that need a GPU, beside ours.

Several runs share each GPU. A call ends after `--minutes`; the same command goes on from there, from a checkpoint
where a run was in the middle, until all are done. Whatever is finished stands in `--out`, with the table in
`table.txt`. `--rehearse` does the same at toy size on the CPU, in minutes and without data files. From a clean clone it
runs with `PYTHONPATH=src`, torch, NumPy, safetensors, pydantic, rich, and pyarrow and Pillow for CIFAR-10.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from foreprune.papers.published import Published
    from foreprune.records import Experiment, Record
    from foreprune.runner import Event

_JOBS_PER_GPU = 4  # small networks leave most of a GPU idle; with more at once each takes as much longer
_MARGIN = 15.0  # seconds before the end of the time in which runs are stopped and the table is written
_QUIET = 60.0  # seconds without a line, after which one says how far the runs are
_NEEDED = {"pydantic": "pydantic", "rich": "rich", "safetensors": "safetensors"}
_READS_CIFAR = {"pyarrow": "pyarrow", "PIL": "pillow"}


@dataclass(frozen=True)
class Part:
    """Runs of one kind, in the order in which they are carried out."""

    name: str
    runs: tuple[Experiment, ...]


def parts() -> tuple[Part, ...]:
    """The runs that need a GPU, those with published numbers first; the ones of a paper's entry have its ids.

    Left out, because TinyImageNet is needed: ResNet-18 of NTK-SAP and of Frankle et al., figure 5.
    """
    from foreprune.papers import gebhart, lee, ntksap, tanaka
    from foreprune.papers.setting import powers

    late = powers(0.8, (18, 14))  # 98.2 and 95.6 % sparsity
    compared = ("synflow", "ntk-sap", "grasp", "random", "magnitude", "snip")
    fc = [setting for setting in gebhart.FC if setting.model in ("fc-500", "fc-1000")]
    return (
        Part("resnet-20", ntksap.RESNET_20.runs(*compared, densities=late)),
        Part("vgg-16", tanaka.VGG_16.runs("synflow", "snip", "magnitude", "random", densities=powers(10, (-2, -3)))),
        Part("lenet-5", lee.LENET_5.runs("snip", ablations=("reinit",), plain=False)),
        Part("fc", tuple(run for setting in fc for run in setting.runs(*gebhart.PRUNERS))),
    )


def toys() -> tuple[Part, ...]:
    """What a rehearsal runs: the same methods on scikit-learn's digits."""
    from foreprune.papers.setting import smoke

    setting = smoke("resnet-8", seeds=2).shrunk(epochs=10, densities=(0.2,), seeds=2)
    return (Part("resnet-8", setting.runs("synflow", "random", "snip")),)


def ordered(chosen: Sequence[Part]) -> tuple[Experiment, ...]:
    """Part by part, and in each seed by seed, the dense network after the pruned ones of its seed."""
    return tuple(run for part in chosen for run in sorted(part.runs, key=lambda run: (run.seed, run.method == "dense")))


_WORDS = {"best accuracy": "best epoch", "error": "error"}


@dataclass(frozen=True)
class Line:
    """One line of the table: the runs of all seeds, and the published number if there is one."""

    runs: tuple[Experiment, ...]
    published: Published | None = None

    @property
    def label(self) -> str:
        """Network, method with its settings, and sparsity."""
        run = self.runs[0]
        settings = ",".join(f"{key}={value}" for key, value in run.hyper.items())
        method = f"{run.method}:{settings}" if settings else run.method
        return " ".join([run.model, method, *([] if run.method == "dense" else [f"{100 * run.sparsity:.4g} %"])])


def lines(runs: Sequence[Experiment]) -> tuple[Line, ...]:
    """A line for every network, method and density, each with the published number for just these runs."""
    from foreprune.papers.published import PUBLISHED, run_ids

    networks = {run.model for run in runs}
    numbers = {name: number for number in PUBLISHED if number.model in networks for name in run_ids(number)}
    groups: dict[tuple[Any, ...], list[Experiment]] = {}
    for run in runs:
        groups.setdefault((run.model, run.method, str(run.hyper), run.ablation, run.density), []).append(run)
    return tuple(Line(tuple(group), numbers.get(group[0].id)) for group in groups.values())


def table(wanted: Sequence[Line], records: Mapping[str, Record]) -> str:
    """Published number, ours after the last and the best epoch in percent, and whether they agree: accuracies, or
    errors where an error is published.

    Args:
        records: of finished runs, by id.
    """
    from foreprune.analysis.statistics import spread
    from foreprune.papers.published import beside
    from foreprune.records import row_of

    rows: list[tuple[str, ...]] = [
        ("", "published", "ours, last epoch", "ours, best epoch", "seeds", "within tolerance")
    ]
    for line in wanted:
        found = [row_of(records[run.id]) for run in line.runs if run.id in records]
        measured = [spread(row[key] for row in found) for key in ("top1", "best_top1")]
        number, published, verdict = line.published, "-", "-"
        error = number is not None and number.measure == "error"
        cells = ["-" if one is None else _percent(1 - one.mean if error else one.mean, one.std) for one in measured]
        if number is not None:
            published = f"{number.value:.2f}{'' if number.measure == 'accuracy' else f', {_WORDS[number.measure]}'}"
            pairs = beside(found, [number])
            verdict = "not run" if not pairs else _verdict(pairs[0].agrees, pairs[0].difference, number.within)
        rows.append((line.label, published, *cells, f"{len(found)} of {len(line.runs)}", verdict))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _percent(mean: float, std: float | None) -> str:
    return f"{100 * mean:.2f}" + ("" if std is None else f" ± {100 * std:.2f}")


def _verdict(agrees: bool, difference: float, within: float) -> str:
    return f"{'yes' if agrees else 'NO'}, {difference:+.2f} of ±{within:g}"


def notes(records: Mapping[str, Record]) -> list[str]:
    """What must be said beside the numbers: the images, and where they were trained."""
    facts = [record.environment for record in records.values()]
    said = [str(fact["data_note"]) for fact in facts if "data_note" in fact]
    made = [f"torch {fact['versions']['torch']}, commit {fact['commit']}" for fact in facts if "versions" in fact]
    return list(dict.fromkeys([*said, *made]))


class Printer:
    """A line for every run that ends, and now and then one on those under way."""

    def __init__(self, wanted: Sequence[Line], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._published = {run.id: line for line in wanted for run in line.runs}
        self._clock, self._begun, self._last = clock, clock(), clock()
        self._under_way: dict[str, str] = {}
        self.skipped = 0

    def take(self, event: Event) -> None:
        """Note what happened, and print it if it is worth a line."""
        run = event.experiment
        line = self._published[run.id]
        name = f"{line.label} seed {run.seed}"
        if event.kind == "skipped":
            self.skipped += 1
        elif event.kind == "epoch" and event.epoch is not None:
            self._under_way[run.id] = f"{name} {event.epoch.epoch} of {run.recipe.epochs} epochs"
            if self._clock() - self._last >= _QUIET:
                self._print("under way: " + "; ".join(self._under_way.values()))
        elif event.kind in ("retried", "damaged"):
            self._print(f"{name}: {event.kind}, {event.note}")
        elif event.kind == "ended" and event.record is not None:
            self._under_way.pop(run.id, None)
            self._print(f"{name}: {self._result(line, event.record)}")

    def _result(self, line: Line, record: Record) -> str:
        from foreprune.records import row_of

        if record.status == "failed":
            return f"FAILED, {record.error}"
        row = row_of(record)
        number = line.published
        best = f" (best epoch {_percent(row['best_top1'], None)})" if row["best_top1"] is not None else ""
        error = " (error)" if number is not None and number.measure == "error" else ""
        published = "-" if number is None else f"{number.value:.2f}{error}"
        return f"{_percent(row['top1'], None)} %{best}, published {published}"

    def _print(self, text: str) -> None:
        self._last = self._clock()
        print(f"[{(self._last - self._begun) / 60:5.1f} min] {text}", flush=True)


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Raise KeyboardInterrupt in the main thread, as Ctrl-C does, unless the body ends before."""
    timer = threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def carry_out(
    runs: Sequence[Experiment], *, out: Path, data_dir: str | None, device: str, jobs: int, seconds: float
) -> int:
    """Do what is left of `runs` for so many seconds, print and write the table; 1 if some failed, else 0."""
    from foreprune.records import finished
    from foreprune.runner import run_all

    wanted = lines(runs)
    out.mkdir(parents=True, exist_ok=True)
    printer = Printer(wanted)
    stopped = False
    try:
        with interrupted_after(seconds):
            run_all(runs, out=out, data_dir=data_dir, device=device, jobs=jobs, on_event=printer.take)
    except KeyboardInterrupt:
        stopped = True
    found = ((run.id, finished(out, run)) for run in runs)
    records = {name: record for name, record in found if record is not None and record.status == "finished"}
    text = "\n".join([table(wanted, records), "", *notes(records), ""])
    (out / "table.txt").write_text(text, encoding="utf-8")
    print(text, flush=True)
    print(f"{len(records)} of {len(runs)} runs are finished, {printer.skipped} of them before this call", flush=True)
    if stopped:
        print("stopped; run the same command again, it goes on from the last checkpoints", flush=True)
        return 0
    return int(len(records) < len(runs))


def missing(packages: Mapping[str, str]) -> list[str]:
    """The names under which pip knows those of `packages` (module -> name) that are not installed."""
    return [name for module, name in packages.items() if importlib.util.find_spec(module) is None]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code: 0 if all is done or the time is up, 1 if runs failed, 2 if it cannot be done here."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of the results (default: runs/gpu, or runs/gpu-rehearsal)")
    parser.add_argument("--minutes", type=float, default=8.0, help="of this call, at most (default: 8)")
    parser.add_argument("--data-dir", help="folder of the images (default: FOREPRUNE_DATA)")
    parser.add_argument("--jobs", type=int, default=0, help=f"runs at a time (default: {_JOBS_PER_GPU} on each GPU)")
    parser.add_argument("--only", nargs="+", metavar="PART", help="of resnet-20, vgg-16, lenet-5, fc")
    parser.add_argument("--rehearse", action="store_true", help="at toy size on the CPU")
    parser.add_argument("--list", action="store_true", help="name the runs in their order and the numbers; run nothing")
    chosen = parser.parse_args(arguments)
    if chosen.minutes * 60 <= 2 * _MARGIN:
        parser.error(f"--minutes must be above {2 * _MARGIN / 60:g}, not {chosen.minutes:g}")
    if lacking := missing(_NEEDED):
        return _refuse(f"{', '.join(lacking)} not installed: pip install {' '.join(lacking)}")
    kinds = toys() if chosen.rehearse else parts()
    if unknown := sorted(set(chosen.only or ()) - {part.name for part in kinds}):
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(part.name for part in kinds)}")
    kept = [part for part in kinds if part.name in (chosen.only or [part.name])]
    runs = ordered(kept)
    if chosen.list:
        print("\n".join(run.id for run in runs), "", table(lines(runs), {}), sep="\n")
        return 0
    if not chosen.rehearse:
        if not torch.cuda.is_available():
            return _refuse("no GPU: torch sees no CUDA device here; --rehearse runs the same at toy size on the CPU")
        if any(part.name != "fc" for part in kept) and (lacking := missing(_READS_CIFAR)):
            return _refuse(f"CIFAR-10 as Parquet needs {', '.join(lacking)}: pip install {' '.join(lacking)}")
        print(", ".join(torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())), flush=True)
    from foreprune.experiments import check
    from foreprune.runner.placement import cores

    try:
        check(runs, data_dir=chosen.data_dir)
    except (FileNotFoundError, ImportError) as error:
        return _refuse(str(error))
    most = 2 if chosen.rehearse else _JOBS_PER_GPU * torch.cuda.device_count()
    return carry_out(
        runs,
        out=chosen.out or Path("runs/gpu-rehearsal" if chosen.rehearse else "runs/gpu"),
        data_dir=chosen.data_dir,
        device="cpu" if chosen.rehearse else "cuda",
        jobs=chosen.jobs or min(cores(), most),
        seconds=max(1.0, chosen.minutes * 60 - _MARGIN - (time.monotonic() - began)),
    )


def _refuse(reason: str) -> int:
    print(reason, file=sys.stderr, flush=True)
    return 2
