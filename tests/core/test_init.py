"""Fresh parameters: the right distribution for every layer, and nobody else's tensors."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from contract.nets import NETS, example
from torch import Tensor, nn

from foreprune.core.init import fresh, fresh_statistics, initializers
from foreprune.core.net import Net
from foreprune.zoo.models import create


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("init", ["kaiming", "own"])
@pytest.mark.parametrize("name", NETS)
def test_every_parameter_is_drawn_into_memory_of_its_own(name: str, init: str) -> None:
    net = Net.of(example(name).model)
    before = {key: (value.clone(), value._version) for key, value in net.params.items()}
    state = torch.random.get_rng_state()
    drawn = fresh(net, generator(), init=init)
    assert {key: (value.shape, value.dtype) for key, value in drawn.items()} == {
        key: (value.shape, value.dtype) for key, value in net.params.items()
    }
    for key, (value, version) in before.items():
        assert torch.equal(net.params[key], value)
        assert net.params[key]._version == version
        assert drawn[key].data_ptr() != net.params[key].data_ptr()
        assert not drawn[key].requires_grad
    assert all(not torch.equal(drawn[key], net.params[key]) for key in net.prunable)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("init", ["kaiming", "own"])
def test_the_generator_decides(init: str) -> None:
    net = Net.of(example("encoder").model)
    first, again, other = (fresh(net, generator(seed), init=init) for seed in (0, 0, 1))
    with torch.random.fork_rng():
        torch.manual_seed(99)
        apart = fresh(net, generator(0), init=init)
    for key in net.prunable:
        assert torch.equal(first[key], again[key])
        assert torch.equal(first[key], apart[key])
        assert not torch.equal(first[key], other[key])
    one = generator(0)
    assert not torch.equal(fresh(net, one)[net.prunable[0]], fresh(net, one)[net.prunable[0]])


class Gpt2Conv1D(nn.Module):
    """As in GPT-2: the weight lies the other way round."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.zeros(nx, nf))
        self.bias = nn.Parameter(torch.full((nf,), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


Gpt2Conv1D.__name__ = "Conv1D"

LAYERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "linear": (lambda: nn.Linear(50, 400), 50),
    "convolution": (lambda: nn.Conv2d(20, 100, 3), 20 * 9),
    "grouped": (lambda: nn.Conv2d(20, 200, (3, 5), groups=4), 5 * 15),
    "transposed": (lambda: nn.ConvTranspose2d(24, 100, 3, groups=2), 12 * 9),
    "convolution 1d": (lambda: nn.Conv1d(20, 400, 5), 100),
    "gpt2": (lambda: Gpt2Conv1D(400, 50), 50),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_kaiming_has_variance_two_over_fan_in_and_keeps_biases(layer: str) -> None:
    build, fan_in = LAYERS[layer]
    net = Net.of(build())
    drawn = fresh(net, generator())
    weight = drawn["weight"]
    # the standard error of a standard deviation is 1 / sqrt(2 n) of it
    assert abs(float(weight.std()) / math.sqrt(2 / fan_in) - 1) < 5 / math.sqrt(2 * weight.numel())
    assert abs(float(weight.mean())) < 5 * math.sqrt(2 / fan_in / weight.numel())
    assert float(weight.abs().max()) > 3 * float(weight.std())  # normal, not uniform
    assert torch.equal(drawn["bias"], net.params["bias"])


def test_own_initializers_draw_weights_and_biases() -> None:
    net = Net.of(nn.Sequential(nn.Linear(100, 300), nn.Embedding(50, 40)))
    drawn = fresh(net, generator(), init="own")
    bound = 1 / math.sqrt(100)
    for name in ("0.weight", "0.bias"):
        assert 0.95 * bound < float(drawn[name].abs().max()) <= bound, name
    assert not torch.equal(drawn["0.bias"], net.params["0.bias"])
    assert abs(float(drawn["1.weight"].std()) - 1) < 0.1


@pytest.mark.parametrize("init", ["kaiming", "own"])
@pytest.mark.parametrize(
    "norm",
    [
        lambda: nn.BatchNorm2d(5),
        lambda: nn.GroupNorm(1, 5),
        lambda: nn.LayerNorm(5),
        lambda: nn.InstanceNorm2d(5, affine=True),
    ],
)
def test_normalizations_become_identities_even_zero_initialized_ones(norm: Callable[[], nn.Module], init: str) -> None:
    model = nn.Sequential(nn.Linear(5, 5), norm())
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.fill_(7)
    drawn = fresh(Net.of(model), generator(), init=init)
    assert torch.equal(drawn["1.weight"], torch.ones(5))
    assert torch.equal(drawn["1.bias"], torch.zeros(5))


def test_attention_is_drawn_by_itself_and_its_parts_with_it() -> None:
    attention = nn.MultiheadAttention(40, 4)
    with torch.no_grad():
        attention.in_proj_bias.fill_(1)
        attention.out_proj.bias.fill_(1)
    net = Net.of(attention)
    drawn = fresh(net, generator())
    bound = math.sqrt(6 / (40 + 120))  # Xavier, uniform
    assert 0.98 * bound < float(drawn["in_proj_weight"].abs().max()) <= bound
    assert float(drawn["in_proj_bias"].abs().max()) == 0
    assert abs(float(drawn["out_proj.weight"].std()) / math.sqrt(2 / 40) - 1) < 0.1
    assert float(net.params["in_proj_bias"].min()) == 1
    assert float(net.params["out_proj.bias"].min()) == 1


class Custom(nn.Module):
    """Parameters of its own, no initializer, and a second way to reach one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(200, 50))
        self.scale = nn.Parameter(torch.full((3,), 2.0))
        self.table = nn.Parameter(torch.full((3, 4), 5.0))
        self.linear = nn.Linear(4, 4)


def test_what_no_layer_knows_how_to_draw() -> None:
    net = Net.of(Custom(), prunable=["matrix", "scale", "linear.weight"])
    for init in ("kaiming", "own"):
        drawn = fresh(net, generator(), init=init)
        assert abs(float(drawn["matrix"].std()) / math.sqrt(2 / 50) - 1) < 0.05
        assert torch.equal(drawn["scale"], net.params["scale"])
        assert torch.equal(drawn["table"], net.params["table"])


class Listed(nn.Module):
    """Its initializer writes to its parameters by way of an attribute that is not a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 4))
        self.all = [self.weight]

    def reset_parameters(self) -> None:
        for weight in self.all:
            nn.init.uniform_(weight, 1, 2)


