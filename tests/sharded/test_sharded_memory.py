"""A model that is larger than what one process may use is scored by several."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from contract.processes import run_processes
from torch import nn
from torch.distributed.fsdp import fully_shard

import foreprune as fp

LAYERS, WIDTH = 40, 512
LAYER = WIDTH * WIDTH * 8
MODEL = LAYERS * LAYER
WORLD = 2
CASES: list[tuple[str, dict[str, Any], int, float]] = [  # method, settings, batches, shares of the model
    *((method, {}, 1, 1.3) for method in ("magnitude", "random", "erk", "snip")),
    ("snip", {}, 2, 1.3),
    *((method, {"rounds": 2}, 1, 1.3) for method in ("iterative-snip", "force", "synflow", "synflow-l2")),
    ("px", {"rounds": 2}, 1, 1.3),
    ("ntk-sap", {"rounds": 1, "samples": 4, "resamplings": 2}, 1, 5.3),
    ("grasp", {}, 1, 2.3),
    ("grasp", {}, 2, 3.3),
]
SLACK = 4 * LAYER + 8 * 2**20  # a layer, its gradient, what a gathering copies; the allocator


def parts_of_a_model() -> nn.Module:
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.float64) for _ in range(LAYERS)))
    for layer in model:
        fully_shard(layer)
    return fully_shard(model).to_empty(device="cpu")


def in_use() -> int:
    found = re.search(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def limited(call: Any, room: int) -> str:
    """What `call()` raises if this process may not take more than `room` bytes; "" if nothing."""
    resource.setrlimit(resource.RLIMIT_AS, (in_use() + room, resource.RLIM_INFINITY))
    try:
        call()
    except (RuntimeError, MemoryError) as error:
        return str(error) or "memory"
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return ""


def worker(rank: int, world: int, folder: Path) -> dict[str, Any]:
    warm = fully_shard(nn.Linear(8, 8, dtype=torch.float64))
    model = parts_of_a_model()
    generator = torch.Generator().manual_seed(rank)
    for parameter in model.parameters():
        parameter.detach().to_local().normal_(0, WIDTH**-0.5, generator=generator)
    x, y = torch.randn(2, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), torch.tensor([1, 2])
    found: dict[str, Any] = {}
    share = MODEL // world
    for method, settings, batches, shares in CASES:
        given = {"data": [(x, y)] * batches, "inputs": x, **settings}
        fp.prune(warm, method, density=0.5, **{**given, "data": [(x[:, :8], y)] * batches, "inputs": x[:, :8]})
        key = f"{method} {settings} {batches}"

        def prune(method: str = method, key: str = key, given: dict[str, Any] = given) -> None:
            found[key] = fp.prune(model, method, density=0.1, **given).kept

        assert shares > 2 or int(shares * share) + SLACK < MODEL
        assert not (error := limited(prune, int(shares * share) + SLACK)), (key, error)
    copies = limited(lambda: [torch.empty(LAYER // 8, dtype=torch.float64) for _ in range(LAYERS)], share + SLACK)
    found["limit"] = "memory" in copies  # a whole copy does not fit, so the limit means something
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are those of Linux")
def test_a_model_larger_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "262144")  # memory is given back when it is freed
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    for found in run_processes(worker, WORLD, tmp_path):
        limit = found.pop("limit")
        assert limit
        keys = [f"{method} {settings} {batches}" for method, settings, batches, _ in CASES]
        assert found == dict.fromkeys(keys, round(0.1 * LAYERS * WIDTH * WIDTH))
