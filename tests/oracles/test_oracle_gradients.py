"""SNIP, iterative SNIP, FORCE and GraSP against their definitions: mask multipliers, literal loops, dense Hessians."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from contract.nets import NETS, Example, example
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import foreprune
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.task import task_for

pytestmark = pytest.mark.filterwarnings("ignore::foreprune.LayerCollapse")  # of queries and keys

Weights = dict[str, Tensor]
BATCHES = ([slice(0, 12)], [slice(0, 5), slice(5, 12)])


def twin(given: Example, *, batchnorm: str) -> nn.Module:
    """A copy in the modes of a scoring pass, to be differentiated by plain means."""
    model = copy.deepcopy(given.model).eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train(batchnorm == "train")
    return model


def mean_loss(model: nn.Module, weights: Weights, given: Example, rows: slice, *, temperature: float = 1.0) -> Tensor:
    """The part of one batch in the mean over all samples."""
    state = {name: buffer.clone() for name, buffer in model.named_buffers()}
    logits = functional_call(model, {**weights, **state}, (given.x[rows],)) / temperature
    return F.cross_entropy(logits, given.y[rows], reduction="sum") / len(given.y)


def weights_of(given: Example) -> Weights:
    net = Net.of(given.model)
    return {name: weight.clone() for name, weight in net.weights.items()}


def data(given: Example, batches: list[slice]) -> Any:
    return [(given.x[rows], given.y[rows]) for rows in batches]


def snip_by_multipliers(given: Example, weights: Weights, masks: Weights, batches: list[slice], mode: str) -> Weights:
    """|dL/dc| where the network runs on c * mask * w and c = 1."""
    model = twin(given, batchnorm=mode)
    c = {name: torch.ones_like(weight).requires_grad_() for name, weight in weights.items()}
    scaled = {name: c[name] * masks[name] * weights[name] for name in weights}
    loss = torch.stack([mean_loss(model, scaled, given, rows) for rows in batches]).sum()
    return {name: grad.abs() for name, grad in zip(c, torch.autograd.grad(loss, list(c.values())), strict=True)}


@pytest.mark.parametrize("batches", BATCHES, ids=["one-batch", "two-batches"])
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", NETS)
def test_snip_differentiates_the_multipliers(name: str, mode: str, batches: list[slice]) -> None:
    given = example(name)
    weights = weights_of(given)
    dense = {key: torch.ones_like(weight) for key, weight in weights.items()}
    wanted = snip_by_multipliers(given, weights, dense, batches, mode)
    found = foreprune.score(given.model, "snip", data=data(given, batches), batchnorm=mode)
    assert sum(float(score.sum()) for score in wanted.values()) > 1e-3
    for key in wanted:
        torch.testing.assert_close(found[key], wanted[key], rtol=1e-9, atol=1e-14)


def test_batch_normalization_modes_differ_and_train_is_the_default() -> None:
    given = example("conv")
    found = {
        mode: foreprune.score(given.model, "snip", data=(given.x, given.y), **hyper)["features.0.weight"]
        for mode, hyper in {"train": {"batchnorm": "train"}, "eval": {"batchnorm": "eval"}, "default": {}}.items()
    }
    assert torch.equal(found["train"], found["default"])
    assert not torch.allclose(found["train"], found["eval"])


def keep_by_sorting(scores: Weights, keep: int, alive: Weights | None) -> Weights:
    entries = [
        (float(score), name, index)
        for name in scores
        for index, score in enumerate(scores[name].flatten())
        if alive is None or alive[name].flatten()[index]
    ]
    entries.sort(reverse=True)
    masks = {name: torch.zeros_like(score, dtype=torch.bool) for name, score in scores.items()}
    for _, name, index in entries[:keep]:
        masks[name].view(-1)[index] = True
    return masks


def counted(share: float, total: int, *, last: bool) -> int:
    """How many weights a round keeps: as SynFlow's authors count, and the nearest number at the end."""
    return round(share * total) if last else total - int((1 - share) * total)


@pytest.mark.parametrize("name", ["mlp", "conv", "tied", "encoder"])
@pytest.mark.parametrize("schedule", ["exponential", "linear"])
def test_iterative_snip_is_the_loop_of_its_definition(name: str, schedule: str) -> None:
    given = example(name)
    weights, batches = weights_of(given), [slice(0, 12)]
    total, density, rounds = sum(weight.numel() for weight in weights.values()), 0.2, 4
    masks = {key: torch.ones_like(weight, dtype=torch.bool) for key, weight in weights.items()}
    for k in range(1, rounds + 1):
        share = density ** (k / rounds) if schedule == "exponential" else 1 - (1 - density) * (k / rounds)
        scores = snip_by_multipliers(given, weights, masks, batches, "train")
        masks = keep_by_sorting(scores, counted(share, total, last=k == rounds), masks)
    found = foreprune.prune(
        given.model, "iterative-snip", density=density, data=data(given, batches), rounds=rounds, schedule=schedule
    )
    assert found == Masks(masks)


