"""What a correct implementation satisfies, one test for each numbered property of the project's list.

Bias-free ReLU networks in float64 unless a test says otherwise. Not here, because the feature has tests of its own:
13-14 (NTK-SAP), 15 (kernels), 16 (PX), 17-19 (PHEW), 20-21 (effective masks) and 25 (ablations, training).
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import foreprune
from foreprune.core.density import erdos_renyi_kernel
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.select import keep_top
from foreprune.core.task import Inputs, Task, materialize
from foreprune.graph import PathGraph

Scores = dict[str, Tensor]


def net_of(*widths: int, seed: int = 0) -> nn.Sequential:
    """A bias-free ReLU network."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pairs = list(itertools.pairwise(widths))
        layers = [layer for i, o in pairs for layer in (nn.Linear(i, o, bias=False), nn.ReLU())]
        return nn.Sequential(*layers[:-1]).double()


def data_of(model: nn.Sequential, samples: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    classes = model[-1].out_features
    x = torch.randn(samples, model[0].in_features, generator=generator, dtype=torch.float64)
    return x, torch.arange(samples) % classes


def some_masks(model: nn.Module, density: float = 0.7) -> Masks:
    generator = torch.Generator().manual_seed(2)
    return Masks(
        {name: torch.rand(w.shape, generator=generator) < density for name, w in Net.of(model).weights.items()}
    )


def masked(model: nn.Module, masks: Masks) -> nn.Module:
    return masks.apply_(copy.deepcopy(model))


def path_sum(model: nn.Module, *, square: bool = False, masks: Masks | None = None) -> float:
    net = Net.of(model)
    weights = (masks or Masks.dense(net.weights))(net.magnitudes)
    weights = {name: weight**2 for name, weight in weights.items()} if square else weights
    found = PathGraph(net, Inputs((torch.zeros(1, model[0].in_features, dtype=torch.float64),))).sum(weights)
    return float(found.value) * 2.0**found.exponent


def path_scores(model: nn.Module, method: str, masks: Masks | None = None, **hyper: Any) -> Scores:
    """Scores of a path method at some mask, scaled so that the last layer adds up to the path sum."""
    net = Net.of(model)
    record = foreprune.get_method(method)
    inputs = Inputs((torch.zeros(1, model[0].in_features, dtype=torch.float64),))
    task = Task((), inputs, None, torch.Generator())
    assert record.score is not None
    scores = record.score(net, task, masks or Masks.dense(net.weights), **hyper)
    graph = PathGraph(net, inputs).sum((masks or Masks.dense(net.weights))(net.magnitudes))
    return {name: score * 2.0**graph.exponent for name, score in scores.items()}


@pytest.mark.parametrize("widths", [(4, 3), (4, 6, 3), (5, 7, 6, 4), (3, 5, 4, 6, 2)])
@pytest.mark.parametrize("pruned", [False, True])
def test_property_01_synflow_is_conserved_over_layers(widths: tuple[int, ...], pruned: bool) -> None:
    model = net_of(*widths)
    masks = some_masks(model) if pruned else None
    total = path_sum(model, masks=masks)
    assert total > 0
    for score in path_scores(model, "synflow", masks).values():
        assert float(score.sum()) == pytest.approx(total, rel=1e-10)


def test_property_02_synflow_is_conserved_at_every_hidden_unit() -> None:
    model = net_of(5, 7, 6, 4)
    scores = list(path_scores(model, "synflow", some_masks(model)).values())
    for before, after in itertools.pairwise(scores):
        torch.testing.assert_close(before.sum(1), after.sum(0), rtol=1e-10, atol=0)


def paths_of(model: nn.Module, masks: Masks | None = None) -> list[tuple[tuple[tuple[str, int, int], ...], float]]:
    """Every path of a bias-free MLP as (its weights, the product of their values)."""
    net = Net.of(model)
    weights = (masks or Masks.dense(net.weights))(net.weights)
    widths = [next(iter(weights.values())).shape[1], *(weight.shape[0] for weight in weights.values())]
    found = []
    for units in itertools.product(*map(range, widths)):
        edges = tuple((name, o, i) for name, (i, o) in zip(weights, itertools.pairwise(units), strict=True))
        found.append((edges, float(np.prod([float(weights[name][o, i]) for name, o, i in edges]))))
    return found


def test_property_03_the_path_sum_is_the_path_norm() -> None:
    model = net_of(3, 4, 4, 2)
    assert path_sum(model) == pytest.approx(sum(abs(value) for _, value in paths_of(model)), rel=1e-12)


def test_property_04_the_trace_of_the_path_kernel_counts_kept_weights_only() -> None:
    model = net_of(3, 4, 4, 2)
    masks = some_masks(model)
    net = Net.of(model)
    brute = 0.0
    for edges, value in paths_of(model, masks):
        if value:
            brute += sum((value / float(net.params[name][o, i])) ** 2 for name, o, i in edges)
    squared = {name: weight**2 for name, weight in masks(net.weights).items()}
    graph = PathGraph(net, Inputs((torch.zeros(1, 3, dtype=torch.float64),)))
    scale = 2.0 ** graph.sum(squared).exponent
    gradients = graph.gradients(squared, net.prunable)
    trace = sum(float((gradients[name] * mask).sum()) for name, mask in masks.items()) * scale
    unmasked = sum(float(gradient.sum()) for gradient in gradients.values()) * scale
    assert trace == pytest.approx(brute, rel=1e-10)
    assert unmasked > 1.01 * trace


def test_property_05_only_the_squared_form_of_synflow_l2_is_conserved() -> None:
    model = net_of(5, 7, 6, 4)
    squared = [float(score.sum()) for score in path_scores(model, "synflow-l2", form="theta2").values()]
    plain = [float(score.sum()) for score in path_scores(model, "synflow-l2", form="theta").values()]
    assert squared == pytest.approx([squared[0]] * 3, rel=1e-10)
    assert plain[1] != pytest.approx(plain[0], rel=0.05)
    # and its sum is the sum of squared path values, up to the one common factor of all path scores
    ratio = path_sum(model, square=True) / squared[0]
    assert np.log2(ratio) == pytest.approx(round(np.log2(ratio)), abs=1e-9)


def test_property_06_rescaling_leaves_synflow_and_the_squared_form_alone() -> None:
    model = net_of(5, 7, 6, 4)
    rescaled = copy.deepcopy(model)
    with torch.no_grad():
        rescaled[0].weight.mul_(3.7)
        rescaled[2].weight.div_(3.7)

    def shares(scores: Scores) -> Tensor:
        flat = torch.cat([score.flatten() for score in scores.values()])
        return flat / flat.sum()

    for method, hyper in (("synflow", {}), ("synflow-l2", {"form": "theta2"})):
        before, after = (shares(path_scores(m, method, **hyper)) for m in (model, rescaled))
        torch.testing.assert_close(before, after, rtol=1e-10, atol=0)
    before, after = (shares(path_scores(m, "synflow-l2", form="theta")) for m in (model, rescaled))
    assert not torch.allclose(before, after, rtol=0.05)
    before, after = (shares(foreprune.score(m, "magnitude")) for m in (model, rescaled))
    assert not torch.allclose(before, after, rtol=0.05)


def test_property_07_signs_do_not_matter_to_synflow_and_the_model_stays_as_it_was() -> None:
    model = net_of(5, 7, 6, 4)
    flipped = copy.deepcopy(model)
    with torch.no_grad():
        for layer in (flipped[0], flipped[2], flipped[4]):
            layer.weight.mul_(torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(1)).sign())
    before, after = path_scores(model, "synflow"), path_scores(flipped, "synflow")
    assert all(torch.equal(before[name], after[name]) for name in before)
    state = {name: value.clone() for name, value in flipped.state_dict().items()}
    path_scores(flipped, "synflow", some_masks(flipped))
    assert all(torch.equal(value, state[name]) for name, value in flipped.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in flipped.parameters())


