"""Path scores where plain float32 overflows, in single and in double precision: powers of two against float64."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import foreprune
from foreprune.core.masks import Masks


class Deep(nn.Module):
    """A convolutional residual network of 60 layers, with or without additions in place."""

    def __init__(self, *, width: int = 24, blocks: int = 29, in_place: bool = True) -> None:
        super().__init__()
        self.in_place = in_place
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.first = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(blocks)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(width) for _ in range(blocks)])
        self.second = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(blocks)])
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x), inplace=True)
        for first, norm, second in zip(self.first, self.norms, self.second, strict=True):
            out = second(F.relu(norm(first(x)), inplace=True))
            if self.in_place:
                out += x
            else:
                out = torch.stack([x, out]).sum(0)
            x = F.relu(out, inplace=True)
        output: Tensor = self.head(x.mean((2, 3)))
        return output


def literal_synflow_sum(model: nn.Module, x: Tensor) -> float:
    """R as the published code computes it: absolute parameters and buffers, evaluation mode, one forward on ones."""
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        for entry in model.state_dict().values():
            entry.abs_()
        return float(model(torch.ones_like(x[:1])).sum())


def assert_float32_agrees_with_float64(model: nn.Module, x: Tensor, method: str) -> None:
    single = foreprune.score(model, method, inputs=x, precision="single")
    double = foreprune.score(model, method, inputs=x)
    assert all(score.dtype == torch.float32 for score in single.values())
    wide = foreprune.score(copy.deepcopy(model).double(), method, inputs=x.double())
    assert all(torch.equal(double[name], score) for name, score in wide.items())
    factor = sum(float(s.sum()) for s in double.values()) / sum(float(s.double().sum()) for s in single.values())
    assert factor > 0
    for name in single:
        torch.testing.assert_close(single[name].double() * factor, double[name], rtol=1e-4, atol=0, msg=name)
    masks = [Masks(dict(zip(scores, _top(scores), strict=True))) for scores in (single, double)]
    common = (masks[0] & masks[1]).kept
    assert common >= 0.9999 * masks[0].kept


def _top(scores: dict[str, Tensor]) -> list[Tensor]:
    flat = torch.cat([score.flatten().double() for score in scores.values()])
    threshold = flat.sort().values[int(0.95 * flat.numel())]
    return [score.double() >= threshold for score in scores.values()]


def drawn(model: nn.Module, gain: float) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fan = module.weight[0].numel()
            nn.init.normal_(module.weight, std=gain / math.sqrt(fan), generator=generator)
    return model


def literal_synflow(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """|w| dR/d|w| of a network without biases and normalizations by plain automatic differentiation."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    named = dict(model.named_parameters())
    total = model(torch.ones_like(x[:1])).sum()
    assert 0 < float(total.detach()) < math.inf
    grads = torch.autograd.grad(total, list(named.values()))
    return {name: (named[name] * grad).detach() for name, grad in zip(named, grads, strict=True)}


def without_biases(model: nn.Module) -> nn.Module:
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.bias = None
    return model


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("gain", [1.5, 0.02])
def test_exponents_are_kept_track_of_over_branches(gain: float, in_place: bool) -> None:
    """In float64 plain differentiation is in range: with a wrong exponent branches would be weighed wrongly."""
    model = without_biases(drawn(Deep(width=12, blocks=12, in_place=in_place), gain)).double()
    with torch.no_grad():
        for layer in (*model.first[::2], *model.second[::3]):
            layer.weight.mul_(2.0**-40 if gain < 1 else 2.0**40)
    x = torch.zeros(1, 3, 6, 6, dtype=torch.float64)
    wanted = literal_synflow(model, x)
    found = foreprune.score(model, "synflow", inputs=x)
    factor = sum(float(w.sum()) for w in wanted.values()) / sum(float(f.sum()) for f in found.values())
    assert gain < 1 or factor > 1e6  # some scaling has taken place
    for name in wanted:
        torch.testing.assert_close(found[name] * factor, wanted[name], rtol=1e-9, atol=0, msg=name)


