"""A loop of one's own."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from integrations.runs.common import AVERAGES, CLIP, Average, Cell, adamw, barrier, loop, rank, world
from integrations.shared import Net, network
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

from foreprune import Masks


def run(cell: Cell) -> None:
    net, model, optimizer = _started(cell, 0)
    if cell.masked:
        cell.masks.attach(model, optimizer)
    else:
        cell.masks.apply_(net)
    average = Average(net, cell.feature) if cell.feature in AVERAGES else None
    if cell.feature == "resume":
        _train(cell, net, model, optimizer, cell.steps // 2)
        _save(cell, net, optimizer)
        net, model, optimizer = _started(cell, 1)
        saved = Masks.load(cell.folder / "masks.safetensors")
        cell.found["carried"] = saved == cell.masks
        saved.attach(model, optimizer)
        _load(cell, net, optimizer)
        cell.loaded(net)
        _train(cell, net, model, optimizer, cell.steps - cell.steps // 2)
    else:
        _train(cell, net, model, optimizer, cell.steps, average)
    cell.end(net, average)


def _started(cell: Cell, seed: int) -> tuple[Net, Any, torch.optim.Optimizer]:
    net = network(seed)
    if cell.layout == "fsdp2":
        for part in net.body:
            if isinstance(part, nn.Linear):
                fully_shard(part)
        fully_shard(net)
    model: Any = torch.compile(net) if cell.feature == "compile" else net
    if cell.layout == "ddp":
        model = nn.parallel.DistributedDataParallel(model)
    return net, model, adamw(net)


def _train(
    cell: Cell, net: Net, model: Any, optimizer: torch.optim.Optimizer, steps: int, average: Average | None = None
) -> None:
    clip = functools.partial(nn.utils.clip_grad_norm_, [*net.parameters()], CLIP)
    after = average.update if average else lambda: None
    with cell.watched(net):
        loop(cell, model, Tensor.backward, optimizer, steps, clip=clip, after=after)


def _save(cell: Cell, net: Net, optimizer: torch.optim.Optimizer) -> None:
    weights, state = get_state_dict(net, optimizer)
    if world() > 1:
        dcp.save({"model": weights, "optimizer": state}, checkpoint_id=cell.folder / "state")
    else:
        torch.save({"model": weights, "optimizer": state}, cell.folder / "state.pt")
    if rank() == 0:
        cell.masks.save(cell.folder / "masks.safetensors")
    barrier()


def _load(cell: Cell, net: Net, optimizer: torch.optim.Optimizer) -> None:
    weights, state = get_state_dict(net, optimizer)
    if world() > 1:
        dcp.load({"model": weights, "optimizer": state}, checkpoint_id=cell.folder / "state")
    else:
        content = torch.load(cell.folder / "state.pt", weights_only=True)
        weights, state = content["model"], content["optimizer"]
    set_state_dict(net, optimizer, model_state_dict=weights, optim_state_dict=state)
