"""The matrix of trainers: which cells there are, how they are run, what is right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from contract.extras import EXTRAS, imported
from integrations.runs.__main__ import CONTROL

import foreprune

STEPS = 1000
TRAINERS = ("plain", "transformers", "lightning", "accelerate")
LAYOUTS = ("single", "ddp", "fsdp2")
FEATURES = ("resume", "compile", "ema", "timm", "clip", "accumulate", "bf16", "unmasked")
NO_COPY = "FSDP does not support deepcopy. Please use state dict for serialization."
ABSENT = {  # what others refuse -> how they say so
    (trainer, "fsdp2", "timm"): NO_COPY for trainer in TRAINERS
}
Found = dict[str, Any]


def need(name: str) -> None:
    """Raise ImportError, with the name of the extra, where a trainer or a feature is of a library that is missing."""
    if name in EXTRAS:
        imported(name)


def versions(trainer: str) -> str:
    """Of torch, timm and the trainer."""
    trainers = {"plain": (), "transformers": ("accelerate", "transformers")}.get(trainer, (trainer,))
    named = ("torch", "timm", *trainers)
    return ", ".join(f"{name} {version(name).partition('+')[0]}" for name in named)


def run(trainer: str, layout: str, features: Sequence[str] = FEATURES, *, steps: int = STEPS) -> dict[str, Found]:
    """feature -> what was found, from one start of the program, on one process or two.

    Raises:
        RuntimeError: the program did not come to an end.
    """
    start = [sys.executable]
    if layout != "single":
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    roots = [str(Path(foreprune.__file__).parents[1]), str(Path(__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(roots), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*start, "-m", "integrations.runs", trainer, layout, str(steps), folder, *features],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        found = {path.stem: json.loads(path.read_text()) for path in Path(folder).glob("*.json")}
    if missing := [feature for feature in features if feature not in found]:
        raise RuntimeError(f"nothing was found of {', '.join(missing)}:\n{done.stderr[-4000:]}")
    return found


def not_right(trainer: str, layout: str, feature: str, found: Found, *, steps: int = STEPS) -> str:
    """What is wrong with a cell; nothing if it is right."""
    if (sentence := ABSENT.get((trainer, layout, feature))) is not None:
        return "" if sentence in found.get("error", "") else f"not refused with {sentence!r}: {found}"
    if "error" in found:
        return str(found["traceback"])
    expected: Found = {"revived": 0, "end": 0, "still": 0, "sharded": layout == "fsdp2"}
    expected |= {"average": 0} if feature in ("ema", "timm") else {}
    expected |= {"on": True} if feature in ("compile", "clip", "accumulate", "bf16") else {}
    expected |= {"loaded": 0, "carried": True} if feature == "resume" else {}
    counts = found
    if feature == "unmasked":  # the same looks see what grows
        grown = ("revived", "end", "average")
        counts = {name: min(value, 1) if name in grown else value for name, value in found.items()}
        expected |= dict.fromkeys(grown, 1)
    taken = found["steps"] - (CONTROL if feature == "unmasked" else steps)
    # loading the sharded state of an optimizer may take an empty step first
    if taken not in ((0, 1) if (layout, feature) == ("fsdp2", "resume") else (0,)):
        return f"took {taken} steps more than it should: {found}"
    odd = {name: counts.get(name) for name, value in expected.items() if counts.get(name) != value}
    return f"{odd}, and should be {expected}" if odd else ""