def test_iterative_snip_scores_pruned_weights_zero_and_force_does_not() -> None:
    given = example("mlp")
    net = Net.of(given.model)
    masks = foreprune.prune(given.model, "random", density=0.5)
    for name, revived in (("iterative-snip", False), ("force", True)):
        record = foreprune.get_method(name)
        assert record.score is not None
        task = task_for(net, record.needs, asking=name, data=(given.x, given.y))
        found = record.score(net, task, masks)
        pruned = torch.cat([found[key][~mask] for key, mask in masks.items()])
        assert bool(pruned.any()) == revived


@pytest.mark.parametrize("name", ["mlp", "conv", "tied", "encoder"])
def test_force_is_the_loop_of_its_definition(name: str) -> None:
    given = example(name)
    weights, density, rounds = weights_of(given), 0.3, 5
    total = sum(weight.numel() for weight in weights.values())
    masks = {key: torch.ones_like(weight, dtype=torch.bool) for key, weight in weights.items()}
    for k in range(1, rounds + 1):
        model = twin(given, batchnorm="train")
        pruned = {key: (masks[key] * weight).requires_grad_() for key, weight in weights.items()}
        loss = mean_loss(model, pruned, given, slice(0, 12))
        grads = dict(zip(pruned, torch.autograd.grad(loss, list(pruned.values())), strict=True))
        scores = {key: (grads[key] * weights[key]).abs() for key in weights}
        masks = keep_by_sorting(scores, counted(density ** (k / rounds), total, last=k == rounds), None)
    found = foreprune.prune(given.model, "force", density=density, data=(given.x, given.y), rounds=rounds)
    assert found == Masks(masks)


def dense_hessian_gradient(
    given: Example, weights: Weights, batches: list[slice], mode: str, temperature: float
) -> Weights:
    """sum_b H_b g with every second derivative written out, g over all batches."""
    model = twin(given, batchnorm=mode)
    sizes = [weight.numel() for weight in weights.values()]

    def loss(flat: Tensor, rows: slice) -> Tensor:
        parts = torch.split(flat, sizes)
        named = {key: part.view_as(weight) for (key, weight), part in zip(weights.items(), parts, strict=True)}
        return mean_loss(model, named, given, rows, temperature=temperature)

    flat = torch.cat([weight.flatten() for weight in weights.values()])
    gradient = sum(torch.autograd.functional.jacobian(lambda v, r=rows: loss(v, r), flat) for rows in batches)
    hessian = sum(torch.autograd.functional.hessian(lambda v, r=rows: loss(v, r), flat) for rows in batches)
    product = torch.split(hessian @ gradient, sizes)
    return {key: part.view_as(weight) for (key, weight), part in zip(weights.items(), product, strict=True)}


@pytest.mark.parametrize("batches", BATCHES, ids=["one-batch", "two-batches"])
@pytest.mark.parametrize("temperature", [1.0, 200.0])
@pytest.mark.parametrize(
    ("name", "mode"), [("mlp", "train"), ("shared-module", "train"), ("shared-module", "eval"), ("tied", "eval")]
)
def test_grasp_is_the_dense_hessian_times_the_gradient(
    name: str, mode: str, temperature: float, batches: list[slice]
) -> None:
    given = example(name)
    weights = weights_of(given)
    product = dense_hessian_gradient(given, weights, batches, mode, temperature)
    found = foreprune.score(given.model, "grasp", data=data(given, batches), batchnorm=mode, temperature=temperature)
    largest = max(float((weights[key] * product[key]).abs().max()) for key in product)
    assert largest > 0
    for key in product:
        torch.testing.assert_close(found[key] / largest, weights[key] * product[key] / largest, rtol=1e-7, atol=1e-10)


def test_grasp_with_attention_is_differentiated_twice() -> None:
    """The fused attention kernel has no second derivative; a finite difference of the gradient along g needs none."""
    given = example("attention")
    model, weights = twin(given, batchnorm="eval"), weights_of(given)

    def gradient(at: Weights) -> Weights:
        leaves = {name: weight.clone().requires_grad_() for name, weight in at.items()}
        grads = torch.autograd.grad(mean_loss(model, leaves, given, slice(0, 12)), list(leaves.values()))
        return dict(zip(leaves, grads, strict=True))

    g, step = gradient(weights), 1e-4
    ahead = gradient({name: weight + step * g[name] for name, weight in weights.items()})
    behind = gradient({name: weight - step * g[name] for name, weight in weights.items()})
    found = foreprune.score(given.model, "grasp", data=(given.x, given.y), temperature=1.0)
    for name in weights:
        wanted = weights[name] * (ahead[name] - behind[name]) / (2 * step)
        torch.testing.assert_close(found[name], wanted, rtol=1e-4, atol=1e-8)


