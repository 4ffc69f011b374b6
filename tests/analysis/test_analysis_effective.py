"""Effective masks: the weights on a kept path, as found by walking; what they promise about the function."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from walked_nets import NAMES, case, densities

import foreprune
from foreprune.analysis.effective import effective_masks
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.graph import PathError
from foreprune.zoo.models import create

pytestmark = pytest.mark.filterwarnings("ignore::foreprune.LayerCollapse")


def random_masks(model: nn.Module, density: float, seed: int = 0) -> Masks:
    generator = torch.Generator().manual_seed(seed)
    weights = Net.of(model).weights
    return Masks({name: torch.rand(weight.shape, generator=generator) < density for name, weight in weights.items()})


def with_masks(model: nn.Module, masks: Masks) -> nn.Module:
    return masks.apply_(copy.deepcopy(model))


@pytest.mark.parametrize("name", NAMES)
def test_what_stays_is_what_lies_on_a_walked_path(name: str) -> None:
    given = case(name)
    for density, seed in [*densities(), (0.3, 4), (0.25, 5)]:
        masks = given.masks(density, seed)
        wanted = {key: torch.zeros_like(mask) for key, mask in masks.items()}
        for walk in given.kept(masks):
            for key, at in walk.entries:
                wanted[key][at] = True
        found = effective_masks(given.model, masks, inputs=given.x)
        assert found == Masks(wanted)
        assert found.kept <= masks.kept


@pytest.mark.parametrize("name", NAMES)
def test_property_21_same_function_and_idempotent(name: str) -> None:
    given = case(name)
    for density, seed in densities():
        masks = given.masks(density, seed)
        found = effective_masks(given.model, masks, inputs=given.x)
        assert effective_masks(given.model, found, inputs=given.x) == found
        before, after = (with_masks(given.model, m)(given.x) for m in (masks, found))
        torch.testing.assert_close(after, before, rtol=0, atol=1e-14)


def test_something_is_removed_and_something_stays() -> None:
    given = case("mlp")
    masks = given.masks(0.4, 3)
    found = effective_masks(given.model, masks, inputs=given.x)
    assert 0 < found.kept < masks.kept


def test_frankles_procedure_gives_the_same_where_it_can_be_run() -> None:
    """Appendix M to the letter, on a network without pooling or biases."""
    given = case("residual")
    masks = given.masks(0.4, 3)
    model = copy.deepcopy(given.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(masks[name])
    model(torch.ones(1, 1, 2, 2).double()).sum().backward()
    wanted = Masks({name: parameter.grad != 0 for name, parameter in model.named_parameters()}) & masks
    assert effective_masks(given.model, masks, inputs=given.x) == wanted


def test_nothing_overflows_or_vanishes_in_deep_networks() -> None:
    """One wide half and one thread of single weights side by side: the numbers of paths differ by 10^500."""
    layers = [nn.Linear(33, 33, bias=False) for _ in range(400)]
    model = nn.Sequential(*layers)
    mask = torch.zeros(33, 33, dtype=torch.bool)
    mask[:32, :32] = True
    mask[32, 32] = True
    masks = Masks({f"{i}.weight": mask for i in range(400)})
    assert effective_masks(model, masks, inputs=torch.zeros(1, 33)) == masks
    cut = {f"{i}.weight": mask.clone() for i in range(400)}
    cut["200.weight"][32, 32] = False
    found = effective_masks(model, Masks(cut), inputs=torch.zeros(1, 33))
    assert found.kept == masks.kept - 400
    assert all(not found[name][32, 32] for name in found)


def test_biases_and_values_do_not_matter_and_pruned_units_go_on_both_sides() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.zero_()
    masks = Masks(
        {
            "0.weight": torch.tensor([[True, True], [False, False], [True, False]]),
            "2.weight": torch.tensor([[True, True, False], [True, True, False]]),
        }
    )
    found = effective_masks(model, masks, inputs=torch.zeros(1, 2))
    assert found["0.weight"].tolist() == [[True, True], [False, False], [False, False]]
    assert found["2.weight"].tolist() == [[True, False, False], [True, False, False]]


def test_the_size_of_the_inputs_decides_about_the_rim_of_a_kernel() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False))
    assert effective_masks(model, inputs=torch.zeros(1, 1, 1, 1)).kept == 1
    assert effective_masks(model, inputs=torch.zeros(1, 1, 1, 2)).kept == 3
    assert effective_masks(model, inputs=torch.zeros(1, 1, 4, 4)).kept == 9


class Excitation(nn.Module):
    """Squeeze-and-excitation: what feeds the gate matters where the gate lets something through."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, padding=1, bias=False)
        self.squeeze = nn.Linear(3, 2, bias=False)
        self.excite = nn.Linear(2, 3, bias=False)
        self.out = nn.Conv2d(3, 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return self.out(x * gate[:, :, None, None])


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(3, 8, bias=False)
        self.out = nn.Linear(4, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.glu(self.both(x)))


@pytest.mark.parametrize(("model", "shape"), [(Excitation(), (1, 4, 4)), (Gated(), (3,))], ids=["excitation", "glu"])
def test_weights_of_gates_count_where_something_passes_them(model: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, *shape)
    assert effective_masks(model, inputs=x).density == 1.0
    fewer = 0
    for seed in range(20):
        masks = random_masks(model, 0.5, seed)
        found = effective_masks(model, masks, inputs=x)
        fewer += found.kept < masks.kept
        assert effective_masks(model, found, inputs=x) == found
        torch.testing.assert_close(with_masks(model, found)(x), with_masks(model, masks)(x), rtol=0, atol=1e-6)
    assert fewer > 5


def test_a_feature_that_only_feeds_a_gate_is_kept() -> None:
    class Deeper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.gated = nn.Linear(2, 2, bias=False), Gated()
            self.gated.both = nn.Linear(2, 8, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.gated(self.first(x))

    both = torch.zeros(8, 2, dtype=torch.bool)
    both[:4, 0] = both[4:6, 1] = True  # feature 0 feeds the values, feature 1 two of their gates
    masks = {"first.weight": torch.ones(2, 2).bool(), "gated.both.weight": both}
    out = torch.ones(2, 4, dtype=torch.bool)
    found = effective_masks(Deeper(), Masks({**masks, "gated.out.weight": out}), inputs=torch.zeros(1, 2))
    assert found.density == Masks({**masks, "gated.out.weight": out}).density
    out[:, :2] = False  # the gated values are not used any more
    found = effective_masks(Deeper(), Masks({**masks, "gated.out.weight": out}), inputs=torch.zeros(1, 2))
    assert found["first.weight"].tolist() == [[True, True], [False, False]]


def test_a_channel_that_only_feeds_excitation_is_kept() -> None:
    model = Excitation()
    masks = {name: mask.clone() for name, mask in Masks.dense(Net.of(model).weights).items()}
    masks["out.weight"][:, 2] = False  # channel 2 goes nowhere but into the gates of the others
    found = effective_masks(model, Masks(masks), inputs=torch.zeros(1, 1, 4, 4))
    assert bool(found["stem.weight"][2].all())
    assert found["excite.weight"].tolist() == [[True, True], [True, True], [False, False]]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12, bias=False)
        self.out = nn.Linear(4, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.out(F.scaled_dot_product_attention(q, k, v))


def test_queries_and_keys_keep_their_weights() -> None:
    model = Attention()
    masks = random_masks(model, 0.5)
    weights = masks["out.weight"]
    weights[:, 1] = False  # value 1 is not used any more
    masks = Masks({"qkv.weight": masks["qkv.weight"], "out.weight": weights})
    found = effective_masks(model, masks, inputs=torch.zeros(1, 3, 4))
    assert torch.equal(found["qkv.weight"][:8], masks["qkv.weight"][:8])
    assert int(found["qkv.weight"][9].sum()) == 0 < int(masks["qkv.weight"][9].sum())
    assert effective_masks(model, found, inputs=torch.zeros(1, 3, 4)) == found


def test_weights_scaled_before_use_and_products_in_place() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)
            self.scale = nn.Parameter(torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            x = F.linear(x, self.a.weight * 0.01)
            x.mul_(self.scale)
            return F.linear(x, 1e-3 * self.b.weight)

    model = Odd()
    masks = Masks(
        {
            "a.weight": torch.tensor([[1, 0, 0], [0, 0, 0], [0, 1, 1], [1, 1, 1]]).bool(),
            "b.weight": torch.tensor([[1, 1, 0, 0], [0, 0, 0, 1]]).bool(),
        }
    )
    found = effective_masks(model, masks, inputs=torch.zeros(1, 3))
    assert found["a.weight"].int().tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0], [1, 1, 1]]
    assert found["b.weight"].int().tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]
    scaled = Masks({"scale": torch.tensor([True, True, True, False])})
    assert effective_masks(model, scaled, inputs=torch.zeros(1, 3)) == scaled
    both = Masks({"a.weight": torch.ones(4, 3).bool(), "scale": scaled["scale"]})
    found = effective_masks(model, both, inputs=torch.zeros(1, 3))
    assert found["a.weight"].any(1).tolist() == [True, True, True, False]


