"""What is open (gates), what is executed (structure), what drops out (constants), in module and functional form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from graph.sums.forwards import Network, assert_same_scores, conv, scores
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE = torch.rand(2, 3, 8, 8)
FLAT = torch.rand(2, 4)


@pytest.fixture(autouse=True)
def _seed() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def images() -> dict[str, nn.Module]:
    return {"a": conv(3, 4), "b": conv(4, 4), "head": nn.Linear(4, 2)}


def flats() -> dict[str, nn.Module]:
    return {"a": nn.Linear(4, 6), "b": nn.Linear(6, 6), "head": nn.Linear(6, 2)}


GATES = {
    "ReLU": nn.ReLU(),
    "ReLU6": nn.ReLU6(),
    "LeakyReLU": nn.LeakyReLU(),
    "PReLU": nn.PReLU(4),
    "RReLU": nn.RReLU(),
    "ELU": nn.ELU(),
    "SELU": nn.SELU(),
    "CELU": nn.CELU(),
    "GELU": nn.GELU(),
    "GELU-tanh": nn.GELU("tanh"),
    "SiLU": nn.SiLU(),
    "Mish": nn.Mish(),
    "Softplus": nn.Softplus(),
    "Softsign": nn.Softsign(),
    "Softshrink": nn.Softshrink(),
    "Hardshrink": nn.Hardshrink(),
    "Tanhshrink": nn.Tanhshrink(),
    "Hardswish": nn.Hardswish(),
    "Hardtanh": nn.Hardtanh(),
    "Hardsigmoid": nn.Hardsigmoid(),
    "Sigmoid": nn.Sigmoid(),
    "LogSigmoid": nn.LogSigmoid(),
    "Tanh": nn.Tanh(),
    "Threshold": nn.Threshold(0.1, 0.0),
    "Softmax": nn.Softmax(1),
    "Softmin": nn.Softmin(1),
    "LogSoftmax": nn.LogSoftmax(1),
    "Dropout": nn.Dropout(),
    "Dropout2d": nn.Dropout2d(),
    "AlphaDropout": nn.AlphaDropout(),
    "BatchNorm": nn.BatchNorm2d(4),
    "GroupNorm": nn.GroupNorm(2, 4),
    "LayerNorm": nn.LayerNorm((4, 8, 8)),
    "RMSNorm": nn.RMSNorm((8,)),
    "InstanceNorm": nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
    "LocalResponseNorm": nn.LocalResponseNorm(2),
    "Identity": nn.Identity(),
}


@pytest.mark.parametrize("gate", GATES)
def test_gates_pass_their_input_on(gate: str) -> None:
    assert_same_scores(
        lambda m, x: m.head(m.b(m.gate(m.a(x))).mean((2, 3))),
        lambda m, x: m.head(m.b(m.a(x)).mean((2, 3))),
        IMAGE,
        **images(),
        gate=GATES[gate],
    )


@pytest.mark.parametrize(
    "activation",
    [
        torch.relu,
        F.relu,
        Tensor.relu,
        lambda h: h.clamp(min=0),
        lambda h: torch.clamp(h, 0, 1),
        lambda h: h * (h > 0),
        lambda h: h * (h > 0).to(h.dtype),
        lambda h: torch.where(h > 0, h, torch.zeros_like(h)),
        lambda h: torch.where(h > 0, h, 0.1 * h),
        lambda h: h.where(h > 0, torch.zeros((), dtype=h.dtype)),
        lambda h: torch.maximum(h, torch.zeros(1, dtype=h.dtype)),
        lambda h: torch.max(h, torch.zeros(1, dtype=h.dtype)),
        lambda h: F.relu(h).square(),
        lambda h: h * torch.sigmoid(h),
        lambda h: h * F.relu6(h + 3) / 6,
        lambda h: h * torch.tanh(F.softplus(h)),
        lambda h: 0.5 * h * (1 + torch.erf(h / 2**0.5)),
        lambda h: 0.5 * h * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (h + 0.044715 * h**3))),
        lambda h: -h,
        lambda h: h.abs(),
    ],
)
def test_activations_written_by_hand(activation: Any) -> None:
    assert_same_scores(lambda m, x: m.head(m.b(activation(m.a(x)))), lambda m, x: m.head(m.b(m.a(x))), FLAT, **flats())


def rms(h: Tensor) -> Tensor:
    return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)


def layer_norm(h: Tensor) -> Tensor:
    mean = h.mean(-1, keepdim=True)
    return (h - mean) / torch.sqrt((h - mean).pow(2).mean(-1, keepdim=True) + 1e-6)


@pytest.mark.parametrize(
    "normalize",
    [
        rms,
        layer_norm,
        lambda h: (h - h.mean(1, keepdim=True)) / (h.std(1, keepdim=True) + 1e-5),
        lambda h: (h - h.mean(-1, True)) * (h.var(-1, keepdim=True) + 1e-5).rsqrt(),
        lambda h: torch.sub(h, torch.var_mean(h, -1, keepdim=True)[1]),
        lambda h: h / h.norm(dim=-1, keepdim=True),
        lambda h: h / torch.linalg.vector_norm(h, dim=-1, keepdim=True).clamp(min=1e-6),
        lambda h: h * (1 / h.abs().sum(-1, keepdim=True)),
        lambda h: F.normalize(h, dim=-1),
        lambda h: F.layer_norm(h, (6,)),
        lambda h: F.rms_norm(h, (6,)),
        lambda h: F.layer_norm(h.float(), (6,)).to(h.dtype),
    ],
)
def test_normalizations_written_by_hand_are_identities_like_the_modules(normalize: Any) -> None:
    assert_same_scores(lambda m, x: m.head(m.b(normalize(m.a(x)))), lambda m, x: m.head(m.b(m.a(x))), FLAT, **flats())


def test_squeeze_and_excitation_is_open_and_its_weights_carry_nothing() -> None:
    def excited(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        gate = torch.sigmoid(m.up(F.relu(m.down(F.adaptive_avg_pool2d(h, 1)))))
        output: Tensor = m.head(m.b(h * gate).mean((2, 3)))
        return output

    found = assert_same_scores(
        excited,
        lambda m, x: m.head(m.b(m.a(x)).mean((2, 3))),
        IMAGE,
        **images(),
        down=nn.Conv2d(4, 2, 1),
        up=nn.Conv2d(2, 4, 1),
    )
    assert not found["down.weight"].any()
    assert not found["up.weight"].any()


@pytest.mark.parametrize("order", [0, 1])
def test_gated_linear_units(order: int) -> None:
    """The activated branch is the gate, whichever side of the product it is on."""

    def gated(m: Any, x: Tensor) -> Tensor:
        factors = (F.silu(m.gate(x)), m.a(x))
        output: Tensor = m.head(m.b(factors[order] * factors[1 - order]))
        return output

    found = assert_same_scores(gated, lambda m, x: m.head(m.b(m.a(x))), FLAT, **flats(), gate=nn.Linear(4, 6))
    assert not found["gate.weight"].any()


@pytest.mark.parametrize(
    "glu",
    [
        lambda h: F.glu(h),
        lambda h: F.glu(h, dim=1),
        lambda h: nn.GLU()(h),
        lambda h: h[:, :3] * torch.sigmoid(h[:, 3:]),
    ],
)
def test_glu_is_its_first_half(glu: Any) -> None:
    assert_same_scores(
        lambda m, x: m.head(glu(m.a(x))),
        lambda m, x: m.head(m.a(x)[:, :3]),
        FLAT,
        a=nn.Linear(4, 6),
        head=nn.Linear(3, 2),
    )


POOLS = {
    "AdaptiveMaxPool": (nn.AdaptiveMaxPool2d(1), lambda h: F.adaptive_max_pool2d(h, 1)),
    "AdaptiveAvgPool": (nn.AdaptiveAvgPool2d(1), lambda h: h.mean((2, 3), keepdim=True)),
    "MaxPool": (nn.MaxPool2d(8), lambda h: h.amax((2, 3), keepdim=True)),
    "AvgPool": (nn.AvgPool2d(8), lambda h: F.avg_pool2d(h, 8)),
    "Flatten": (
        nn.Sequential(nn.Flatten(2), nn.AdaptiveAvgPool1d(1)),
        lambda h: torch.flatten(input=h, start_dim=2).mean(2),
    ),
    "Unfold": (nn.Sequential(nn.Unfold(8), nn.Unflatten(1, (4, 64))), lambda h: h.reshape(h.shape[0], 4, 64, 1)),
    "Pad": (nn.ZeroPad2d(1), lambda h: torch.nn.functional.pad(h, (1, 1, 1, 1))),
    "Upsample": (nn.Upsample(scale_factor=2), lambda h: h.repeat_interleave(2, 2).repeat_interleave(2, 3)),
    "PixelShuffle": (
        nn.PixelShuffle(2),
        lambda h: h.view(-1, 1, 2, 2, 8, 8).permute(0, 1, 4, 2, 5, 3).reshape(-1, 1, 16, 16),
    ),
    "Permute": (
        nn.Identity(),
        lambda h: h.transpose(1, 2).contiguous().swapaxes(1, 2).movedim(1, 3).permute(0, 3, 1, 2),
    ),
}


@pytest.mark.parametrize("pool", POOLS)
def test_pooling_and_rearranging_as_module_and_function(pool: str) -> None:
    module, function = POOLS[pool]

    def reduced(h: Tensor) -> Tensor:
        return h.flatten(1).cumsum(1)[:, ::16].sum(1, keepdim=True)

    assert_same_scores(
        lambda m, x: m.head(reduced(m.pool(m.b(m.a(x))))),
        lambda m, x: m.head(reduced(function(m.b(m.a(x))))),
        IMAGE,
        a=conv(3, 4),
        b=conv(4, 4),
        head=nn.Linear(1, 2),
        pool=module,
    )


def test_biases_means_and_modes_do_not_matter() -> None:
    network = Network(
        lambda m, x: m.head(F.dropout(m.norm(m.a(x)), 0.9).mean((2, 3))),
        a=conv(3, 4),
        norm=nn.BatchNorm2d(4),
        head=nn.Linear(4, 2),
    )
    before = scores(network, IMAGE)
    with torch.no_grad():
        network.a.bias.fill_(-100.0)
        network.head.bias.fill_(float("inf"))
        network.norm.running_mean.fill_(50.0)
    network.eval()
    after = scores(network, IMAGE * 100)
    assert all(torch.equal(before[name], after[name]) for name in before)


TOKEN = {
    "parameter": lambda m, h: torch.cat([m.token.expand(h.shape[0], -1, -1), h], 1),
    "keywords": lambda m, h: torch.cat(tensors=[m.token.expand(h.shape[0], -1, -1), h], dim=1),
    "zeros_like": lambda m, h: torch.cat([torch.zeros_like(h[:, :1]), h], 1),
    "ones_like": lambda m, h: torch.concat([torch.ones_like(h[:, :1]), h], 1),
    "new_zeros": lambda m, h: torch.hstack([h.new_zeros(h.shape[0], 1, h.shape[2]), h]),
    "new_ones": lambda m, h: torch.cat((h.new_ones(h.shape[0], 1, h.shape[2]), h), 1),
    "pad": lambda m, h: F.pad(h, (0, 0, 1, 0), value=1.0) if False else F.pad(h, (0, 0, 1, 0)),
}


@pytest.mark.parametrize("token", TOKEN)
def test_constants_that_are_concatenated_drop_out(token: str) -> None:
    """A class token is a bias: no path begins there. The reference multiplies by hand."""
    network = Network(
        lambda m, x: m.head(TOKEN[token](m, m.a(x)).mean(1)),
        a=nn.Linear(4, 6),
        head=nn.Linear(6, 2),
        token=nn.Parameter(torch.full((1, 1, 6), 3.0)),
    ).double()
    found = scores(network, torch.rand(2, 5, 4).double())
    a, head = (layer.weight.detach().abs() for layer in (network.a, network.head))
    wanted = head * a.sum(1) * 5 / 6
    torch.testing.assert_close(found["head.weight"], wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(found["a.weight"].sum(1), wanted.sum(0), rtol=1e-12, atol=0)


def test_additive_constants_that_depend_on_prunable_weights_drop_out_too() -> None:
    """Learned queries through a layer, as in detection transformers."""
    found = assert_same_scores(
        lambda m, x: m.head(m.a(x) + m.b(m.query)),
        lambda m, x: m.head(m.a(x)),
        FLAT,
        **flats(),
        query=nn.Parameter(torch.ones(1, 6)),
    )
    assert not found["b.weight"].any()


def test_constant_factors_count_by_their_size() -> None:
    found = assert_same_scores(
        lambda m, x: m.head(m.a(x) * torch.tensor(-2.0) + m.c(x) * m.scale),
        lambda m, x: m.head(2 * m.a(x) - 3 * m.c(x)),
        FLAT,
        a=nn.Linear(4, 6),
        c=nn.Linear(4, 6),
        head=nn.Linear(6, 2),
        scale=torch.full((6,), -3.0),
    )
    assert float(found["a.weight"].sum()) > 0


def test_convolution_by_addmm_as_in_gpt2() -> None:
    class Conv1D(nn.Module):
        def __init__(self, outputs: int, inputs: int) -> None:
            super().__init__()
            self.nf = outputs
            self.weight = nn.Parameter(torch.randn(inputs, outputs))
            self.bias = nn.Parameter(torch.ones(outputs))

        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], self.nf)

    one = nn.Sequential(Conv1D(6, 4), nn.GELU(), Conv1D(2, 6)).double()
    other = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2)).double()
    with torch.no_grad():
        other[0].weight.copy_(one[0].weight.t())
        other[2].weight.copy_(one[2].weight.t())
    first, second = scores(one, torch.rand(1, 3, 4).double()), scores(other, torch.rand(1, 3, 4).double())
    for name in first:
        torch.testing.assert_close(first[name].t(), second[name], rtol=1e-12, atol=0)


def test_an_operation_in_place_on_the_gate_turns_it_into_the_value() -> None:
    def in_place(m: Any, x: Tensor) -> Tensor:
        gate = torch.sigmoid(m.b(m.a(x)))
        gate *= m.a(x)
        output: Tensor = m.head(gate)
        return output

    def statement(m: Any, x: Tensor) -> Tensor:
        gate = torch.sigmoid(m.b(m.a(x)))
        gate.mul_(m.a(x))
        output: Tensor = m.head(gate)
        return output

    for forward in (in_place, statement):
        assert_same_scores(forward, lambda m, x: m.head(m.a(x)), FLAT, **flats())


def test_transposed_and_grouped_convolutions_conserve() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, groups=1),
        nn.ConvTranspose2d(4, 4, 3, groups=2, bias=False),
        nn.Conv2d(4, 4, 1, groups=4),
        nn.Flatten(),
        nn.Linear(256, 2),
    ).double()
    sums = [float(score.sum()) for score in scores(network, IMAGE.double()).values()]
    assert sums == pytest.approx([sums[0]] * 4, rel=1e-12)
    one = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ConvTranspose1d(3, 2, 2), nn.Flatten(), nn.Linear(2 * 7, 2)).double()
    sums = [float(score.sum()) for score in scores(one, torch.rand(1, 2, 8).double()).values()]
    assert sums == pytest.approx([sums[0]] * 3, rel=1e-12)


@pytest.mark.parametrize("shortcut", ["pad", "zeros_like", "slice"])
def test_parameter_free_shortcuts(shortcut: str) -> None:
    """Option A of the CIFAR residual networks, written in the ways people write it."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        skip = {
            "pad": lambda: F.pad(h[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)),
            "zeros_like": lambda: torch.cat(
                [torch.zeros_like(h[:, :2, ::2, ::2]), h[:, :, ::2, ::2], torch.zeros_like(h[:, :2, ::2, ::2])], 1
            ),
            "slice": lambda: torch.cat([h[:, :2, ::2, ::2] * 0, h[..., ::2, ::2], h[:, :2, ::2, ::2] * 0], 1),
        }[shortcut]()
        output: Tensor = m.head((m.b(h) + skip).mean((2, 3)))
        return output

    def reference(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        kernel = torch.zeros(8, 4, 1, 1, dtype=h.dtype)
        kernel[2:6] = torch.eye(4)[:, :, None, None]
        output: Tensor = m.head((m.b(h) + F.conv2d(h, kernel, stride=2)).mean((2, 3)))
        return output

    assert_same_scores(forward, reference, IMAGE, a=conv(3, 4), b=conv(4, 8, stride=2), head=nn.Linear(8, 2))