class Skip(nn.Module):
    """y = W2 h + s h with h = W1 x."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 5, bias=False)
        self.second = nn.Linear(5, 5, bias=False)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.first(x)
        return self.second(h) + self.scale * h


def test_property_08_a_residual_cut_carries_the_whole_sum() -> None:
    torch.manual_seed(0)
    model = Skip().double()
    net = Net.of(model, prunable=["first.weight", "second.weight", "scale"])
    task = Task((), Inputs((torch.zeros(1, 5, dtype=torch.float64),)), None, torch.Generator())
    record = foreprune.get_method("synflow")
    assert record.score is not None
    scores = {name: float(score.sum()) for name, score in record.score(net, task, Masks.dense(net.weights)).items()}
    assert scores["scale"] > 0
    assert scores["second.weight"] + scores["scale"] == pytest.approx(scores["first.weight"], rel=1e-12)


def test_property_09_snip_is_weight_times_gradient() -> None:
    model = net_of(5, 7, 6, 4)
    x, y = data_of(model)
    weights = Net.of(model).weights
    multipliers = {name: torch.ones_like(weight) for name, weight in weights.items()}

    def loss(c: Scores) -> Tensor:
        return F.cross_entropy(functional_call(model, {n: c[n] * weights[n] for n in c}, (x,)), y)

    by_mask = torch.func.grad(loss)(multipliers)
    found = foreprune.score(model, "snip", data=(x, y))
    for name in weights:
        torch.testing.assert_close(found[name], by_mask[name].abs(), rtol=1e-12, atol=1e-16)


def test_property_10_signed_snip_adds_up_to_the_same_in_every_layer() -> None:
    model = net_of(5, 7, 6, 4)
    x, y = data_of(model)
    net = Net.of(model)
    task = Task(materialize((x, y), net.device), None, None, torch.Generator())
    grads = task.weight_grads(net, net.params)
    sums = [float((net.params[name] * grads[name]).sum()) for name in net.prunable]
    output = model(x).detach().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(output, y), output)
    assert abs(sums[0]) > 1e-3
    assert sums == pytest.approx([float((output * slope).detach().sum())] * 3, rel=1e-10)


def test_property_11_grasp_predicts_the_change_of_the_gradient_norm() -> None:
    """||grad L(w - t w_i e_i)||^2 - ||grad L(w)||^2 is -2 t w_i (Hg)_i to first order."""
    model = net_of(4, 5, 3)
    x, y = data_of(model)
    weights = Net.of(model).weights
    scores = foreprune.score(model, "grasp", data=(x, y), temperature=1.0)

    def norm(at: Scores) -> float:
        leaves = {name: weight.clone().requires_grad_() for name, weight in at.items()}
        loss = F.cross_entropy(functional_call(model, leaves, (x,)), y)
        return sum(float(grad.square().sum()) for grad in torch.autograd.grad(loss, list(leaves.values())))

    t, start = 1e-5, norm(weights)
    largest = max(float(score.abs().max()) for score in scores.values())
    checked = 0
    for name, score in scores.items():
        for position in itertools.product(*map(range, score.shape)):
            if abs(float(score[position])) < 0.05 * largest:
                continue
            moved = {key: weight.clone() for key, weight in weights.items()}
            moved[name][position] *= 1 - t
            assert (norm(moved) - start) / (-2 * t * float(score[position])) == pytest.approx(1, abs=1e-3)
            checked += 1
    assert checked > 10


@pytest.mark.parametrize("sizes", [(12,), (3, 3, 3, 3), (1, 4, 7)])
def test_property_12_grasp_does_not_depend_on_how_samples_are_batched(sizes: tuple[int, ...]) -> None:
    model = net_of(5, 7, 6, 4)
    x, y = data_of(model, samples=12)
    whole = foreprune.score(model, "grasp", data=(x, y))
    parts = foreprune.score(model, "grasp", data=list(zip(x.split(sizes), y.split(sizes), strict=True)))
    largest = max(float(score.abs().max()) for score in whole.values())
    for name in whole:
        torch.testing.assert_close(whole[name] / largest, parts[name] / largest, rtol=1e-9, atol=1e-12)


@settings(max_examples=25)
@given(
    widths=st.lists(st.integers(1, 7), min_size=2, max_size=4),
    density=st.floats(0.02, 1.0),
    scope=st.sampled_from(["global", "local"]),
    schedule=st.sampled_from(["exponential", "linear"]),
    rounds=st.integers(1, 4),
    constant=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@pytest.mark.filterwarnings("ignore::foreprune.LayerCollapse")
@pytest.mark.parametrize("method", ["random", "magnitude", "synflow", "synflow-l2", "snip", "iterative-snip", "force"])
def test_property_22_exact_counts_over_shapes(
    method: str,
    widths: list[int],
    density: float,
    scope: Any,
    schedule: str,
    rounds: int,
    constant: bool,
    seed: int,
) -> None:
    model = nn.Sequential(*[nn.Linear(i, o) for i, o in itertools.pairwise(widths)]).double()
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.fill_(0.2) if constant else parameter.uniform_(
                0.1, 0.3, generator=torch.Generator().manual_seed(index)
            )
    total = sum(layer.weight.numel() for layer in model)
    arguments: dict[str, Any] = {"inputs": torch.zeros(1, widths[0], dtype=torch.float64)}
    if foreprune.get_method(method).needs & {"images", "labels"}:
        x = torch.linspace(0.1, 1, 5 * widths[0], dtype=torch.float64).view(5, -1)
        arguments = {"data": (x, torch.arange(5.0).double()), "loss": lambda out, y: (out.sum(1) * y).mean()}
    if "rounds" in foreprune.get_method(method).settings:
        arguments |= {"rounds": rounds, "schedule": schedule}
    if not round(density * total):
        with pytest.raises(ValueError, match="keeps none of"):
            foreprune.prune(model, method, density=density, **arguments)
        return
    masks = foreprune.prune(model, method, density=density, scope=scope, seed=seed, **arguments)
    assert masks.kept == round(density * total)
    again = foreprune.prune(model, method, density=density, scope=scope, seed=seed, **arguments)
    assert masks == again


def unequal_toy() -> nn.Sequential:
    model = net_of(6, 8, 8, 4, seed=1)
    with torch.no_grad():
        model[2].weight.mul_(0.05)
    return model


def test_property_23_synflow_one_weight_at_a_time_never_empties_a_layer() -> None:
    """Maximal critical compression: until as many weights are left as there are layers."""
    model = unequal_toy()
    masks = Masks.dense(Net.of(model).weights)
    generator = torch.Generator().manual_seed(0)
    while masks.kept > len(masks):
        scores = path_scores(model, "synflow", masks)
        masks = keep_top(scores, masks.kept - 1, generator=generator, among=masks)
        assert masks.collapsed() == (), f"at {masks.kept} weights"
    magnitude = Masks.dense(Net.of(model).weights)
    while not magnitude.collapsed():
        magnitude = keep_top(
            foreprune.score(model, "magnitude"), magnitude.kept - 1, generator=generator, among=magnitude
        )
    assert magnitude.kept > 10 * len(magnitude)


def test_property_24_methods_reduce_to_one_another() -> None:
    model = net_of(5, 17, 16, 4)
    x, y = data_of(model)
    for density in (0.05, 0.3):
        snip = foreprune.prune(model, "snip", density=density, data=(x, y))
        assert foreprune.prune(model, "iterative-snip", density=density, data=(x, y), rounds=1) == snip
        assert foreprune.prune(model, "force", density=density, data=(x, y), rounds=1) == snip
        synflow = foreprune.prune(model, "synflow", density=density, inputs=x)
        image = torch.full((5,), 0.37, dtype=torch.float64)
        assert foreprune.prune(model, "synflow-dist", density=density, inputs=x, mean_image=image) == synflow
        squared = foreprune.prune(model, "synflow-l2", density=density, inputs=x)
        assert foreprune.prune(model, "synflow-l2-dist", density=density, inputs=x, mean_image=image) == squared
    shapes = {"a": (30, 20, 3, 3), "b": (40, 30), "c": (2, 40)}
    densities = erdos_renyi_kernel(shapes, 0.1)
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    assert sum(densities[name] * sizes[name] for name in shapes) == pytest.approx(0.1 * sum(sizes.values()))
    assert max(densities.values()) <= 1


def test_property_24_magnitude_of_equal_variances_is_random_pruning() -> None:
    model = nn.Sequential(nn.Linear(60, 80), nn.Linear(80, 50))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in model:
            layer.weight.normal_(generator=generator)
    masks = foreprune.prune(model, "magnitude", density=0.2)
    for name, (kept, total) in masks.layer_counts().items():
        spread = (0.2 * 0.8 / total) ** 0.5
        assert abs(kept / total - 0.2) < 4 * spread, name
