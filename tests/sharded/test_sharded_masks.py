"""What becomes of sharded masks, what is refused in words, and batches that are spread over processes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from contract.processes import message, run_processes
from sharded.test_sharded_scoring import data_of, model_of
from sharded.test_sharded_scoring import sharded as sharded_model
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

import foreprune as fp


def own_score(net: Any, task: Any, masks: fp.Masks) -> dict[str, Tensor]:
    """|w dL/dw|."""
    grads = task.weight_grads(net, masks(net.params))
    return {name: (net.params[name] * grads[name]).abs() for name in net.prunable}


def masks_worker(rank: int, world: int, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    batches = data_of("perceptron")
    model = sharded_model("perceptron")
    masks = fp.prune(model, "snip", density=0.3, data=batches)
    whole = masks.full()
    path = masks.save(folder / "masks.safetensors")
    torch.distributed.barrier()
    loaded = fp.Masks.load(path)
    found["loaded"] = loaded == whole and loaded.metadata == masks.metadata == whole.metadata
    found["parameters"] = masks.metadata["parameters"]
    other = fp.prune(model, "magnitude", density=0.5)
    both = masks & other
    found["and"] = both.full() == whole & other.full() and both.kept == (whole & other.full()).kept
    found["same"] = masks == fp.prune(model, "snip", density=0.3, data=batches) and masks != other
    found["repr"] = repr(masks) == repr(whole)

    dcp.save({"masks": dict(masks)}, checkpoint_id=str(folder / "checkpoint"))
    blank = {name: torch.zeros_like(mask) for name, mask in masks.items()}
    dcp.load({"masks": blank}, checkpoint_id=str(folder / "checkpoint"))
    found["checkpoint"] = fp.Masks(blank) == masks and fp.Masks(blank).kept == masks.kept

    zeroed = sharded_model("perceptron")
    whole.apply_(zeroed)
    masks.apply_(zeroed)
    weight = zeroed.get_parameter("2.weight").detach().full_tensor()
    found["applied"] = torch.equal(weight == 0, ~whole["2.weight"])

    scores = fp.score(model, "magnitude")
    found["scores"] = torch.equal(scores["0.weight"].full_tensor(), model_of("perceptron")[0].weight.abs())

    found["phew"] = message(ValueError, lambda: fp.prune(model, "phew", density=0.3, inputs=batches[0][0]))
    found["function"] = message(ValueError, lambda: fp.prune(model, own_score, density=0.3, data=batches))
    fp.scorer("own", needs={"labels"}, sharded=True)(own_score)
    found["own"] = fp.prune(model, "own", density=0.3, data=batches) == fp.prune(
        model, "snip", density=0.3, data=batches, batchnorm="eval"
    )
    found["listed"] = message(ValueError, lambda: fp.prune(model, "phew", density=0.3, inputs=batches[0][0]))
    found["signed"] = message(
        ValueError, lambda: fp.prune(model, "px", density=0.3, data=batches, last_layer="signed", gates="score")
    )
    found["ready"] = message(ValueError, lambda: fp.prune(model, dict(whole), density=0.3))
    found["analyze"] = message(ValueError, lambda: fp.analyze(model, whole, inputs=batches[0][0]))
    mine = batches if rank else batches[:1]
    found["different"] = message(ValueError, lambda: fp.prune(model, "snip", density=0.3, data=mine))
    group = torch.distributed.group.WORLD
    found["numbers"] = message(ValueError, lambda: fp.prune(model, "snip", density=0.3, data=mine, group=group))
    bad = sharded_model("perceptron")
    if rank:
        with torch.no_grad():
            bad[0].weight.to_local().fill_(float("nan"))
    found["nan"] = message(ValueError, lambda: fp.prune(bad, "magnitude", density=0.3))
    zero = sharded_model("perceptron")
    with torch.no_grad():
        for parameter in zero.parameters():
            parameter.to_local().zero_()
    found["zero"] = message(ValueError, lambda: fp.prune(zero, "magnitude", density=0.3))
    small = fully_shard(nn.Linear(5, 1))
    found["small"] = message(ValueError, lambda: fp.prune(small, "magnitude", density=0.5))
    return found


@pytest.mark.slow
def test_sharded_masks(tmp_path: Path) -> None:
    for found in run_processes(masks_worker, 2, tmp_path):
        true = ("loaded", "and", "same", "repr", "checkpoint", "applied", "scores", "own")
        assert all(found[name] for name in true), found
        assert found["parameters"] == str(sum(p.numel() for p in model_of("perceptron").parameters()))
        assert re.search(r"'phew' needs the whole model in one process.* before fully_shard, or use", found["phew"])
        assert re.search(r"'own_score' needs the whole model in one process", found["function"])
        assert re.search(r"use one of er, erk, force, .*, magnitude, ntk-sap, own, px, random, snip", found["listed"])
        assert not re.search(r"\b(own|phew)\b", found["phew"].partition("use one of")[2])
        assert re.search(r"last_layer=.signed. looks for the last layer in the whole model", found["signed"])
        assert re.search(r"'scores' needs the whole model in one process", found["ready"])
        assert re.search(r"parameters of the model are sharded .* before fully_shard \(prune", found["analyze"])
        assert re.search(r"given different data; give all of them the same batches, or .*group=", found["different"])
        assert re.search(r"different numbers of batches.*give each of them as many", found["numbers"])
        assert re.search(r"scores of '0.weight' are NaN", found["nan"])
        assert re.search(r"every score is zero", found["zero"])
        assert re.search(r"holds no prunable weight .* over fewer processes", found["small"])


METHODS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("snip", {}),
    ("iterative-snip", {"rounds": 4}),
    ("force", {"rounds": 4}),
    ("grasp", {}),
    ("synflow-dist", {"rounds": 4}),
    ("magnitude", {}),
)


def given(kind: str, method: str, batches: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    if method == "magnitude":
        return {}
    if method == "synflow-dist":  # a mean image is not negative
        return {"data": [(x.abs(), y) for x, y in batches]}
    return {"data": batches}


def parallel_worker(rank: int, world: int, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    group = torch.distributed.group.WORLD
    for method, settings in METHODS:
        batches = data_of("residual")
        whole = nn.parallel.DistributedDataParallel(model_of("residual"))
        data = given("residual", method, batches[rank : rank + 1])
        found[method] = dict(fp.prune(whole, method, density=0.3, group=group, **data, **settings))
        masks = fp.prune(sharded_model("residual"), method, density=0.3, group=group, **data, **settings)
        found[f"sharded {method}"] = dict(masks.full())
    model = model_of("perceptron")
    batch = data_of("perceptron")[rank]
    found["function"] = message(ValueError, lambda: fp.prune(model, own_score, density=0.3, data=batch, group=group))
    fp.scorer("own", needs={"labels"}, summed=True)(own_score)
    found["own"] = dict(fp.prune(model, "own", density=0.3, data=batch, group=group))
    found["px"] = message(ValueError, lambda: fp.prune(model, "px", density=0.3, data=batch, group=group))
    found["type"] = message(TypeError, lambda: fp.prune(model, "snip", density=0.3, data=batch, group="world"))
    no_data = (
        (lambda: fp.prune(model, "snip", density=0.3, group=group))
        if rank
        else (lambda: fp.prune(model, "snip", density=0.3, data=batch, group=group))
    )
    found["no data"] = message(Exception, no_data)
    if rank:
        nn.init.normal_(model[0].weight)
    found["weights"] = message(ValueError, lambda: fp.prune(model, "snip", density=0.3, data=batch, group=group))
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_batches_spread_over_processes(tmp_path: Path) -> None:
    results = run_processes(parallel_worker, 2, tmp_path)
    for method, settings in METHODS:
        data = given("residual", method, data_of("residual"))
        expected = fp.prune(model_of("residual"), method, density=0.3, **data, **settings)
        for found in results:
            for key in (method, f"sharded {method}"):
                if key in found:
                    odd = {name: int((mask != found[key][name]).sum()) for name, mask in expected.items()}
                    assert not any(odd.values()), (key, odd)
    own = fp.prune(model_of("perceptron"), own_score, density=0.3, data=data_of("perceptron"))
    for found in results:
        assert all(torch.equal(mask, found["own"][name]) for name, mask in own.items())
        assert re.search(r"'own_score' is no sum over batches", found["function"])
        assert re.search(r"or use one of force, .*, own, snip, synflow-dist, synflow-l2-dist$", found["px"])
        assert re.search(r"'px' is no sum over batches.*the same data without group=", found["px"])
        assert re.search(r"group must be a process group such as torch.distributed.group.WORLD, not str", found["type"])
        assert re.search(r"processes found different masks, so their weights or arguments differ", found["weights"])
    assert "another process failed in reading its data" in results[0]["no data"]
    assert "method 'snip' needs data" in results[1]["no data"]
