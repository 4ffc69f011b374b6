"""Sharded models are pruned as whole ones: the same masks, bit for bit, and nothing of the model is changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from contract.processes import run_processes
from contract.processes import sharded as sharded_layers
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard

import foreprune as fp
from foreprune.sharded import gathering

SMALL = gathering._SMALL


class Residual(nn.Module):
    """A bit of everything: convolution, normalization that begins as nothing, a scale by hand, a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.zero = nn.BatchNorm2d(6)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 6)[:, None, None])
        self.inner = nn.Linear(6, 7)
        self.outer = nn.Linear(7, 7, bias=False)
        self.again = nn.Linear(7, 7, bias=False)
        self.again.weight = self.outer.weight
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        x = x + self.scale * self.zero(self.second(x))
        x = self.inner(x.relu().mean((2, 3))).relu()
        return self.head(self.again(self.outer(x).relu()))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(ids)).mean(1))


def perceptron() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 13), nn.Tanh(), nn.Linear(13, 8), nn.ReLU(), nn.Linear(8, 4))


def model_of(kind: str) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = {"residual": Residual, "attention": Attention}.get(kind, perceptron)()
    if kind == "ties":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_((parameter * 5).round() / 5)
    if isinstance(model, Residual):
        nn.init.zeros_(model.zero.weight)
        nn.init.uniform_(model.norm.weight)
    return model if kind == "single" else model.double()


def data_of(kind: str) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    batches = []
    for size in (6, 4):
        y = torch.randint(0, 3, (size,), generator=generator)
        if kind == "attention":
            x = torch.randint(0, 11, (size, 5), generator=generator)
        else:
            shape = (size, 3, 6, 6) if kind == "residual" else (size, 5)
            x = torch.randn(shape, generator=generator, dtype=torch.float64)
            x = x.float() if kind == "single" else x
        batches.append((x, y))
    return batches


def sharded(kind: str, **options: Any) -> nn.Module:
    model = model_of(kind)
    world = torch.distributed.get_world_size()
    if kind == "columns":
        options["shard_placement_fn"] = lambda p: Shard(1) if p.dim() > 1 and p.shape[1] % world == 0 else None
    elif kind == "copies":  # two copies of the parts, if there are four processes
        options["mesh"] = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("copies", "parts"))
    if isinstance(model, nn.Sequential):
        return sharded_layers(model, **options)
    if kind == "attention":
        for layer in model.encoder.layers:
            fully_shard(layer, **options)
    return fully_shard(model, **options)


def dying(net: Any, task: Any, masks: fp.Masks) -> dict[str, Tensor]:
    """Drawn at random, and zero as soon as half of the weights are gone."""
    alive = net.kept(masks) > 0.5 * net.total
    return {
        name: net.part(name, torch.rand(shape, dtype=torch.float64, generator=task.generator)) * alive
        for name, shape in net.shapes.items()
        if name in net.prunable
    }


DYING = fp.Method("dying", "", "", score=dying, rounds=6, sharded=True)