def test_initializers_cannot_reach_the_users_tensors() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Listed())
    drawn = fresh(Net.of(model), generator())
    assert float(drawn["1.weight"].min()) >= 1
    assert not model[1].weight.any()


def test_tied_weights_are_drawn_once_where_they_are_met_first() -> None:
    net = Net.of(example("tied").model)
    assert list(fresh(net, generator())) == list(net.params)
    model = nn.Sequential(nn.Linear(30, 400, bias=False), nn.Linear(400, 30, bias=False))
    model[1].weight = nn.Parameter(model[0].weight.detach().T.contiguous())
    tied = nn.ModuleDict({"a": model[0], "b": model[0]})
    drawn = fresh(Net.of(tied), generator())
    assert list(drawn) == ["a.weight"]
    assert abs(float(drawn["a.weight"].std()) / math.sqrt(2 / 30) - 1) < 0.05


def test_drawing_again_reuses_the_memory_and_gives_what_a_first_draw_gives() -> None:
    net = Net.of(example("encoder").model)
    one, other = generator(), generator()
    buffers = fresh(net, one)
    places = {key: value.data_ptr() for key, value in buffers.items()}
    fresh(net, other)
    again = fresh(net, one, out=buffers)
    wanted = fresh(net, other)
    for key, value in again.items():
        assert value.data_ptr() == places[key]
        assert torch.equal(value, wanted[key])


def test_weights_in_another_memory_order_are_drawn_alike() -> None:
    model = nn.Conv2d(8, 16, 3)
    plain = fresh(Net.of(model), generator())["weight"]
    last = fresh(Net.of(model.to(memory_format=torch.channels_last)), generator())["weight"]
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last, plain)


@pytest.mark.parametrize("init", initializers())
def test_a_distribution_by_name_draws_biases_and_normalizations_too(init: str) -> None:
    model = nn.Sequential(nn.Conv2d(30, 40, 3), nn.BatchNorm2d(40), nn.Flatten(), Gpt2Conv1D(400, 50))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    drawn = fresh(Net.of(model), generator(), init=init)
    fan_in, fan_out = 30 * 9, 40 * 9
    variance = {
        "kaiming-normal-fan-in": 2 / fan_in,
        "kaiming-normal-fan-out": 2 / fan_out,
        "kaiming-uniform-fan-in": 2 / fan_in,
        "xavier-normal": 2 / (fan_in + fan_out),
        "xavier-uniform": 2 / (fan_in + fan_out),
        "normal-0.1": 0.01,
        "normal-variance-0.1": 0.1,
        "constant-variance": 1,
    }[init.removesuffix("+uniform-scale")]
    assert float(drawn["0.weight"].var()) == pytest.approx(variance, rel=0.05)
    assert bool(drawn["0.weight"].abs().max() <= math.sqrt(3 * variance)) is ("-uniform" in init)
    for name in ("0.bias", "1.bias", "3.bias"):
        assert not drawn[name].any()
    scale = drawn["1.weight"]
    if init.endswith("+uniform-scale"):
        assert 0 <= float(scale.min()) < 0.25 < 0.75 < float(scale.max()) <= 1
    else:
        assert scale.eq(1).all()


@pytest.mark.parametrize("init", initializers())
def test_both_ways_to_draw_give_the_same_numbers(init: str) -> None:
    model = create("resnet-8", input_shape=(3, 8, 8), init=init, seed=4)
    drawn = fresh(Net.of(model), generator(4), init=init)
    assert drawn.keys() == dict(model.named_parameters()).keys()
    for name, value in model.named_parameters():
        assert torch.equal(drawn[name], value), name


def test_what_is_left_undrawn_is_said() -> None:
    net = Net.of(Custom(), prunable=["matrix", "linear.weight"])
    with pytest.warns(UserWarning, match=r"no layer knows how to draw scale, table: left as they are; give"):
        drawn = fresh(net, generator(), init="xavier-normal")
    assert torch.equal(drawn["scale"], net.params["scale"])
    assert float(drawn["matrix"].var()) == pytest.approx(2 / 250, rel=0.1)


def test_fresh_running_statistics() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 3))
    model(torch.randn(8, 3) + 5)
    found = fresh_statistics(Net.of(model))
    assert {name: value.tolist() for name, value in found.items()} == {
        "0.running_mean": [0, 0, 0],
        "0.running_var": [1, 1, 1],
        "0.num_batches_tracked": 0,
    }
    assert int(model[0].num_batches_tracked) == 1


def test_an_unknown_initializer_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"unknown init 'he'; known: .*variance, each also with .uniform-scale, kaiming, own$",
    ):
        fresh(Net.of(nn.Linear(2, 2)), generator(), init="he")