def test_grasp_keeps_what_the_gradient_flow_needs() -> None:
    """The three variants of Frankle et al., appendix H, and the sign of the paper: remove the highest -w (Hg)."""
    given = example("mlp")
    scores = foreprune.score(given.model, "grasp", data=(given.x, given.y))
    product = dense_hessian_gradient(given, weights_of(given), [slice(0, 12)], "train", 200.0)
    flat = torch.cat([(-weight * product[name]).flatten() for name, weight in weights_of(given).items()])
    masks = foreprune.prune(given.model, "grasp", density=0.5, data=(given.x, given.y))
    kept = torch.cat([mask.flatten() for mask in masks.values()])
    assert flat[kept].max() <= flat[~kept].min()
    assert flat[kept].min() < 0 < flat[~kept].max()
    inverted = foreprune.score(given.model, "grasp", data=(given.x, given.y), keep="inverted")
    magnitude = foreprune.score(given.model, "grasp", data=(given.x, given.y), keep="magnitude")
    for name in scores:
        assert torch.equal(inverted[name], -scores[name])
        assert torch.equal(magnitude[name], scores[name].abs())


def test_a_tied_weight_gets_the_gradients_of_all_its_uses() -> None:
    """Tied and shared weights, against a twin that holds a copy for each use: signed gradients add up."""
    given = example("tied")
    untied = copy.deepcopy(given.model)
    untied.up.weight = nn.Parameter(untied.down.weight.detach().clone())
    loss = F.cross_entropy(untied(given.x), given.y)
    down, up = torch.autograd.grad(loss, [untied.down.weight, untied.up.weight])
    found = foreprune.score(given.model, "snip", data=(given.x, given.y))["down.weight"]
    torch.testing.assert_close(found, (given.model.down.weight * (down + up)).detach().abs(), rtol=1e-10, atol=0)


class Sum(nn.Module):
    """One linear map of two weights; autograd hands the same tensor to both."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(6, 3)
        self.delta = nn.Linear(6, 3)
        self.scale = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.base.weight + self.delta.weight) * self.scale.weight.sum()


@pytest.mark.parametrize("batches", BATCHES, ids=["one-batch", "two-batches"])
def test_gradients_that_share_memory_are_kept_apart(batches: list[slice]) -> None:
    """`autograd.grad` returns one tensor for both terms of a sum, and an expanded one for a weight that is summed."""
    given = example("mlp")
    model = Sum().double()
    named = {name: parameter for name, parameter in model.named_parameters() if name.endswith("weight")}
    loss = F.cross_entropy(model(given.x), given.y)
    grads = torch.autograd.grad(loss, list(named.values()))
    found = foreprune.score(model, "snip", data=data(given, batches))
    for (name, parameter), grad in zip(named.items(), grads, strict=True):
        torch.testing.assert_close(found[name], (parameter * grad).detach().abs(), rtol=1e-10, atol=1e-15)


def test_a_loss_that_is_a_mean_is_weighted_by_batch_size() -> None:
    given = example("mlp")
    whole = foreprune.score(given.model, "snip", data=(given.x, given.y))
    uneven = foreprune.score(given.model, "snip", data=data(given, [slice(0, 1), slice(1, 4), slice(4, 12)]))
    for name in whole:
        torch.testing.assert_close(whole[name], uneven[name], rtol=1e-10, atol=1e-15)


def test_a_custom_loss_sees_output_and_target() -> None:
    given = example("mlp")
    target = torch.rand(12, 3, dtype=torch.float64)
    model = copy.deepcopy(given.model)
    value = F.mse_loss(model(given.x), target)
    grads = torch.autograd.grad(value, [model[0].weight])
    found = foreprune.score(given.model, "snip", data=(given.x, target), loss=F.mse_loss)
    torch.testing.assert_close(found["0.weight"], (grads[0] * model[0].weight).detach().abs(), rtol=1e-10, atol=1e-15)


def test_task_of_a_data_free_call_holds_no_data() -> None:
    given = example("mlp")
    needs = foreprune.get_method("magnitude").needs
    task = task_for(Net.of(given.model), needs, asking="magnitude", data=(given.x, given.y))
    assert task.batches == ()
    assert task.samples == 0
