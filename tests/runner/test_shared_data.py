"""Data in memory that processes share, and the process that they are copies of."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foreprune.runner.shared_data import Shared, share
from foreprune.zoo.datasets import load_cached

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is shared on Linux only")


@dataclass(frozen=True, eq=False)
class Value:
    name: str
    tensors: tuple[Tensor, ...]


def shared(value: Any) -> Shared:
    found = share(value)
    assert found is not None
    return found


def test_a_value_comes_back_as_it_was() -> None:
    tensors = (
        torch.arange(7, dtype=torch.uint8),
        torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).t(),
        torch.tensor(2.5, dtype=torch.float64),
        torch.empty(0, 5),
        torch.tensor([True, False]),
    )
    memory = shared(Value("x", tensors))
    back = memory.value()
    assert back.name == "x"
    for one, other in zip(tensors, back.tensors, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    back.tensors[0].fill_(9)
    assert torch.equal(memory.value().tensors[0], tensors[0]), "what one reader writes, another sees"
    memory.close()
    assert shared("no tensors").value() == "no tensors"


def test_what_cannot_be_shared_is_left_to_each_run() -> None:
    assert share(lambda: None) is None
    assert share(nn.Parameter(torch.zeros(2))) is None
    assert share(torch.zeros(2, device="meta")) is None


def look(memory: Shared, pipe: Any) -> None:
    data = memory.value()
    pipe.send((data.name, int(data.train.images.sum()), data.test.labels.tolist()[:9], len(data.train)))


def test_a_data_set_reaches_another_process() -> None:
    data = load_cached("digits", None)
    memory = shared(data)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=look, args=(memory, theirs))
    process.start()
    memory.close()
    theirs.close()
    assert ours.recv() == ("digits", int(data.train.images.sum()), data.test.labels.tolist()[:9], len(data.train))
    process.join()


def test_what_is_imported_before_a_fork_starts_no_thread_and_leaves_cuda_alone() -> None:
    program = (
        "import torch\n"
        "def refuse(*args, **settings): raise AssertionError('CUDA was asked for')\n"
        "torch.cuda.is_available = torch.cuda.device_count = torch.cuda._lazy_init = refuse\n"
        "import foreprune.runner.preloaded, foreprune.cli\n"
        "import os, sys\n"
        "assert not torch.cuda.is_initialized()\n"
        "threads = len(os.listdir('/proc/self/task'))\n"
        "assert threads == 1, threads\n"
        "before = set(sys.modules)\n"
        "import tempfile\n"
        "from pathlib import Path\n"
        "from foreprune.experiments import run_experiment\n"
        "from foreprune.records import Experiment\n"
        "from foreprune.training.recipes import Recipe\n"
        "torch.set_num_threads(1)\n"
        "one = Experiment(data='digits', model='fc-8', method='snip', density=0.5, recipe=Recipe(epochs=1))\n"
        "with tempfile.TemporaryDirectory() as out:\n"
        "    from sklearn.datasets import load_digits\n"
        "    before = set(sys.modules)\n"
        "    torch.cuda.is_available = lambda: False\n"
        "    assert run_experiment(one, out=Path(out)).status == 'finished'\n"
        "late = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "assert len(set(sys.modules) - before) < 30 and 'sympy' not in late, late\n"
    )
    # OpenBLAS starts threads when it is loaded, and stops them itself before a fork
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
