"""PX against every path walked one by one, and against the bound that it comes from."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from contract.nets import CLASSES, NETS, example
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn import functional as F

import foreprune
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.task import Task, materialize
from foreprune.graph import PathError
from foreprune.methods.px import active_energy, px

HALVES = torch.tensor([[True, True, False, False], [False, False, True, True]])


def mlp() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False)
    ).double()
    return model, torch.randn(5, 3, dtype=torch.float64)


def some_masks(net: Net, share: float = 0.8) -> Masks:
    generator = torch.Generator().manual_seed(5)
    return Masks({name: torch.rand(w.shape, generator=generator) < share for name, w in net.weights.items()})


def task(x: Tensor, *sizes: int) -> Task:
    batches = [(part, torch.zeros(len(part), dtype=torch.long)) for part in x.split(list(sizes or [len(x)]))]
    return Task(materialize(batches, x.device), None, None, torch.Generator())


Path = tuple[list[tuple[str, int, int]], list[int]]


def paths(net: Net, masks: Masks) -> Iterator[Path]:
    """(weights as name, row, column; units from input to output) of the paths of a multilayer perceptron."""
    widths = [net.weights[net.prunable[0]].shape[1], *(net.weights[name].shape[0] for name in net.prunable)]
    for units in itertools.product(*map(range, widths)):
        edges = [(name, units[k + 1], units[k]) for k, name in enumerate(net.prunable)]
        if all(masks[name][row, column] for name, row, column in edges):
            yield edges, list(units)


def brute_force(net: Net, masks: Masks, x: Tensor) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """z1 of each sample, z2, the trace of the path kernel for each output, and the scores of R."""
    weights = masks(net.params)
    hidden, open_ = x, []
    for name in net.prunable[:-1]:
        hidden = (hidden @ weights[name].T).relu()
        open_.append(hidden > 0)
    outputs = net.weights[net.prunable[-1]].shape[0]
    z1, z2, trace = torch.zeros(len(x), outputs).double(), torch.zeros(outputs).double(), torch.zeros(outputs).double()
    walked = list(paths(net, masks))
    for edges, units in walked:
        product = 1.0
        for name, row, column in edges:
            product *= float(weights[name][row, column]) ** 2
        z2[units[-1]] += product
        trace[units[-1]] += sum(product / float(weights[name][row, column]) ** 2 for name, row, column in edges)
        for sample in range(len(x)):
            if all(gate[sample, unit] for gate, unit in zip(open_, units[1:-1], strict=True)):
                z1[sample, units[-1]] += float(x[sample, units[0]]) ** 2
    scores = {name: torch.zeros_like(weight) for name, weight in net.weights.items()}
    for edges, units in walked:
        product = float(z1[:, units[-1]].sum())
        for name, row, column in edges:
            product *= float(weights[name][row, column]) ** 2
        for name, row, column in edges:
            scores[name][row, column] += product
    return z1, z2, trace, scores


def energy(net: Net, masks: Masks, x: Tensor, outputs: int, **options: Any) -> Tensor:
    """z1 of each sample."""
    batches = task(x, *[1] * len(x)).batches
    found = [active_energy(net, batch, masks, outputs, **{"batchnorm": "eval", **options}) for batch in batches]
    return torch.stack([tensor * 2.0**exponent for tensor, exponent in found])


@pytest.mark.parametrize("share", [1.1, 0.7])
def test_scores_are_those_of_all_paths_walked_one_by_one(share: float) -> None:
    model, x = mlp()
    net = Net.of(model)
    masks = some_masks(net, share)
    z1, z2, _, wanted = brute_force(net, masks, x)
    assert (z1 > 0).any()
    torch.testing.assert_close(energy(net, masks, x, 2), z1, rtol=1e-12, atol=0)
    found = px(net, task(x), masks)
    for name, score in wanted.items():
        torch.testing.assert_close(found[name], score, rtol=1e-10, atol=0)
        torch.testing.assert_close(found[name].sum(), (z1 * z2).sum(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("share", [1.1, 0.7])
def test_with_a_signed_last_layer_scores_are_those_of_the_authors_formula(share: float) -> None:
    """Both passes written out, as in their code: the last layer as it is, the others squared or of ones."""
    model, x = mlp()
    net = Net.of(model)
    masks = some_masks(net, share)
    weights = masks(net.params)
    hidden, z1 = x, x.square()
    for name in net.prunable[:-1]:
        hidden = hidden @ weights[name].T
        z1 = (z1 @ masks[name].double().T) * (hidden > 0)
        hidden = hidden.relu()
    last = net.prunable[-1]
    z1 = z1 @ weights[last].T
    assert (z1 < 0).any()
    assert not torch.allclose(z1[:, 0], z1[:, 1])
    entered = {name: (weights[name] if name == last else weights[name].square()).requires_grad_() for name in masks}
    flow = torch.ones(1, 3, dtype=torch.float64)
    for name in net.prunable:
        flow = flow @ (entered[name] * masks[name]).T
    grads = torch.autograd.grad((z1 * flow).sum(), list(entered.values()))
    found = px(net, task(x, 2, 3), masks, last_layer="signed")
    common = (found[last] / (grads[-1].abs() * weights[last].square()))[masks[last]].median()
    for name, grad in zip(entered, grads, strict=True):
        torch.testing.assert_close(found[name], common * grad.abs() * weights[name].square(), rtol=1e-10, atol=0)
    assert not torch.allclose(found[net.prunable[0]] / common, px(net, task(x), masks)[net.prunable[0]])


def test_the_last_layer_is_the_one_that_makes_the_outputs_whatever_its_place() -> None:
    class HeadFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classify = nn.Linear(4, 2, bias=False)
            self.fc = nn.Linear(3, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.classify(self.fc(x).relu())
            return output

    torch.manual_seed(0)
    model, x = HeadFirst().double(), torch.randn(5, 3).double()
    chain = nn.Sequential(model.fc, nn.ReLU(), model.classify)
    data = (x, torch.zeros(5, dtype=torch.long))
    found = foreprune.score(model, "px", data=data, last_layer="signed")
    wanted = foreprune.score(chain, "px", data=data, last_layer="signed")
    torch.testing.assert_close(found["fc.weight"], wanted["0.weight"])
    torch.testing.assert_close(found["classify.weight"], wanted["2.weight"])


def test_a_last_layer_that_is_not_pruned_keeps_its_signs_too() -> None:
    model, x = mlp()
    data = (x, torch.zeros(len(x), dtype=torch.long))
    *others, _ = Net.of(model).prunable
    wanted = foreprune.score(model, "px", data=data, last_layer="signed")
    found = foreprune.score(model, "px", data=data, last_layer="signed", prunable=others)
    for name in others:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-10, atol=0)


def test_an_unknown_last_layer_is_refused() -> None:
    model, x = mlp()
    with pytest.raises(ValueError, match="method 'px': last_layer must be one of 'squared', 'signed', not 'own'"):
        foreprune.score(model, "px", data=(x, torch.zeros(5, dtype=torch.long)), last_layer="own")


def test_the_tangent_kernel_is_at_most_the_energy_times_the_trace_of_the_path_kernel() -> None:
    model, x = mlp()
    net = Net.of(model)
    masks = some_masks(net)
    z1, _, trace, _ = brute_force(net, masks, x)
    jacobian = jacrev(lambda p: functional_call(model, p, (x,)))(masks(net.params))
    kernel = sum((jacobian[name] * masks[name]).square().sum((2, 3)) for name in net.prunable)
    bound = energy(net, masks, x, 2) * trace
    assert (kernel > 0).any()
    assert (kernel <= bound * (1 + 1e-12)).all()
    assert not (kernel <= bound / 50).all()  # it says something
    torch.testing.assert_close(bound, z1 * trace)


def test_gates_are_those_of_the_real_weights_not_of_the_energy_pass() -> None:
    """Two units, one always open and one always shut."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0], [-3.0]]))
        model[2].weight.copy_(torch.tensor([[5.0, 7.0]]))
    data = (torch.tensor([[4.0]]).double(), torch.zeros(1, dtype=torch.long))
    scores = foreprune.score(model, "px", data=data)
    # z1 = 4^2 by the open unit only; z2 = (2 * 5)^2 + (3 * 7)^2
    assert scores["0.weight"].tolist() == [[16 * 100], [16 * 441]]
    assert scores["2.weight"].tolist() == [[16 * 100, 16 * 441]]