DIST = ("synflow-dist", "synflow-l2-dist")
CASES: list[tuple[str, str, dict[str, Any]]] = [
    *((kind, method, {}) for kind in ("perceptron", "residual", "attention") for method in ("magnitude", "random")),
    *((kind, method, {}) for kind in ("perceptron", "residual") for method in ("erk", "er", "uniform")),
    *((kind, "snip", {}) for kind in ("perceptron", "residual", "attention")),
    ("residual", "magnitude", {"scope": "local"}),
    ("perceptron", "snip", {"scope": "local"}),
    ("residual", "snip", {"batchnorm": "eval"}),
    ("residual", "iterative-snip", {"rounds": 5}),
    ("perceptron", "force", {"rounds": 5}),
    *((kind, "grasp", {}) for kind in ("perceptron", "residual", "attention")),
    *((kind, "synflow", {"rounds": 10}) for kind in ("perceptron", "residual", "attention")),
    ("residual", "synflow-l2", {"rounds": 5}),
    *((kind, method, {}) for kind in ("ties", "columns", "copies", "single") for method in ("magnitude", "snip")),
    ("ties", "magnitude", {"scope": "local"}),
    ("ties", "synflow", {"rounds": 5}),
    ("copies", "grasp", {}),
    ("attention", "erk", {}),
    ("attention", "snip", {"scope": "local"}),
    ("attention", "snip", {"floor": 0.5}),
    ("attention", "synflow", {"rounds": 5, "gates": "keep", "density": 0.6}),
    ("attention", "magnitude", {"density": {"*.in_proj_weight[q,k]": 0.5, "*": 0.1}}),
    ("attention", "magnitude", {"prunable": ["*.in_proj_weight[v]", "head"]}),
    ("ties", "erk", {}),
    ("perceptron", "dying", {"rounds": 6}),
    *((kind, "ntk-sap", {"rounds": 3, "samples": 8}) for kind in ("perceptron", "residual", "attention", "columns")),
    ("perceptron", "ntk-sap", {"rounds": 1, "samples": 8, "batch_size": 4, "init": "own"}),
    ("attention", "ntk-sap", {"rounds": 1, "samples": 8, "init": "own"}),
    *((kind, "px", {"rounds": 3}) for kind in ("perceptron", "residual")),
    *((kind, method, {"rounds": 3}) for kind in ("perceptron", "residual") for method in DIST),
    # as if all weights were large
    *((f"large {kind}", "grasp", {}) for kind in ("perceptron", "residual", "attention")),
    ("large perceptron", "iterative-snip", {"rounds": 3}),
]


def masks_of(model: nn.Module, kind: str, method: str, settings: dict[str, Any], **given: Any) -> fp.Masks:
    kind = kind.removeprefix("large ")
    data = data_of(kind)
    if method in DIST:  # the mean image is not negative
        data = [(x.abs(), y) for x, y in data]
    given = {"data": data, "inputs": data[0][0], **given}
    return fp.prune(model, DYING if method == "dying" else method, seed=3, **{"density": 0.3, **given, **settings})


def state_of(model: nn.Module) -> list[Tensor]:
    tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters() if p.grad is not None)]
    return [(t.to_local() if isinstance(t, DTensor) else t).detach().clone() for t in tensors]


def scoring_worker(rank: int, world: int, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind, method, settings in CASES:
        key = f"{kind} {method} {settings}"
        gathering._SMALL = 0 if kind.startswith("large") else SMALL
        model = sharded(kind.removeprefix("large "))
        x, y = data_of(kind.removeprefix("large "))[0]
        nn.functional.cross_entropy(model(x), y).backward()  # gradients and batch statistics that have to stay
        before, random = state_of(model), torch.get_rng_state()
        hooks = [list(part._forward_pre_hooks.items()) for part in model.modules()]
        masks = masks_of(model, kind, method, settings)
        after = state_of(model)
        assert len(before) == len(after), key
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), key
        assert torch.equal(random, torch.get_rng_state()), key
        assert hooks == [list(part._forward_pre_hooks.items()) for part in model.modules()], key
        assert kind == "copies" or all(isinstance(masks[name], DTensor) for name in masks), key
        whole = masks.full()
        assert whole.kept == masks.kept == sum(kept for kept, _ in whole.block_counts().values()), key
        assert whole.layer_counts() == masks.layer_counts(), key
        assert whole.block_counts() == masks.block_counts(), key
        found[key] = dict(whole)
    return found


def expected_masks(kind: str, method: str, settings: dict[str, Any]) -> fp.Masks:
    model = model_of(kind.removeprefix("large "))
    x, _ = data_of(kind.removeprefix("large "))[0]
    model(x)
    return masks_of(model, kind, method, settings)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("world", [2, 4])
def test_masks_are_those_of_one_process(world: int, tmp_path: Path) -> None:
    results = run_processes(scoring_worker, world, tmp_path)
    for kind, method, settings in CASES:
        expected = expected_masks(kind, method, settings)
        for found in results:
            masks = found[f"{kind} {method} {settings}"]
            assert masks.keys() == expected.keys()
            odd = {name: int((mask != masks[name]).sum()) for name, mask in expected.items()}
            assert not any(odd.values()), (kind, method, settings, odd)
