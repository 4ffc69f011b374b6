"""`python -m benchmarks recall`: what methods leave of attention, and what that costs a trained network.

Two tasks, each with a two-layer `nn.TransformerEncoder` and 1,500 steps of AdamW. `recall`: eight pairs of a key and a
value, then a key, whose value is asked for (accuracy on new sequences). `text`: the next character of Python's own
documentation, of which the last tenth is held out (bits per character). `--variants` compares ways to treat queries and
keys (`benchmarks/attention.py`). Runs that stand in the file of `--out` are not made again, so a command that was
stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import foreprune as fp
from benchmarks.attention import choose, kept, shares, sharpened
from benchmarks.attention_tasks import SIZE, TASKS, TOY, Drawn, Size
from foreprune.analysis.statistics import mean_interval, spread
from foreprune.core.net import isolated_randomness
from foreprune.records.provenance import commit
from foreprune.training.fit import fit
from foreprune.training.recipes import Recipe

METHODS = (
    *("dense", "erk", "er", "random", "uniform", "magnitude"),
    *("snip", "iterative-snip", "force", "grasp", "synflow", "synflow-l2", "px", "phew", "ntk-sap"),
)
_RESULT = {"recall": "accuracy", "text": "bits"}
_EPOCHS = 10  # the recipe counts epochs: each is a tenth of the steps
_FIRST_SEED = {"network": 1_000, "scoring": 2_000, "tests": 3_000}  # so that no two draws of a run are alike
FIELDS = (
    *("task", "method", "variant", "density", "seed", "accuracy", "bits", "kept", "total", "queries", "keys", "values"),
    *("empty", "warned", "steps", "seconds", "commit", "foreprune", "torch", "python"),
)


@dataclass(frozen=True)
class Run:
    """One training: which network, pruned how, with which seed."""

    task: str
    method: str
    variant: str
    density: float
    seed: int

    @property
    def cell(self) -> tuple[str, ...]:
        """How a file of results names it."""
        return (self.task, self.method, self.variant, f"{self.density:g}", str(self.seed))


def runs_of(
    tasks: Iterable[str],
    methods: Iterable[str],
    variants: Iterable[str],
    densities: Iterable[float],
    seeds: Iterable[int],
) -> list[Run]:
    """Seed by seed; a dense network has one density and no variants, random ones with a budget of their own neither."""
    found: dict[Run, None] = {}
    for seed, task, density, method, variant in itertools.product(seeds, tasks, densities, methods, variants):
        dense = method == "dense"
        found[Run(task, method, "default" if dense else variant, 1.0 if dense else density, seed)] = None
    return list(found)


def carry_out(run: Run, size: Size) -> dict[str, Any]:
    """Prune, train, test; a row of `FIELDS`."""
    task = TASKS[run.task](size)
    with isolated_randomness(_FIRST_SEED["network"] + run.seed):
        model = task.network()
    with isolated_randomness(_FIRST_SEED["scoring"] + run.seed):
        data = task.scoring()
    with isolated_randomness(_FIRST_SEED["tests"]):
        tests = task.tests()
    row: dict[str, Any] = dict(zip(("task", "method", "variant", "density", "seed"), run.cell, strict=True))
    masks = None
    if run.method != "dense":
        masks, warned = choose(model, run.method, variant=run.variant, density=run.density, seed=run.seed, data=data)
        row |= {"kept": masks.kept, "total": masks.total, **kept(masks), "warned": int(warned)}
    recipe = Recipe(epochs=_EPOCHS, optimizer="adamw", lr=5e-3, weight_decay=0.01, schedule="cosine")
    began = time.perf_counter()
    steps = size.steps // _EPOCHS
    curve = fit(
        model, Drawn(task, steps), tests, recipe=recipe, masks=masks, seed=run.seed, evaluate_every=_EPOCHS
    ).curve
    loss, top1 = curve[-1].test_loss, curve[-1].test_top1
    assert loss is not None
    assert top1 is not None
    return row | {
        "accuracy": f"{top1:.4f}",
        "bits": f"{loss / math.log(2):.4f}",
        "steps": steps * _EPOCHS,
        "seconds": round(time.perf_counter() - began, 1),
        "commit": commit(),
        "foreprune": fp.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a file of results; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Mean ± standard deviation over seeds of each task's own result, and its difference from erk, seed by seed, with
    the 95 % interval; densities of queries and keys, and in how many runs pruning warned."""
    titles = ("task", "density", "method", "variant", "n", "result", "minus erk [95 % CI]", "q", "k", "v", "warned")
    lines = [titles, tuple("---" for _ in titles)]
    groups: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        name = tuple(str(row[key]) for key in ("task", "density", "method", "variant"))
        groups.setdefault(name, {})[str(row["seed"])] = row
    for (task, density, method, variant), found in sorted(
        groups.items(), key=lambda item: (item[0][0], -float(item[0][1]))
    ):
        values = {seed: float(row[_RESULT[task]]) for seed, row in found.items()}
        measured = spread(values.values())
        assert measured is not None
        spreads = f"{measured.mean:.3f}" + ("" if measured.std is None else f" ± {measured.std:.3f}")
        references = groups.get((task, density, "erk", "default"), {})
        pairs = [value - float(references[seed][_RESULT[task]]) for seed, value in values.items() if seed in references]
        against = "-"
        if len(pairs) > 1 and method != "erk":
            difference = mean_interval(pairs)
            against = f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
        parts = [_mean(found.values(), key) for key in ("queries", "keys", "values")]
        warned = "" if method == "dense" else f"{sum(int(row['warned']) for row in found.values())} of {len(found)}"
        lines.append((task, density, method, variant, str(measured.n), spreads, against, *parts, warned))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mean(rows: Iterable[Mapping[str, Any]], key: str) -> str:
    found = spread(float(row[key]) if row.get(key) not in (None, "") else None for row in rows)
    return "" if found is None else f"{found.mean:.3f}"


