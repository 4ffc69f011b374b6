"""Operations in place and views: the graph of paths is that of the same network written without them."""

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


class PreActivation(nn.Module):
    """A pre-activation residual network, in place wherever it can be or nowhere."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.stem = conv(3, 4, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4) for _ in range(4)])
        self.convs = nn.ModuleList([conv(4, 4, bias=False) for _ in range(4)])
        self.relu = nn.ReLU(inplace=in_place)
        self.head = nn.Linear(4, 3)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in range(2):
            out = self.convs[2 * block](self.relu(self.norms[2 * block](x)))
            out = self.convs[2 * block + 1](self.relu(self.norms[2 * block + 1](out)))
            if self.in_place:
                x += out
            else:
                x = x + out
        if self.in_place:
            x = F.relu_(x)
            x *= 0.5
            x /= 2
            x -= 1
        else:
            x = (F.relu(x) * 0.5) / 2 - 1
        output: Tensor = self.head(x.mean((2, 3)))
        return output


def test_pre_activation_residual_network() -> None:
    one, other = PreActivation(True).double(), PreActivation(False).double()
    other.load_state_dict(one.state_dict())
    first, second = (scores(model, IMAGE.double()) for model in (one, other))
    assert all(float(score.sum()) > 0 for score in first.values())
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-12, atol=0)


def test_an_activation_keeps_what_it_was_given() -> None:
    """h is changed in place after relu(h) was used: a gate that returned h itself would change with it."""

    def in_place(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        r = F.relu(h)
        h += m.b(r)
        output: Tensor = m.head((h + 2 * r).mean((2, 3)))
        return output

    def out_of_place(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        r = F.relu(h)
        output: Tensor = m.head((h + m.b(r) + 2 * r).mean((2, 3)))
        return output

    assert_same_scores(in_place, out_of_place, IMAGE, a=conv(3, 4), b=conv(4, 4), head=nn.Linear(4, 2))


@pytest.mark.parametrize(
    "alias",
    [
        lambda m, h: m.norm(h),
        lambda m, h: F.dropout(h, 0.5),
        lambda m, h: h + 1.0,
        lambda m, h: h - m.offset,
        lambda m, h: h * torch.sigmoid(m.gate(h)),
        lambda m, h: h / h.norm(),
        lambda m, h: h.float(),
        lambda m, h: 1.0 * h,
        lambda m, h: h.clone(),
    ],
)
def test_nothing_that_is_new_in_the_network_is_shared_in_the_graph(alias: Any) -> None:
    def in_place(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        r = alias(m, h)
        h += m.b(h.clone())
        output: Tensor = m.head(h + 3 * r.to(h.dtype))
        return output

    def out_of_place(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        r = alias(m, h)
        output: Tensor = m.head(h + m.b(h.clone()) + 3 * r.to(h.dtype))
        return output

    parts = {"a": nn.Linear(4, 6), "b": nn.Linear(6, 6), "gate": nn.Linear(6, 6), "head": nn.Linear(6, 2)}
    assert_same_scores(in_place, out_of_place, FLAT, **parts, norm=nn.LayerNorm(6), offset=torch.ones(6))


def test_additions_into_views_reach_their_base() -> None:
    def views(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        left, right = h[:, :3], h.narrow(1, 3, 3)
        left += m.b(right.clone())
        right *= 3
        output: Tensor = m.head(h)
        return output

    def plain(m: Any, x: Tensor) -> Tensor:
        left, right = m.a(x).chunk(2, dim=1)
        output: Tensor = m.head(torch.cat([left + m.b(right), 3 * right], dim=1))
        return output

    assert_same_scores(views, plain, FLAT, a=nn.Linear(4, 6), b=nn.Linear(3, 3), head=nn.Linear(6, 2))


def test_augmented_assignment_to_an_index() -> None:
    def indexed(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        h[:, :3] += m.b(h[:, 3:].clone())
        h[:, 1] = 0
        h[:, [4, 5]] = h[:, [0, 2]]
        output: Tensor = m.head(h)
        return output

    def plain(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        first = h[:, :3] + m.b(h[:, 3:])
        zero = torch.zeros_like(first[:, :1])
        output: Tensor = m.head(
            torch.cat([first[:, :1], zero, first[:, 2:], h[:, 3:4], first[:, :1], first[:, 2:]], dim=1)
        )
        return output

    assert_same_scores(indexed, plain, FLAT, a=nn.Linear(4, 6), b=nn.Linear(3, 3), head=nn.Linear(6, 2))


@pytest.mark.parametrize("make", [torch.zeros, torch.ones, torch.empty])
def test_writing_into_a_new_tensor(make: Any) -> None:
    def written(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        out = make(h.shape[0], 8, dtype=h.dtype)
        out[:, :6] = h
        out[:, 6:] = m.b(h) * 1e9
        output: Tensor = m.head(out)
        return output

    def joined(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        output: Tensor = m.head(torch.cat([h, m.b(h) * 1e9], dim=1))
        return output

    assert_same_scores(written, joined, FLAT, a=nn.Linear(4, 6), b=nn.Linear(6, 2), head=nn.Linear(8, 2))


def test_a_tensor_of_the_users_that_is_written_into_is_not_changed_by_the_graph() -> None:
    """A plain attribute is no buffer, so nothing puts it back."""
    network = Network(lambda m, x: m.write(x), a=nn.Linear(4, 6), head=nn.Linear(6, 2))
    memory = torch.full((1, 6), 7.0)

    def write(x: Tensor) -> Tensor:
        cache = network.memory
        cache[:, :] = network.a(x)
        output: Tensor = network.head(cache)
        return output

    network.write = write
    network.__dict__["memory"] = memory
    assert float(scores(network, FLAT)["a.weight"].sum()) > 0
    assert memory.tolist() == [[7.0] * 6]
    assert memory.grad_fn is None


@pytest.mark.parametrize(
    "activate",
    [
        lambda m, h: m.relu(h),
        lambda m, h: F.relu(h, inplace=True),
        lambda m, h: torch.relu_(h),
        lambda m, h: h.relu_(),
        lambda m, h: h.clamp_(min=0),
        lambda m, h: F.leaky_relu_(h),
        lambda m, h: F.hardtanh(h, inplace=True),
        lambda m, h: F.dropout(h, 0.1, inplace=True),
    ],
)
def test_activations_in_place_pass_on_and_later_changes_show(activate: Any) -> None:
    def in_place(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        activate(m, h)
        h += m.b(h.clone())
        output: Tensor = m.head(h)
        return output

    def plain(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        output: Tensor = m.head(h + m.b(h))
        return output

    parts = {"a": nn.Linear(4, 6), "b": nn.Linear(6, 6), "head": nn.Linear(6, 2)}
    assert_same_scores(in_place, plain, FLAT, **parts, relu=nn.ReLU(inplace=True))


def test_a_network_that_changes_its_input_in_place() -> None:
    assert_same_scores(
        lambda m, x: m.head(x.sub_(0.5).div_(0.2)), lambda m, x: m.head((x - 0.5) / 0.2), FLAT, head=nn.Linear(4, 2)
    )