def test_energy_is_that_of_the_jacobian_of_a_network_of_ones() -> None:
    """With weights of one, df_k/dx_i sums the active paths from i to k: z1_k = sum_i x_i^2 df_k/dx_i. Here it holds
    max-pooling, strides, padding, a shortcut, average pooling and activations in place to the real gates."""

    class Net_(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(2, 3, 3, padding=1, bias=False)
            self.block = nn.Conv2d(3, 3, 3, padding=1, bias=False)
            self.head = nn.Linear(3, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            x = F.max_pool2d(F.relu(self.stem(x), inplace=True), 3, stride=2, padding=1)
            out = F.relu(self.block(x)) + x
            output: Tensor = self.head(F.adaptive_max_pool2d(F.avg_pool2d(out, 2), 1).flatten(1))
            return output

    model = Net_().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1)
    net = Net.of(model)
    generator = torch.Generator().manual_seed(3)
    masks = some_masks(net, 0.7)
    x = torch.randn(4, 2, 8, 8, generator=generator, dtype=torch.float64)
    slope = jacrev(lambda z: functional_call(model, masks(net.params), (z,)).sum(0))(x)  # (outputs, samples, 2, 8, 8)
    wanted = (slope * x.square()).flatten(2).sum(2).T
    assert (wanted > 0).any()
    torch.testing.assert_close(energy(net, masks, x, 2), wanted, rtol=1e-12, atol=1e-15)
    whole, exponent = active_energy(net, task(x).batches[0], masks, 2, batchnorm="eval")
    torch.testing.assert_close(whole * 2.0**exponent, wanted.sum(0), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("activation", "slope"),
    [
        (nn.LeakyReLU(0.5), lambda v: torch.where(v > 0, 1.0, 0.5)),
        (nn.LeakyReLU(0.5, inplace=True), lambda v: torch.where(v > 0, 1.0, 0.5)),
        (nn.ReLU6(), lambda v: ((v > 0) & (v < 6)).double()),
        (nn.Tanh(), lambda v: 1 - v.tanh() ** 2),
        (nn.Sigmoid(), lambda v: v.sigmoid() * (1 - v.sigmoid())),
        (nn.PReLU(init=0.25), lambda v: torch.where(v > 0, 1.0, 0.25)),
        (nn.Dropout(0.5), torch.ones_like),
    ],
)
def test_activations_count_with_their_squared_slope(activation: nn.Module, slope: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(6, 3)).double()
    x = 4 * torch.randn(7, 4, dtype=torch.float64)
    net = Net.of(model, prunable=["0.weight", "2.weight"])
    real = F.linear(x, net.params["0.weight"], net.params["0.bias"])
    wanted = (x.square().sum(1, keepdim=True) * slope(real).square()).sum(1, keepdim=True).expand(7, 3)
    torch.testing.assert_close(energy(net, Masks.dense(net.weights), x, 3), wanted, rtol=1e-12, atol=0)


def test_without_gates_and_masks_it_is_synflow_l2() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)).double()
    x = torch.randn(6, 4).double()
    found = foreprune.score(model, "px", data=(x, torch.zeros(6, dtype=torch.long)))
    other = foreprune.score(model, "synflow-l2", inputs=x, form="theta2")
    scale = {name: (found[name] / other[name]) for name in found}
    for ratio in scale.values():
        torch.testing.assert_close(ratio, torch.full_like(ratio, 5 * float(x.square().sum())))