def shares_table(size: Size) -> str:
    """Which share of all scores each kind of block has, seed 0, as drawn and with attention scores 8 and 64 times."""
    lines: list[tuple[str, ...]] = []
    for name, make in TASKS.items():
        task = make(size)
        with isolated_randomness(_FIRST_SEED["network"]):
            model = task.network()
        with isolated_randomness(_FIRST_SEED["scoring"]):
            data = task.scoring()
        for method, times in itertools.product(("snip", "grasp"), (1, 8, 64)):
            found = shares(sharpened(model, times), method, data)
            if not lines:
                lines = [("task", "method", "attention scores", *found), ("---",) * (3 + len(found))]
            lines.append((name, method, f"x {times}", *(f"{100 * share:.1f} %" for share in found.values())))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks recall", description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="default: both")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help=f"default: {' '.join(METHODS)}")
    parser.add_argument("--variants", nargs="+", default=["default"], help="see benchmarks/attention.py")
    parser.add_argument("--densities", nargs="+", type=float, default=[0.3, 0.1, 0.05], help="default: 0.3 0.1 0.05")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--out", type=Path, default=Path("runs/recall.csv"), help="CSV file (default: runs/recall.csv)")
    parser.add_argument("--rehearse", action="store_true", help="at toy size, in seconds")
    parser.add_argument("--table", action="store_true", help="print the table of the file and run nothing")
    parser.add_argument("--shares", action="store_true", help="print which blocks have how much of the scores instead")
    chosen = parser.parse_args(arguments)
    if chosen.shares:
        print(shares_table(TOY if chosen.rehearse else SIZE))
        return 0
    wanted = runs_of(chosen.tasks, chosen.methods, chosen.variants, chosen.densities, chosen.seeds)
    done = {tuple(row[key] for key in FIELDS[:5]) for row in read(chosen.out)}
    left = [] if chosen.table else [run for run in wanted if run.cell not in done]
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    failed = 0
    for number, run in enumerate(left, start=1):
        try:
            row = carry_out(run, TOY if chosen.rehearse else SIZE)
        except (ValueError, TypeError) as error:  # a method that refuses this network
            print(f"[{number}/{len(left)}] {' '.join(run.cell)}: {error}", file=sys.stderr, flush=True)
            failed += 1
            continue
        new = not chosen.out.exists()
        with chosen.out.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(f"[{number}/{len(left)}] {' '.join(run.cell)}: {row[_RESULT[run.task]]}", file=sys.stderr, flush=True)
    print(table(read(chosen.out)))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
