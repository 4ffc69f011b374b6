"""Many steps under one trainer, with one thing after another switched on: a program, alone or started by torchrun.

python -m integrations.runs TRAINER LAYOUT STEPS FOLDER FEATURE...

Process 0 writes FOLDER/<feature>.json for each feature: what `integrations.runs.common.Cell` found, or the error. Where
processes count what they hold, it is the sum.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
from integrations.runs.common import Cell, Found, barrier, rank, world

PARTS = ("revived", "loaded")  # counted by each process in what it holds
CONTROL = 20  # steps that nothing masks


def main() -> None:
    trainer, layout, steps, folder, *features = sys.argv[1:]
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if layout != "single":
        torch.distributed.init_process_group("gloo")
    run = importlib.import_module(f"integrations.runs.{trainer}").run
    for feature in features:
        torch._dynamo.reset() if feature == "compile" else None
        place = Path(folder) / feature
        place.mkdir(exist_ok=True)
        cell = Cell(layout, feature, CONTROL if feature == "unmasked" else int(steps), place)
        try:
            run(cell)
            found = cell.found
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        together = gathered(found)
        if rank() == 0:
            (Path(folder) / f"{feature}.json").write_text(json.dumps(together))
    barrier()
    os._exit(0)  # threads of gloo now and then abort while the interpreter shuts down


def gathered(found: Found) -> Found:
    """Of all processes."""
    if world() == 1:
        return found
    parts: list[Any] = [None] * world()
    torch.distributed.all_gather_object(parts, found)
    if errors := [part for part in parts if "error" in part]:
        return dict(errors[0])
    first: Found = parts[0]
    for name in first:
        if name not in PARTS:
            assert all(part[name] == first[name] for part in parts), f"processes differ in {name}"
    return first | {name: sum(part[name] for part in parts) for name in PARTS if name in first}


if __name__ == "__main__":
    main()