def test_samples_are_summed_however_they_are_batched() -> None:
    given = example("conv")
    net = Net.of(given.model)
    dense = Masks.dense(net.weights)
    whole = px(net, task(given.x), dense)
    for sizes in ((5, 7), (1,) * 12):
        for name, score in px(net, task(given.x, *sizes), dense).items():
            torch.testing.assert_close(score, whole[name], rtol=1e-12, atol=0)


def test_batches_of_very_different_energy_are_brought_to_one_scale() -> None:
    model, x = mlp()
    net = Net.of(model)
    masks = Masks({**Masks.dense(net.weights), "4.weight": HALVES})
    batches = torch.cat([x, -1e4 * x, 3e4 * x.abs()])
    _, _, _, wanted = brute_force(net, masks, batches)
    exponents = [active_energy(net, batch, masks, 2, batchnorm="eval")[1] for batch in task(batches, 5, 5, 5).batches]
    assert len(set(exponents)) > 1
    found = px(net, task(batches, 5, 5, 5), masks)
    for name, score in wanted.items():
        torch.testing.assert_close(found[name] / found[name].sum(), score / score.sum(), rtol=1e-12, atol=0)


def test_a_forward_may_work_on_its_inputs_in_place() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp()[0]

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.body(x.mul_(2))
            return output

    model, x = mlp()
    wanted = px(Net.of(model), task(2 * x), Masks.dense(Net.of(model).weights))
    net = Net.of(InPlace())
    before = x.clone()
    found = px(net, task(x), Masks.dense(net.weights))
    assert torch.equal(x, before)
    for name, score in wanted.items():  # a constant factor counts for paths as it is, in both sums
        torch.testing.assert_close(found[f"body.{name}"], score, rtol=1e-12, atol=0)