def test_interpolation_is_no_obstacle() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(2, 1, 3, bias=False)
    )
    masks = {name: mask.clone() for name, mask in Masks.dense(Net.of(model).weights).items()}
    masks["2.weight"][:, 1] = False
    found = effective_masks(model, Masks(masks), inputs=torch.zeros(1, 1, 6, 6))
    assert found.layer_densities() == {"0.weight": 0.5, "2.weight": 0.5}


def test_a_dead_network_has_nothing_effective() -> None:
    given = case("concatenation")
    masks = {name: mask.clone() for name, mask in given.masks(1.0).items()}
    masks["third.weight"][:] = False
    found = effective_masks(given.model, Masks(masks, metadata={"method": "mine"}), inputs=given.x)
    assert found.kept == 0
    assert found.metadata == {"method": "mine"}


def test_paths_without_meaning_are_refused() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(2, 3, batch_first=True), nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x)[0])

    with pytest.raises(PathError, match="lstm in module 'cell'"):
        effective_masks(Recurrent(), inputs=torch.zeros(1, 4, 2))


def test_random_masks_of_a_resnet_lose_some_and_whole_paths_none() -> None:
    model, x = create("resnet-20", input_shape=(3, 32, 32)), torch.zeros(1, 3, 32, 32)
    lost = foreprune.prune(model, "random", density=0.01, inputs=x)
    assert 0.5 * lost.kept < effective_masks(model, lost, inputs=x).kept < lost.kept
    kept = foreprune.prune(model, "phew", density=0.01, inputs=x)
    assert effective_masks(model, kept, inputs=x).kept == kept.kept


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), [("resnet-110", 32), ("resnet-50", 224)])
def test_deep_networks(name: str, side: int) -> None:
    model, x = create(name, input_shape=(3, side, side)), torch.zeros(1, 3, side, side)
    assert effective_masks(model, inputs=x).density == 1.0
    masks = foreprune.prune(model, "random", density=0.01)
    found = effective_masks(model, masks, inputs=x)
    assert 0.8 * masks.kept < found.kept < masks.kept
    assert effective_masks(model, found, inputs=x) == found
    assert math.isclose(found.density, found.kept / masks.total)
