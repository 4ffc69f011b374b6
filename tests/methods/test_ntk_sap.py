"""NTK-SAP against the published procedure written down literally, and against what it estimates."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from contract.nets import CLASSES, Example, example
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import foreprune
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.prunable import Prunable
from foreprune.core.task import Inputs, Task, as_inputs
from foreprune.methods.ntk_sap import Draw, draws, ntk_sap, sensitivity

SHAPE = {"mlp": (6,), "conv": (2, 8, 8)}


def task(x: Tensor, seed: int = 0) -> Task:
    return Task((), as_inputs(x), None, torch.Generator().manual_seed(seed))


def some_masks(net: Net, share: float = 0.6) -> Masks:
    generator = torch.Generator().manual_seed(5)
    return Masks({name: torch.rand(w.shape, generator=generator) < share for name, w in net.weights.items()})


def published(module: nn.Module, run: Callable[[], object]) -> None:
    """Sets the statistics by a pass in training mode with momentum 1."""
    norms = [norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = 1.0
        norm.train()
    run()
    for norm in norms:
        norm.eval()


def consistent(module: nn.Module, run: Callable[[], object]) -> None:
    """The same, but normalizations pass on what they will in evaluation mode, where they divide by the unbiased
    variance; in training mode it is the biased one."""

    def take(norm: nn.BatchNorm1d, args: tuple[Tensor]) -> None:
        x = args[0].transpose(0, 1).flatten(1)
        norm.running_mean.copy_(x.mean(1))
        norm.running_var.copy_(x.var(1))

    norms = [norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    handles = [norm.register_forward_pre_hook(take) for norm in norms]
    run()
    for handle in handles:
        handle.remove()


def literal(
    model: nn.Module, net: Net, masks: Masks, drawn: Iterator[Draw], statistics: Callable[..., None]
) -> dict[str, Tensor]:
    """A pass for the statistics, then two evaluations that share them, on a copy of the module; the gradient goes to a
    mask of floats."""
    totals = {name: torch.zeros_like(weight) for name, weight in net.weights.items()}
    for draw in drawn:
        module = copy.deepcopy(model).eval()
        mask = {name: masks[name].double().requires_grad_() for name in net.prunable}
        plain = {**draw.weights, **{name: draw.weights[name] * mask[name] for name in mask}}
        moved = {**draw.weights, **{name: draw.perturbed[name] * mask[name] for name in mask}}

        def run(weights: dict[str, Tensor], module: nn.Module = module, draw: Draw = draw) -> Tensor:
            output: Tensor = draw.inputs.call(lambda *args: functional_call(module, weights, args))
            return output

        with torch.no_grad():
            statistics(module, lambda run=run, plain=plain: run(plain))
        objective = (run(plain) - run(moved)).square().sum()
        for name, grad in zip(mask, torch.autograd.grad(objective, list(mask.values())), strict=True):
            totals[name] += grad
    return {name: total.abs() * masks[name] for name, total in totals.items()}


def both(
    model: nn.Module, x: Tensor, statistics: Callable[..., None], *, sizes: list[int], prunable: Prunable = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The score and the literal one, for the same draws."""
    net = Net.of(model, prunable=prunable)
    masks = some_masks(net)
    found = ntk_sap(net, task(x), masks, resamplings=2, epsilon=0.05, samples=sum(sizes) // 2, batch_size=max(sizes))
    generator = torch.Generator().manual_seed(0)
    drawn = draws(net, as_inputs(x), generator, sizes=sizes, epsilon=0.05, init="kaiming")
    return found, literal(model, net, masks, drawn, statistics)


@pytest.mark.parametrize("name", ["mlp", "conv", "residual", "grouped", "tied", "transposed", "encoder", "attention"])
def test_scores_are_those_of_the_procedure_written_down_literally(name: str) -> None:
    given = example(name)
    found, wanted = both(given.model, given.x, consistent, sizes=[3, 4, 3, 4])
    for key, score in wanted.items():
        assert score.any()
        torch.testing.assert_close(found[key], score, rtol=1e-9, atol=1e-12)


def test_whatever_may_be_pruned_is_perturbed_and_scored() -> None:
    given = example("conv")
    found, wanted = both(given.model, given.x, consistent, sizes=[3, 4, 3, 4], prunable=lambda *_: True)
    assert found.keys() == dict(given.model.named_parameters()).keys()
    for key, score in wanted.items():
        torch.testing.assert_close(found[key], score, rtol=1e-9, atol=1e-12)


def test_with_one_normalization_they_are_those_of_the_published_code() -> None:
    given = example("residual")
    found, wanted = both(given.model, given.x, published, sizes=[3, 4, 3, 4])
    for key, score in wanted.items():
        torch.testing.assert_close(found[key], score, rtol=1e-9, atol=1e-12)


def test_behind_a_first_normalization_they_differ_as_the_biased_variance_does_from_the_unbiased_one() -> None:
    """By a relative 1/n. Smooth activations, because a ReLU that flips hides it."""
    torch.manual_seed(0)
    hidden = [layer for _ in range(3) for layer in (nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh())]
    model = nn.Sequential(*hidden, nn.Linear(6, 3)).double()
    distances = []
    for size in (10, 1000):
        found, wanted = both(model, torch.zeros(1, 6), published, sizes=[size, size])
        distances.append(max(float((found[key] - wanted[key]).norm() / wanted[key].norm()) for key in wanted))
    assert 0.01 < distances[0] < 0.2
    assert distances[1] < 0.002


def homogeneous() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Networks of degree one in each layer: no biases, no shortcuts, no normalization."""
    torch.manual_seed(0)
    mlp = nn.Sequential(
        nn.Linear(6, 9, bias=False), nn.ReLU(), nn.Linear(9, 7, bias=False), nn.ReLU(), nn.Linear(7, 3, bias=False)
    )
    conv = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3, bias=False),
        nn.LeakyReLU(0.1),
        nn.Flatten(),
        nn.Linear(5, 3, bias=False),
    )
    return {"mlp": (mlp.double(), (6,)), "conv": (conv.double(), (2, 8, 8))}


@pytest.mark.parametrize("epsilon", [0.01, 1.0])
@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_in_every_layer_the_signed_scores_sum_to_twice_the_objective(name: str, epsilon: float) -> None:
    """The objective is of degree two in the mask of each layer (Euler), whatever epsilon is."""
    model, shape = homogeneous()[name]
    net = Net.of(model)
    generator = torch.Generator().manual_seed(0)
    inputs = as_inputs(torch.zeros(1, *shape))
    for draw in draws(net, inputs, generator, sizes=[5, 8], epsilon=epsilon, init="kaiming"):
        objective, parts = sensitivity(net, some_masks(net, 0.8), draw)
        assert objective > 0
        for part in parts.values():
            torch.testing.assert_close(part.sum(), 2 * objective, rtol=1e-10, atol=0)


def objective_along(net: Net, x: Tensor, step: dict[str, Tensor], size: float) -> float:
    weights = {name: value.clone() for name, value in net.params.items()}
    moved = {name: weights[name] + size * step[name] for name in net.prunable}
    return float(sensitivity(net, Masks.dense(net.weights), Draw(weights, moved, Inputs((x,))))[0])


def test_the_objective_tends_to_the_squared_derivative_along_the_perturbation() -> None:
    model, _ = homogeneous()["mlp"]
    net = Net.of(model)
    x = torch.rand(5, 6).double()
    step = {name: torch.randn_like(value) for name, value in net.params.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own
        _, slope = torch.func.jvp(lambda p: functional_call(model, p, (x,)), (net.params,), (step,))
    ratios = [objective_along(net, x, step, size) / (size**2 * float(slope.square().sum())) for size in (1e-3, 1e-5)]
    assert abs(ratios[0] - 1) < 0.05
    assert abs(ratios[1] - 1) < 5e-4


def test_over_all_directions_it_adds_up_to_the_trace_of_the_tangent_kernel() -> None:
    """What the expectation over the perturbation is, epsilon^2 Tr NTK, taken over a basis instead of at random."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    net = Net.of(model)
    x = torch.rand(4, 3).double()
    jacobian = torch.func.jacrev(lambda p: functional_call(model, p, (x,)))(net.params)
    wanted = sum(float(jacobian[name].square().sum()) for name in net.prunable)
    found = 0.0
    for name in net.prunable:
        for index in range(net.params[name].numel()):
            step = {key: torch.zeros_like(value) for key, value in net.params.items()}
            step[name].view(-1)[index] = 1
            found += objective_along(net, x, step, 1e-5) / 1e-10
    assert found == pytest.approx(wanted, rel=1e-4)


def test_a_batch_costs_two_forwards() -> None:
    given = example("conv")
    calls = []
    given.model.register_forward_hook(lambda *_: calls.append(1))
    foreprune.prune(
        given.model, "ntk-sap", density=0.5, inputs=given.x, rounds=3, resamplings=2, samples=9, batch_size=4
    )
    assert len(calls) == 3 * 2 * 3 * 2


def normals(model: nn.Module, x: Tensor, **sizes: int) -> tuple[list[tuple[int, ...]], list[Tensor]]:
    seen: list[Tensor] = []
    handle = model.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    foreprune.score(model, "ntk-sap", inputs=x, **sizes)
    handle.remove()
    return [tuple(z.shape) for z in seen], seen


def test_samples_are_shared_out_evenly_and_both_evaluations_see_the_same() -> None:
    given = example("mlp")
    shapes, seen = normals(given.model, given.x, resamplings=1, samples=9, batch_size=8)
    assert shapes == [(4, 6), (4, 6), (5, 6), (5, 6)]
    assert torch.equal(seen[0], seen[1])
    shapes, seen = normals(given.model, given.x)
    assert shapes == [(100, 6)] * 10
    drawn = torch.cat(seen[::2])
    assert abs(float(drawn.mean())) < 0.1
    assert abs(float(drawn.std()) - 1) < 0.1
    assert drawn.unique().numel() == drawn.numel()


def test_weights_are_drawn_afresh_for_every_batch_and_perturbed_by_a_standard_deviation() -> None:
    net = Net.of(example("conv").model)
    generator = torch.Generator().manual_seed(0)
    inputs = as_inputs(torch.zeros(1, 2, 8, 8).double())
    seen = []
    for draw in draws(net, inputs, generator, sizes=[2] * 40, epsilon=0.01, init="kaiming"):
        name = "features.4.weight"
        seen.append((draw.weights[name].clone(), draw.perturbed[name] - draw.weights[name]))
    assert len({float(weight.sum()) for weight, _ in seen}) == 40
    assert float(torch.stack([step for _, step in seen]).std()) == pytest.approx(0.01, rel=0.05)


def test_neither_weights_nor_statistics_nor_data_are_looked_at() -> None:
    given, other = example("conv"), example("conv", seed=1)
    with torch.no_grad():
        for key, parameter in other.model.named_parameters():
            if key.endswith("bias") and "features.1" not in key and "features.5" not in key:
                parameter.copy_(dict(given.model.named_parameters())[key])
        for norm in (other.model.features[1], other.model.features[5]):
            norm.weight.fill_(0)
            norm.running_mean.fill_(3)
            norm.running_var.fill_(0.1)
    one = foreprune.prune(given.model, "ntk-sap", density=0.3, inputs=given.x, rounds=3)
    two = foreprune.prune(other.model, "ntk-sap", density=0.3, data=(other.x, other.y), rounds=3)
    assert one == two


def test_the_seed_decides() -> None:
    given = example("residual")
    masks = [foreprune.prune(given.model, "ntk-sap", density=0.3, inputs=given.x, seed=s, rounds=3) for s in (0, 0, 1)]
    assert masks[0] == masks[1]
    assert masks[0] != masks[2]
    own = foreprune.prune(given.model, "ntk-sap", density=0.3, inputs=given.x, rounds=3, init="own")
    assert own != masks[0]


def test_twenty_rounds_keep_every_layer_alive() -> None:
    given = example("conv")
    masks = foreprune.prune(given.model, "ntk-sap", density=0.2, inputs=given.x, samples=20, resamplings=2)
    assert masks.kept == round(0.2 * masks.total)
    assert masks.collapsed() == ()
    assert min(masks.layer_densities().values()) > 0.1


def state(model: nn.Module) -> dict[str, Any]:
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    return {
        **{key: value.clone() for key, value in model.state_dict().items()},
        **{f"{name} momentum": torch.tensor(norm.momentum) for name, norm in norms.items()},
        **{f"{name} mode": torch.tensor(norm.training) for name, norm in norms.items()},
    }


@pytest.mark.parametrize("fails_at", [None, 1, 2, 3])
def test_statistics_momentum_and_modes_are_untouched_also_after_an_exception(fails_at: int | None) -> None:
    given = example("conv")
    given.model.train()
    given.model(given.x)
    given.model.features[1].eval()
    given.model.features[1].momentum = 0.3
    before = state(given.model)
    calls: list[int] = []

    def fail(*_: Any) -> None:
        calls.append(1)
        if len(calls) == fails_at:
            raise ZeroDivisionError

    given.model.register_forward_hook(fail)
    if fails_at is None:
        foreprune.score(given.model, "ntk-sap", inputs=given.x)
    else:
        with pytest.raises(ZeroDivisionError):
            foreprune.score(given.model, "ntk-sap", inputs=given.x)
    after = state(given.model)
    assert before.keys() == after.keys()
    assert [key for key in before if not torch.equal(before[key], after[key])] == []


def test_a_forward_may_work_on_its_inputs_in_place() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = example("mlp").model

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.body(x.mul_(2))
            return output

    given = example("mlp")
    wanted = foreprune.score(given.model, "ntk-sap", inputs=given.x)
    model = InPlace()
    found = foreprune.score(model, "ntk-sap", inputs=given.x)
    model.forward = lambda x: model.body(2 * x)  # type: ignore[method-assign]
    other = foreprune.score(model, "ntk-sap", inputs=given.x)
    for name, score in wanted.items():
        torch.testing.assert_close(found[f"body.{name}"], other[f"body.{name}"], rtol=1e-12, atol=0)
        assert not torch.allclose(found[f"body.{name}"], score)


class Viewing(nn.Module):
    """Flattens with `view`, which works on memory in the usual order only."""

    def __init__(self, flatten: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.head = nn.Linear(4 * 64, CLASSES)
        self.flatten = flatten

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.flatten(F.relu(self.conv(x))))
        return output


def test_a_forward_may_rely_on_the_usual_memory_order() -> None:
    scores = []
    for flatten in (lambda h: h.view(h.shape[0], -1), lambda h: h.view(-1, 4 * 64), lambda h: h.flatten(1)):
        torch.manual_seed(0)
        scores.append(foreprune.score(Viewing(flatten).double(), "ntk-sap", inputs=torch.zeros(1, 2, 8, 8)))
    for other in scores[1:]:
        for name, score in scores[0].items():
            torch.testing.assert_close(score, other[name], rtol=1e-12, atol=0)


class Twice(nn.Module):
    """One normalization, used twice on very different activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.norm = nn.BatchNorm1d(5, affine=False, track_running_stats=False)
        self.second = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.norm(100 * self.second(self.norm(self.first(x))))
        return output


def test_each_use_of_a_normalization_has_statistics_of_its_own() -> None:
    class Apart(Twice):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.BatchNorm1d(5)

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.other(100 * self.second(self.norm(self.first(x))))
            return output

    found = []
    for build in (Twice, Apart):
        torch.manual_seed(0)
        found.append(foreprune.score(build().double(), "ntk-sap", inputs=torch.zeros(1, 6)))
    for name, score in found[0].items():
        torch.testing.assert_close(score, found[1][name])


def test_inputs_by_name_and_by_position_get_the_same_draws() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(6, 3), nn.Linear(4, 3)

        def forward(self, right: Tensor, left: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
            return {"logits": self.left(left) * scale + self.right(right)}

    torch.manual_seed(0)
    model, left, right = Named(), torch.zeros(1, 6), torch.zeros(1, 4)
    forms: list[Any] = [(right, left), {"left": left, "right": right}, {"right": right, "left": left}]
    masks = [foreprune.prune(model, "ntk-sap", density=0.4, inputs=form, rounds=2) for form in forms]
    assert masks[0] == masks[1] == masks[2]


def test_inputs_take_the_weights_type() -> None:
    given = example("mlp")
    one = foreprune.score(given.model, "ntk-sap", inputs=torch.zeros(1, 6, dtype=torch.float32))
    two = foreprune.score(given.model, "ntk-sap", inputs=torch.zeros(1, 6, dtype=torch.float64))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("first", "inputs", "kind"),
    [
        (nn.Identity(), torch.zeros(1, 12, dtype=torch.long), "int64"),
        (nn.Embedding(5, 3), torch.zeros(1, 4, dtype=torch.bool), "bool"),
        (nn.Identity(), torch.zeros(1, 12, dtype=torch.complex64), "complex64"),
    ],
)
def test_inputs_that_cannot_be_gaussian_are_refused(first: nn.Module, inputs: Tensor, kind: str) -> None:
    model = nn.Sequential(first, nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(ValueError, match=rf"draws its inputs from a normal distribution.*torch\.{kind}.*'synflow'"):
        foreprune.prune(model, "ntk-sap", density=0.5, inputs=inputs)


def test_statistics_of_a_single_value_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="one value for each channel; use larger samples= and batch_size="):
        foreprune.prune(model, "ntk-sap", density=0.5, inputs=torch.zeros(1, 4), samples=1)
    foreprune.prune(model, "ntk-sap", density=0.5, inputs=torch.zeros(1, 4), samples=5, batch_size=4, rounds=1)


class Alternating(nn.Module):
    """Takes its normalizations by turns."""

    def __init__(self, *, shorter: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm1d(4), nn.BatchNorm1d(6)])
        self.linear = nn.Linear(6, 4)
        self.calls = 0
        self.shorter = shorter

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls % 2:
            output: Tensor = self.linear(x) if self.shorter else self.norms[0](self.linear(x))
        else:
            output = self.linear(self.norms[1](x))
        return output


@pytest.mark.parametrize("shorter", [False, True])
def test_normalizations_in_another_order_under_perturbation_are_refused(shorter: bool) -> None:
    with pytest.raises(ValueError, match="batch normalizations in another order when its weights are perturbed"):
        foreprune.score(Alternating(shorter=shorter), "ntk-sap", inputs=torch.zeros(1, 6))


@pytest.mark.parametrize("name", ["resamplings", "samples", "batch_size"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "5"])
def test_counts_must_be_whole_and_positive(name: str, value: Any) -> None:
    rule = "at least 1" if type(value) is int else "a whole number"
    with pytest.raises((TypeError, ValueError), match=f"method 'ntk-sap': {name} must be {rule}, not {value!r}"):
        foreprune.prune(nn.Linear(3, 3), "ntk-sap", density=0.5, inputs=torch.zeros(1, 3), **{name: value})


@pytest.mark.parametrize("value", [0, -0.1, float("inf"), float("nan"), True, "0.1"])
def test_epsilon_must_be_positive(value: Any) -> None:
    rules = {"inf": "finite", "nan": "finite", "0": "positive, the standard deviation .*", "-0.1": "positive, .*"}
    rule = rules.get(str(value), "a number") if not isinstance(value, str) else "a number"
    with pytest.raises((TypeError, ValueError), match=f"method 'ntk-sap': epsilon must be {rule}, not {value!r}"):
        foreprune.prune(nn.Linear(3, 3), "ntk-sap", density=0.5, inputs=torch.zeros(1, 3), epsilon=value)


def test_an_unknown_initializer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"method 'ntk-sap': init must be one of .kaiming., .own., not"):
        foreprune.prune(nn.Linear(3, 3), "ntk-sap", density=0.5, inputs=torch.zeros(1, 3), init="xavier")


class GraphConvolution(nn.Module):
    """Two graph convolutions with the adjacency, normalized by its degrees, as second input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 3)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        self.seen.append((x.clone(), edges.clone()))
        scale = edges.sum(1).rsqrt()
        adjacency = scale[:, None] * edges * scale
        output: Tensor = adjacency @ self.second((adjacency @ self.first(x)).relu())
        return output