def test_deep_networks_do_not_overflow_float32() -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(8, 64)]
    for _ in range(40):
        layers += [nn.ReLU(), nn.Linear(64, 64)]
    model = nn.Sequential(*layers)
    data = (torch.rand(3, 8), torch.arange(3))
    single = foreprune.score(model, "px", data=data)
    double = foreprune.score(model.double(), "px", data=(data[0].double(), data[1]))
    assert all(bool(torch.isfinite(score).all()) for score in single.values())
    for name, score in double.items():
        share = single[name].double() / single[name].double().sum()
        torch.testing.assert_close(share, score / score.sum(), rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("name", NETS)
def test_every_kind_of_network_is_scored(name: str) -> None:
    given = example(name)
    scores = foreprune.score(given.model, "px", data=(given.x, given.y))
    for score in scores.values():
        assert bool(torch.isfinite(score).all())
        assert bool((score >= 0).all())
    assert any(bool(score.any()) for score in scores.values())


def test_labels_are_not_looked_at_and_data_are() -> None:
    given = example("conv")
    one = foreprune.prune(given.model, "px", density=0.3, data=(given.x, given.y), rounds=3)
    two = foreprune.prune(given.model, "px", density=0.3, data=(given.x, 0 * given.y), rounds=3)
    assert one == two
    model, x = mlp()
    net = Net.of(model)
    masks = Masks({**Masks.dense(net.weights), "4.weight": HALVES})
    shares = [
        {name: score / score.sum() for name, score in px(net, task(values), masks).items()} for values in (x, -x, 2 * x)
    ]
    for name, share in shares[0].items():
        torch.testing.assert_close(share, shares[2][name])  # gates stay where they are
        assert not torch.allclose(share, shares[1][name], rtol=1e-2)


def test_below_a_dense_last_layer_all_outputs_have_the_same_energy() -> None:
    """So that data change the scores by a factor only, until the last layer is pruned."""
    model, x = mlp()
    net = Net.of(model)
    masks = Masks({**some_masks(net), "4.weight": torch.ones(2, 4, dtype=torch.bool)})
    scores = [px(net, task(values), masks) for values in (x, -x)]
    ratio = scores[1]["0.weight"].sum() / scores[0]["0.weight"].sum()
    for name, score in scores[0].items():
        torch.testing.assert_close(score * ratio, scores[1][name])


def test_batch_normalization_sets_gates_in_inference_mode_or_by_the_batch() -> None:
    """Statistics of the batch center the units, so about half of the gates are open; here all are in inference mode."""
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1), nn.ReLU(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1)
        model[1].bias.fill_(0)
    net = Net.of(model, prunable=["0.weight", "3.weight"])
    x = torch.tensor([[1.0], [2.0], [3.0], [4.0]]).double()
    dense = Masks.dense(net.weights)
    for mode, wanted in (("eval", 1 + 4 + 9 + 16), ("train", 9 + 16)):
        found, exponent = active_energy(net, task(x).batches[0], dense, 1, batchnorm=mode)  # type: ignore[arg-type]
        assert (found * 2.0**exponent).tolist() == [wanted]
    assert foreprune.get_method("px").settings["batchnorm"] == "eval"
    with pytest.raises(ValueError, match=r"method 'px': batchnorm must be one of .train., .eval., not"):
        foreprune.score(model, "px", data=(x, x), batchnorm="both")


