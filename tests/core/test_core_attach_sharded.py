"""Masks in training on several processes: under `fully_shard` and DistributedDataParallel, with checkpoints."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from contract.processes import run_processes
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from foreprune import Masks
from foreprune.core.attach import attach

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-2),
    "adamw": functools.partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
}
INPUTS = torch.randn(32, 6, generator=torch.Generator().manual_seed(2))
TARGETS = torch.randint(0, 3, (32,), generator=torch.Generator().manual_seed(3))


def network() -> nn.Sequential:
    """Seven and three rows do not divide evenly: some processes hold less, with four of them one holds nothing."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 7), nn.Tanh(), nn.Linear(7, 3))


def random_masks(model: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.rand(parameter.shape, generator=generator) < 0.4
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1
    }


def sharded(model: nn.Module, **options: Any) -> nn.Module:
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, **options)
    return fully_shard(model, **options)


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def leaked(model: nn.Module, masks: dict[str, Tensor]) -> int:
    """Number of pruned weights, on all processes, that are not exactly zero."""
    model.reshard()
    parameters = dict(model.named_parameters())
    return sum(int((whole(parameters[name].detach())[~mask] != 0).sum()) for name, mask in masks.items())


def steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rank: int,
    world: int,
    count: int,
    *,
    sync: Callable[[bool], Any],
) -> None:
    """Steps with accumulation over two halves of this process's share, and clipping."""
    share = slice(rank * 32 // world, (rank + 1) * 32 // world)
    x, y = INPUTS[share], TARGETS[share]
    for _ in range(count):
        optimizer.zero_grad()
        for half in (0, 1):
            sync(half == 1)
            (nn.functional.cross_entropy(model(x[half::2]), y[half::2]) / 2).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()


def shard_worker(rank: int, world: int, folder: Path) -> dict[str, Any]:
    return {
        f"{order} {name} {mixed}": shard_case(rank, world, order, name, mixed)
        for order in ("before", "after")
        for name in OPTIMIZERS
        for mixed in (False, True)
    }


def shard_case(rank: int, world: int, order: str, name: str, mixed: bool) -> dict[str, Any]:
    model = network()
    masks = random_masks(model)
    options = {"mp_policy": MixedPrecisionPolicy(torch.bfloat16, torch.float32)} if mixed else {}
    if order == "before":
        attach(masks, model)
        before = copy.deepcopy(model.state_dict())
        sharded(model, **options)
        optimizer = OPTIMIZERS[name](model.parameters())
    else:
        before = copy.deepcopy(model.state_dict())
        sharded(model, **options)
        optimizer = OPTIMIZERS[name](model.parameters())
        attach(masks, model, optimizer)
    steps(model, optimizer, rank, world, 20, sync=model.set_requires_gradient_sync)
    grads = {key: whole(parameter.grad) for key, parameter in model.named_parameters()}
    state = {
        key: whole(value)
        for key, parameter in model.named_parameters()
        for value in optimizer.state[parameter].values()
        if value.shape == parameter.shape and key in masks
    }
    after = {key: whole(value) for key, value in model.state_dict().items()}
    return {
        "leaked": leaked(model, masks),
        "gradients": sum(int((grads[key][~mask] != 0).sum()) for key, mask in masks.items()),
        "state": sum(int((value[~masks[key]] != 0).sum()) for key, value in state.items()),
        "still": sum(int((after[key] == before[key])[mask].sum()) for key, mask in masks.items()),
        "after": after,
    }


def alone(name: str) -> dict[str, Tensor]:
    """One process with the whole batch takes the same steps."""
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    attach(random_masks(model), model, optimizer)
    steps(model, optimizer, 0, 1, 20, sync=lambda _: None)
    return model.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_pruned_weights_stay_zero_under_fully_shard(world: int, tmp_path: Path) -> None:
    """Attached before and after sharding, with and without mixed precision, under accumulation and clipping."""
    expected = {name: alone(name) for name in OPTIMIZERS}
    for cases in run_processes(shard_worker, world, tmp_path):
        assert len(cases) == 8
        for case, found in cases.items():
            order, name, mixed = case.split()
            assert (found["leaked"], found["gradients"], found["state"]) == (0, 0, 0), case
            assert found["still"] == 0, case  # the others did train
            if order == "after" and mixed == "False":
                for key, value in found["after"].items():
                    torch.testing.assert_close(value, expected[name][key], rtol=1e-4, atol=1e-5)


def checkpoint_worker(rank: int, world: int, folder: Path) -> dict[str, Any]:
    return {order: checkpoint_case(rank, world, folder / order, order) for order in ("attached first", "loaded first")}


def checkpoint_case(rank: int, world: int, folder: Path, order: str) -> dict[str, Any]:
    model = sharded(network())
    masks = random_masks(network())
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    attach(masks, model, optimizer)
    steps(model, optimizer, rank, world, 5, sync=model.set_requires_gradient_sync)
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state, "masks": dict(masks)}, checkpoint_id=str(folder))
    steps(model, optimizer, rank, world, 5, sync=model.set_requires_gradient_sync)

    torch.manual_seed(100 + rank)
    resumed = sharded(nn.Sequential(*(copy.deepcopy(layer) for layer in network())))
    second = OPTIMIZERS["adamw"](resumed.parameters())
    weights, state = get_state_dict(resumed, second)
    blank = {name: torch.zeros_like(mask) for name, mask in masks.items()}
    content = {"model": weights, "optimizer": state, "masks": blank}
    if order == "attached first":
        attach(masks, resumed, second)
    dcp.load(content, checkpoint_id=str(folder))
    set_state_dict(resumed, second, model_state_dict=content["model"], optim_state_dict=content["optimizer"])
    if order == "loaded first":
        attach(Masks(blank), resumed, second)
    steps(resumed, second, rank, world, 5, sync=resumed.set_requires_gradient_sync)
    return {
        "leaked": leaked(resumed, masks),
        "masks": all(torch.equal(blank[name], mask) for name, mask in masks.items()),
        "same": all(
            torch.equal(whole(a), whole(b)) for a, b in zip(model.parameters(), resumed.parameters(), strict=True)
        ),
    }


