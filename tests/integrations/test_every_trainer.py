"""0 revived weights in 1,000 steps: every trainer, on one process and on two, with everything that people switch on."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from contract.extras import imported
from integrations.training_runs import FEATURES, TRAINERS

import foreprune

PROGRAM = Path(__file__).with_name("training_runs.py")
EXTRAS = {"transformers": "hf", "lightning": "lightning", "accelerate": "hf"}
STEPS = 1000


def need(trainer: str) -> None:
    """Skip by name where the library is missing."""
    if trainer in EXTRAS:
        try:
            imported(trainer)
        except ImportError:
            pytest.skip(f"needs {trainer}: pip install 'foreprune[{EXTRAS[trainer]}]'")


@functools.cache
def results(trainer: str, layout: str, features: tuple[str, ...]) -> dict[str, Any]:
    """Of all features, from one start of the program."""
    start = [sys.executable]
    if layout != "single":
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    path = os.pathsep.join([str(Path(foreprune.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*start, str(PROGRAM), trainer, layout, str(STEPS), folder, *features],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        found = {path.stem: json.loads(path.read_text()) for path in Path(folder).glob("*.json")}
    return {**found, "stderr": done.stderr[-4000:]}


def check(trainer: str, layout: str, feature: str, features: tuple[str, ...]) -> None:
    need(trainer)
    everything = results(trainer, layout, features)
    assert feature in everything, everything["stderr"]
    found = everything[feature]
    # loading the sharded state of an optimizer may take an empty step first
    assert found["steps"] - STEPS in ((0, 1) if (layout, feature) == ("fsdp2", "resume") else (0,))
    assert found["sharded"] is (layout == "fsdp2")
    expected = {"revived": 0, "end": 0}
    expected |= {"average": 0} if feature == "ema" else {}
    expected |= {"loaded": 0, "carried": True} if feature == "resume" else {}
    assert {name: found[name] for name in expected} == expected


EAGER = tuple(feature for feature in FEATURES if feature != "compile")


@pytest.mark.slow
@pytest.mark.timeout(1200)  # the first cell of a program runs all of them
@pytest.mark.parametrize("feature", EAGER)
@pytest.mark.parametrize("layout", ["single", "ddp", "fsdp2"])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_nothing_is_revived_in_1000_steps(trainer: str, layout: str, feature: str) -> None:
    check(trainer, layout, feature, EAGER)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # the first cell of a program runs all of them
@pytest.mark.parametrize("layout", ["single", "ddp"])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_nothing_is_revived_in_1000_compiled_steps(trainer: str, layout: str) -> None:
    check(trainer, layout, "compile", ("compile",))
