"""A loop under accelerate."""

from __future__ import annotations

import functools
from typing import Any

from contract.extras import imported
from integrations.runs.common import AVERAGES, CLIP, Average, Cell, adamw, allow_sharding_on_cpus, loop, net_in
from integrations.shared import Net, network

from foreprune import Masks

Started = tuple[Any, Net, Any, Any]  # accelerator, network, model and optimizer as prepared


def run(cell: Cell) -> None:
    library = imported("accelerate")
    if cell.layout == "fsdp2":
        allow_sharding_on_cpus()
    started = _started(cell, library, 0)
    average = Average(started[1], cell.feature) if cell.feature in AVERAGES else None
    if cell.feature == "resume":
        _train(cell, started, cell.steps // 2)
        started[0].save_state(str(cell.folder / "state"))
        started[0].wait_for_everyone()
        started = _started(cell, library, 1)
        started[0].load_state(str(cell.folder / "state"))
        cell.found["carried"] = Masks.load(cell.folder / "state" / "masks.safetensors") == cell.masks
        cell.loaded(started[1])
        _train(cell, started, cell.steps - cell.steps // 2)
    else:
        _train(cell, started, cell.steps, average)
    cell.end(started[1], average)


def _started(cell: Cell, library: Any, seed: int) -> Started:
    from foreprune.integrations.accelerate import attach

    settings: dict[str, Any] = {"gradient_accumulation_steps": 2 if cell.feature == "accumulate" else 1}
    if cell.feature == "compile":
        settings["dynamo_backend"] = "inductor"
    if cell.feature == "bf16":
        settings["mixed_precision"] = "bf16"
    if cell.layout == "fsdp2":
        settings["fsdp_plugin"] = library.FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="size_based_wrap",
            min_num_params=500,
            cpu_ram_efficient_loading=False,
            state_dict_type="SHARDED_STATE_DICT",
        )
    library.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = library.Accelerator(cpu=True, **settings)
    net = network(seed)
    model, optimizer = accelerator.prepare(net, adamw(net))
    if cell.masked:
        attach(cell.masks, accelerator, model, optimizer)
    else:
        cell.masks.apply_(net_in(model))
    return accelerator, net_in(model), model, optimizer


def _train(cell: Cell, started: Started, steps: int, average: Average | None = None) -> None:
    accelerator, net, model, optimizer = started
    with cell.watched(net):
        loop(
            cell,
            *(model, accelerator.backward, optimizer, steps),
            clip=functools.partial(accelerator.clip_grad_norm_, [*model.parameters()], CLIP),
            after=average.update if average else lambda: None,
            around=functools.partial(accelerator.accumulate, model),
        )
