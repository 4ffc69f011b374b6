"""Several processes on this machine, connected by gloo."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor


def run_processes(worker: Callable[..., Any], world: int, folder: Path, *args: Any, seconds: float = 240) -> list[Any]:
    """What `worker(rank, world, folder, *args)` returns in each of `world` processes: tensors, numbers, mappings.

    The worker is a function of a module. An error in any process is an error here, with its traceback.
    """
    context = torch.multiprocessing.get_context("spawn")
    started = [context.Process(target=_run, args=(worker, rank, world, str(folder), args)) for rank in range(world)]
    for process in started:
        process.start()
    for process in started:
        process.join(seconds)
    alive = [process for process in started if process.is_alive()]
    for process in alive:
        process.kill()
    errors = [path.read_text() for path in sorted(folder.glob("*.error"))]
    assert not errors, "\n".join(errors)
    assert not alive, f"{len(alive)} of {world} processes hang"
    assert [process.exitcode for process in started] == [0] * world
    return [torch.load(folder / f"{rank}.result", weights_only=True) for rank in range(world)]


def message(error: type[Exception], call: Callable[[], Any]) -> str:
    """What `call` raises, as a worker can return it."""
    try:
        call()
    except error as raised:
        return str(raised)
    return "nothing was raised"


def sharded(model: nn.Module, **options: Any) -> nn.Module:
    """A sequence of layers under `fully_shard`: each linear one by itself."""
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, **options)
    return fully_shard(model, **options)


def whole(tensor: Tensor) -> Tensor:
    """Of all processes."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _run(worker: Callable[..., Any], rank: int, world: int, folder: str, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    code = 1
    try:
        store = f"file://{folder}/rendezvous"
        torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
        torch.save(worker(rank, world, Path(folder), *args), f"{folder}/{rank}.result")
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        code = 0
    except BaseException:
        (Path(folder) / f"{rank}.error").write_text(f"process {rank}:\n{traceback.format_exc()}")
    os._exit(code)  # gloo's threads may still hold tensors, and now and then abort while the interpreter shuts down