def test_pruned_weights_carry_no_path() -> None:
    model, x = mlp()
    net = Net.of(model)
    masks = some_masks(net, 0.5)
    for name, score in px(net, task(x), masks).items():
        assert not score[~masks[name]].any()


def test_twenty_rounds_keep_every_layer_alive() -> None:
    given = example("conv")
    masks = foreprune.prune(given.model, "px", density=0.1, data=(given.x, given.y), rounds=20)
    assert masks.kept == round(0.1 * masks.total)
    assert masks.collapsed() == ()


class Wandering(nn.Module):
    """Chooses its activation by the sign of its weights or of its activations."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, CLASSES)
        self.kind = kind
        with torch.no_grad():
            self.first.weight.fill_(-1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        negative = bool((self.first.weight < 0).any())
        if self.kind == "another":
            hidden = torch.tanh(hidden) if negative else torch.relu(hidden)
        elif self.kind == "fewer":
            hidden = torch.relu(hidden) if negative else hidden
        else:
            hidden = torch.relu(hidden[:, :2] if negative else hidden)
            hidden = F.pad(hidden, (0, 4 - hidden.shape[1]))
        output: Tensor = self.second(hidden)
        return output


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("another", "relu in module '.*Wandering.* is not called there on real activations"),
        ("fewer", "leaves out activations when its weights are ones; use 'synflow-l2'"),
        ("shape", "relu in module '.*Wandering.* gets something of another shape from real activations"),
    ],
)
def test_control_flow_that_differs_between_the_passes_is_refused(kind: str, message: str) -> None:
    data = (torch.rand(3, 4), torch.zeros(3, dtype=torch.long))
    with pytest.raises(PathError, match=message):
        foreprune.score(Wandering(kind), "px", data=data)


def test_outputs_that_belong_to_no_sample_are_refused() -> None:
    class Similarity(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x).mean(0)

    with pytest.raises(
        ValueError, match=r"outputs belong to samples, and this one gives 3 numbers for one .* and 3 for 5"
    ):
        foreprune.score(Similarity(), "px", data=(torch.rand(5, 4), torch.zeros(5, dtype=torch.long)))


def test_weights_that_are_recentered_before_use_are_refused() -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(3, 4))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, F.normalize(self.weight, dim=1))

    data = (torch.rand(5, 4), torch.zeros(5, dtype=torch.long))
    with pytest.raises(PathError, match="the sum over paths falls where 'weight' grows"):
        foreprune.score(Centred(), "px", data=data, prunable=["weight"])


def test_data_are_needed() -> None:
    with pytest.raises(ValueError, match="method 'px' needs data"):
        foreprune.prune(example("mlp").model, "px", density=0.5, inputs=torch.zeros(1, 6))


def test_the_model_is_untouched_also_after_an_exception() -> None:
    given = example("conv")
    given.model.train()
    before = {key: value.clone() for key, value in given.model.state_dict().items()}
    calls: list[int] = []

    def fail(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise ZeroDivisionError

    given.model.register_forward_hook(fail)
    for batchnorm in ("eval", "train"):
        calls.clear()
        with pytest.raises(ZeroDivisionError):
            foreprune.score(given.model, "px", data=(given.x, given.y), batchnorm=batchnorm)
        assert all(torch.equal(value, before[key]) for key, value in given.model.state_dict().items())
        assert all(module.training for module in given.model.modules())
