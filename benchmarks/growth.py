"""`python -m benchmarks growth`: how time and memory grow, of each method with the weights, of a sweep with its runs.

Writes `growth.png` and `growth.csv`, the figure of docs/performance.md.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

import foreprune as fp
from benchmarks.timing import peak_mb
from foreprune.experiments import grid, shortened
from foreprune.runner import run_all
from foreprune.training.recipes import recipe

WEIGHTS = (1e6, 3e6, 10e6, 30e6, 100e6)
RUNS = (8, 16, 32, 64)
METHODS: dict[str, dict[str, Any]] = {  # one round, one batch: what is repeated is repeated as often at every size
    "magnitude": {},
    "snip": {},
    "grasp": {},
    "synflow": {"rounds": 4},
    "ntk-sap": {"rounds": 1, "resamplings": 1},
    "phew": {},
}
_PLAN = (1, 1, "pool", 2, 2, "pool", 4, 4, 4, "pool", 8, 8, 8, "pool", 8, 8, 8)  # VGG-16, in units of width


def network(weights: float) -> nn.Module:
    """VGG-16 for 32 px as wide as gives about that many weights."""
    width = max(1, round(64 * (weights / 14.7e6) ** 0.5))
    layers: list[nn.Module] = []
    channels = 3
    for entry in _PLAN:
        if isinstance(entry, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [
                nn.Conv2d(channels, entry * width, 3, padding=1, bias=False),
                nn.BatchNorm2d(entry * width),
                nn.ReLU(),
            ]
            channels = entry * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def methods_rows() -> list[tuple[str, int, float, float]]:
    """(method, weights, seconds, MB) for a density of 5 %, batch 50."""
    rows = []
    x, y = torch.randn(50, 3, 32, 32), torch.arange(50) % 10
    for size in WEIGHTS:
        model = network(size)
        total = sum(p.numel() for p in model.parameters() if p.dim() > 1)
        for name, hyper in METHODS.items():

            def run(model: nn.Module = model, name: str = name, hyper: dict[str, Any] = hyper) -> None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", fp.LayerCollapse)
                    fp.prune(model, name, density=0.05, data=(x, y), inputs=x[:1], **hyper)

            rows.append((name, total, best_seconds(run), peak_mb(run, calls=1)))
            Console().print(f"{name}, {total:,} weights: {rows[-1][2]:.3g} s, {rows[-1][3]:,.0f} MB", highlight=False)
    return rows


def best_seconds(function: Callable[[], object], times: int = 2) -> float:
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        function()
        taken.append(time.perf_counter() - begun)
    return min(taken)


def sweep_rows() -> list[tuple[str, int, float, float]]:
    """("sweep", runs, seconds, MB of the runner) for runs of one epoch on the digits."""
    rows = []
    short = shortened(recipe("digits"), 1)
    for count in (4, *RUNS):  # the first imports everything and is not shown
        runs = grid(
            data="digits",
            model="lenet-300-100",
            methods=["random", "magnitude"],
            densities=[0.5, 0.2],
            seeds=range(count // 4),
            recipe=short,
        )
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            megabytes = peak_mb(lambda runs=runs, folder=folder: run_all(runs, out=folder), calls=1)  # type: ignore[misc]
            seconds = time.perf_counter() - begun
        if count == 4:
            continue
        rows.append(("sweep", len(runs), seconds, megabytes))
        Console().print(f"sweep, {rows[-1][1]} runs: {rows[-1][2]:.3g} s, {rows[-1][3]:.0f} MB", highlight=False)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks growth", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("docs/images"), help="folder to write to (default: docs/images)"
    )
    draw(parser.parse_args(arguments).out)


def draw(folder: Path) -> None:
    """growth.png and growth.csv in `folder`."""
    from matplotlib.figure import Figure

    by_weights, by_runs = methods_rows(), sweep_rows()
    figure = Figure(figsize=(11, 7), layout="constrained")
    panels = figure.subplots(2, 2)
    for column, (rows, label) in enumerate(((by_weights, "weights"), (by_runs, "runs"))):
        for line, (place, unit) in enumerate(((2, "seconds"), (3, "MB"))):
            _panel(panels[line][column], rows, place, label=label, unit=unit)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "growth.png", dpi=110)
    with (folder / "growth.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("what", "size", "seconds", "mb"))
        writer.writerows((*row[:2], f"{row[2]:.4g}", f"{row[3]:.4g}") for row in [*by_weights, *by_runs])


def _panel(axes: Any, rows: Sequence[tuple[Any, ...]], place: int, *, label: str, unit: str) -> None:
    for name in dict.fromkeys(row[0] for row in rows):
        points = [(row[1], row[place]) for row in rows if row[0] == name]
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    if label == "weights":
        axes.set(xscale="log", yscale="log")
    else:
        axes.set(xlim=(0, None), ylim=(0, 1.1 * max(row[place] for row in rows)))
    axes.set(xlabel=label, ylabel=unit)
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