def test_the_nodes_of_a_graph_are_drawn_and_its_adjacency_is_the_one_given() -> None:
    torch.manual_seed(0)
    model, x = GraphConvolution(), torch.rand(6, 5)
    edges = ((torch.rand(6, 6) < 0.4).float() + torch.eye(6)).clamp(max=1)
    masks = foreprune.prune(model, "ntk-sap", density=0.5, inputs=(x, edges), rounds=2, resamplings=2)
    assert masks.kept == 28
    drawn = [nodes for nodes, _ in model.seen if not torch.equal(nodes, x) and len(nodes) == 6]
    assert len(drawn) == 8  # two rounds, two resamplings, two evaluations
    assert all(torch.equal(adjacency, edges) for nodes, adjacency in model.seen if len(nodes) == 6)
    assert len({tuple(nodes.flatten().tolist()) for nodes in drawn}) == 4


@pytest.mark.filterwarnings("ignore::foreprune.core.cautions.SmallShare")
@pytest.mark.parametrize("name", ["group", "layer", "instance", "none"])
def test_other_normalizations_run_as_they_are(name: str) -> None:
    norm = {
        "group": nn.GroupNorm(2, 4),
        "layer": nn.LayerNorm([4, 6, 6]),
        "instance": nn.InstanceNorm2d(4),
        "none": nn.Identity(),
    }[name]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    masks = foreprune.prune(model.train(), "ntk-sap", density=0.3, inputs=torch.zeros(1, 2, 8, 8), rounds=2, samples=6)
    assert masks.kept == round(0.3 * masks.total)


def test_half_precision_and_float32_networks() -> None:
    given: Example = example("conv")
    for dtype in (torch.float32, torch.bfloat16):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scores = foreprune.score(copy.deepcopy(given.model).to(dtype), "ntk-sap", inputs=given.x)
        assert all(score.dtype == dtype and bool(torch.isfinite(score).all()) for score in scores.values())