@pytest.mark.parametrize("method", ["synflow", "synflow-l2"])
@pytest.mark.parametrize("gain", [4.0, 1e-4], ids=["overflow", "underflow"])
def test_a_deep_residual_network(method: str, gain: float) -> None:
    model = drawn(Deep(), gain)
    x = torch.zeros(1, 3, 8, 8)
    if gain > 1:
        assert math.isinf(literal_synflow_sum(model, x))
    assert_float32_agrees_with_float64(model, x, method)


def test_a_deep_plain_network_that_underflows() -> None:
    """Without shortcuts 80 small layers multiply to far less than the smallest float32."""
    model = nn.Sequential(*[layer for _ in range(80) for layer in (nn.Linear(12, 12), nn.ReLU())], nn.Linear(12, 3))
    drawn(model, 0.02)
    assert (
        literal_synflow_sum(
            nn.Sequential(*(m for m in model if isinstance(m, nn.ReLU) or drop_bias(m))), torch.zeros(1, 12)
        )
        == 0
    )
    assert_float32_agrees_with_float64(model, torch.zeros(1, 12), "synflow")


def drop_bias(module: nn.Module) -> bool:
    module.bias = None  # type: ignore[assignment]
    return True


def test_an_addition_in_place_across_a_large_gap() -> None:
    """A long shortcut around layers that shrink by 2**-300: the shortcut is larger by more than float32 can scale."""

    class Gap(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(4, 4)
            self.small = nn.ModuleList([nn.Linear(4, 4) for _ in range(30)])
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            out = x
            for layer in self.small:
                out = layer(out)
            out += x
            output: Tensor = self.head(out)
            return output

    model = Gap()
    with torch.no_grad():
        for layer in model.small:
            layer.weight.fill_(2.0**-12)
    scores = foreprune.score(model, "synflow", inputs=torch.zeros(1, 4))
    assert torch.isfinite(torch.cat([score.flatten() for score in scores.values()])).all()
    total = float(scores["head.weight"].sum())
    assert float(scores["stem.weight"].sum()) == pytest.approx(total, rel=1e-6)
    assert total > 0


def test_powers_of_two_leave_every_bit_where_plain_arithmetic_stays_in_range() -> None:
    """Scores are those of a plain forward with |w|, bit for bit up to one power of two."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 64, bias=False), nn.ReLU(), nn.Linear(64, 64, bias=False), nn.Linear(64, 8, bias=False)
    )
    with torch.no_grad():
        for layer in (model[0], model[2], model[3]):
            layer.weight.mul_(1000)
    weights = [layer.weight.detach().abs().requires_grad_() for layer in (model[0], model[2], model[3])]
    total = torch.ones(1, 64)
    for weight in weights:
        total = F.linear(total, weight)
    plain = [
        weight.detach() * grad for weight, grad in zip(weights, torch.autograd.grad(total.sum(), weights), strict=True)
    ]
    found = list(foreprune.score(model, "synflow", inputs=torch.zeros(1, 64), precision="single").values())
    factor = float(plain[0].flatten()[0] / found[0].flatten()[0])
    assert math.frexp(factor)[0] == 0.5
    assert factor > 2
    assert all(torch.equal(ours * factor, theirs) for ours, theirs in zip(found, plain, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("resnet-110", 32), ("resnet-50", 224)])
def test_networks_of_the_papers(name: str, size: int) -> None:
    """float32 overflows on both; a published implementation keeps no weight of ResNet-50 at 224 px."""
    from foreprune.zoo import models

    model = models.create(name, input_shape=(3, size, size), classes=10)
    x = torch.zeros(1, 3, size, size)
    assert not math.isfinite(literal_synflow_sum(model, x))
    assert_float32_agrees_with_float64(model, x, "synflow")