@pytest.mark.slow
def test_distributed_checkpoints(tmp_path: Path) -> None:
    for cases in run_processes(checkpoint_worker, 2, tmp_path):
        for order, found in cases.items():
            assert found == {"leaked": 0, "masks": True, "same": True}, order


def message(error: type[Exception], call: Callable[[], Any]) -> str:
    try:
        call()
    except error as raised:
        return str(raised)
    return "nothing was raised"


def other_worker(rank: int, world: int, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    masks = random_masks(network())
    share = slice(rank * 16, rank * 16 + 16)

    model = network()  # attached to an optimizer that fully_shard makes useless
    old = OPTIMIZERS["sgd"](model.parameters())
    handle = attach(masks, model, old)
    sharded(model)
    nn.functional.cross_entropy(model(INPUTS[share]), TARGETS[share]).backward()
    found["old optimizer"] = message(RuntimeError, old.step)
    new = OPTIMIZERS["sgd"](model.parameters())
    steps(model, new, rank, world, 5, sync=model.set_requires_gradient_sync)
    found["new optimizer"] = leaked(model, masks)
    for parameter in model.parameters():  # whatever reaches the weights is undone by the next step, as without shards
        parameter.detach().to_local().add_(0.1)
    steps(model, new, rank, world, 1, sync=model.set_requires_gradient_sync)
    found["trespass"] = leaked(model, masks)
    found["repr"] = repr(handle)
    handle.remove()
    steps(model, new, rank, world, 2, sync=model.set_requires_gradient_sync)
    found["removed"] = leaked(model, masks)

    model = sharded(network())  # masks sharded as the parameters, and not
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    mesh = model[0].weight.device_mesh
    alike = {name: distribute_tensor(mask, mesh, model.get_parameter(name).placements) for name, mask in masks.items()}
    found["sharded repr"] = repr(attach(alike, model, optimizer))
    steps(model, optimizer, rank, world, 5, sync=model.set_requires_gradient_sync)
    found["sharded masks"] = leaked(model, masks)
    found["plain model"] = message(ValueError, lambda: attach(alike, network()))
    found["torch.nn.utils.prune"] = message(ValueError, lambda: Masks(masks).to_torch_prune(model))

    with torch.no_grad():  # a forward leaves the outermost part gathered
        model(INPUTS[share])
    found["gathered"] = isinstance(model.get_parameter("0.weight"), DTensor)
    attach(masks, model, optimizer)
    steps(model, optimizer, rank, world, 2, sync=model.set_requires_gradient_sync)
    found["after a forward"] = leaked(model, masks)

    flat = network()
    optimizer = OPTIMIZERS["sgd"](flat.parameters())
    attach(masks, flat, optimizer)
    flat = FullyShardedDataParallel(flat, device_id=torch.device("cpu"))
    found["flattened"] = message(TypeError, lambda: attach(masks, flat))
    new = OPTIMIZERS["sgd"](flat.parameters())
    found["flattened later"] = message(RuntimeError, new.step)

    parallel = nn.parallel.DistributedDataParallel(network())
    odd = {name: mask.flip(0) if rank else mask for name, mask in masks.items()}
    found["different"] = message(ValueError, lambda: attach(odd, parallel))
    found["unchanged"] = all(
        torch.equal(a, b) for a, b in zip(parallel.parameters(), network().parameters(), strict=True)
    )
    model = network()
    attach(masks, model)  # DistributedDataParallel around a model that has its masks already
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = OPTIMIZERS["sgd"](parallel.parameters())
    steps(parallel, optimizer, rank, world, 10, sync=lambda sync: setattr(parallel, "require_backward_grad_sync", sync))
    found["parallel"] = sum(int((model.get_parameter(key)[~mask] != 0).sum()) for key, mask in masks.items())
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_optimizers_and_wrappers_that_do_not_fit(tmp_path: Path) -> None:
    kept = sum(int(mask.sum()) for mask in random_masks(network()).values())
    halves = 0
    for found in run_processes(other_worker, 2, tmp_path):
        assert re.search(
            r"the optimizer updates a '0.weight' that the model no longer has.*build", found["old optimizer"]
        )
        assert found["new optimizer"] == found["trespass"] == found["sharded masks"] == found["after a forward"] == 0
        assert found["removed"] > 0
        assert found["repr"] == f"Handle(attached, 3 tensors, kept {kept}/229)"
        halves += int(found["sharded repr"].split("kept ")[1].split("/")[0])
        assert found["sharded repr"].endswith("on this process)")
        assert re.search(r"mask of '0.weight' is sharded .* give whole masks: masks.full\(\)", found["plain model"])
        assert re.search(r"sharded over processes; write masks.attach\(model", found["torch.nn.utils.prune"])
        assert "FSDP1" in found["flattened"]
        assert "fully_shard (FSDP2)" in found["flattened"]
        assert re.search(r"'0.weight' has lost its parameter.*FullyShardedDataParallel", found["flattened later"])
        assert re.search(r"different masks; prune with the same data and seed", found["different"])
        assert found["unchanged"]
        assert found["parallel"] == 0
    assert halves == kept


def test_masks_follow_an_assigned_state() -> None:
    """Also without other processes a parameter may be replaced."""
    model = network()
    masks = random_masks(model)
    handle = attach(masks, model, OPTIMIZERS["sgd"](model.parameters()))
    model.load_state_dict(network().state_dict(), assign=True)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(INPUTS), TARGETS).backward()
        optimizer.step()
        for name, mask in masks.items():
            assert int((model.get_parameter(name)[~mask] != 0).sum()) == 0
            assert int((model.get_parameter(name).grad[~mask] != 0).sum()) == 0
    handle.remove()
    assert not optimizer._optimizer_step_post_hooks
    model.load_state_dict(network().state_dict(), assign=True)
    OPTIMIZERS["adamw"](model.parameters()).step()
    assert int((model[0].weight[~masks["0.weight"]] != 0).sum()) > 0


def test_an_optimizer_of_replaced_parameters_is_an_error() -> None:
    model = network()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    attach(random_masks(model), model, optimizer)
    model.load_state_dict(network().state_dict(), assign=True)
    with pytest.raises(RuntimeError, match=r"updates a '0.weight' that the model no longer has .* build the optimizer"):
        optimizer.step()
    model[0].weight = nn.Parameter(torch.zeros(16, 5))
    with pytest.raises(RuntimeError, match=r"a new '0.weight' of shape \(16, 5\), and its mask has shape \(16, 6\)"):
        OPTIMIZERS["sgd"](model.parameters()).step()
    OPTIMIZERS["sgd"](network().parameters()).step()  # another model is none of its business
