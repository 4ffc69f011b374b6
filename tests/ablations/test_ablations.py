from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import foreprune as fp
from foreprune import ablations
from foreprune.analysis import layer_widths
from foreprune.core.layer_units import unit_index
from foreprune.core.masks import Masks
from foreprune.core.seeds import generator_for
from foreprune.zoo import models
from foreprune.zoo.initializers import initialize_


def net() -> nn.Module:
    return models.create("lenet-5", input_shape=(1, 16, 16), seed=1)


def masks(density: float = 0.1) -> Masks:
    return fp.prune(net(), "synflow", density=density, inputs=torch.ones(1, 1, 16, 16), rounds=5)


def test_shuffle_keeps_counts_and_moves_weights() -> None:
    before = masks()
    after = ablations.shuffle(before, seed=3)
    assert after.layer_counts() == before.layer_counts()
    assert all(not torch.equal(after[name], before[name]) for name in before)
    assert ablations.shuffle(before, seed=3) == after != ablations.shuffle(before, seed=4)
    assert before == masks(), "the masks given were changed"


def test_shuffle_is_uniform() -> None:
    one = Masks({"w": torch.tensor([True, False, False, False])})
    places = [int(ablations.shuffle(one, seed=seed)["w"].nonzero()) for seed in range(400)]
    counts = torch.bincount(torch.tensor(places), minlength=4)
    assert int(counts.min()) > 70
    assert int(counts.max()) < 130


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_widen_brings_units_back_with_the_same_count(fraction: float) -> None:
    before = masks(0.01)
    after = ablations.widen(before, fraction=fraction, seed=0)
    assert after.layer_counts() == before.layer_counts()
    widened = layer_widths(net(), after)
    for name, width in layer_widths(net(), before).items():
        wanted = min(width.fed + round(fraction * (width.units - width.fed)), before.layer_counts()[name][0])
        assert widened[name].fed == wanted
    assert (after == before) is (fraction == 0)
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], not 1.5"):
        ablations.widen(before, fraction=1.5)


class Conv1D(nn.Module):
    """As transformers' GPT-2: weights are (in, out)."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


@pytest.mark.parametrize(
    "layer", [nn.ConvTranspose2d(6, 10, 3), nn.ConvTranspose2d(6, 10, 3, groups=2), Conv1D(10, 6), nn.Linear(6, 10)]
)
def test_widen_counts_units_by_the_layer(layer: nn.Module) -> None:
    """Two units of ten are left, and every one of their weights."""
    model = nn.Sequential(layer)
    shape = tuple(model[0].weight.shape)
    units = unit_index(layer, "weight", shape).expand(shape)
    before = Masks({"0.weight": (units == 3) | (units == 8)})
    assert layer_widths(model, before)["0.weight"].fed == 2
    after = ablations.widen(before, model=model, fraction=0.5, seed=0)
    assert after.kept == before.kept
    assert layer_widths(model, after)["0.weight"].fed == 6
    assert ablations.widen(before, model=model, fraction=0, seed=0) == before
    with pytest.raises(ValueError, match=r"masks belong to another model: it has no parameter '0.weight'"):
        ablations.widen(before, model=layer, fraction=0.5)


def test_tensors_without_entries_stay_as_they_are() -> None:
    empty = Masks({"0.weight": torch.ones(2, 2).bool(), "1.weight": torch.ones(0, 2).bool()})
    assert ablations.widen(empty, fraction=1.0) == empty
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = nn.Parameter(torch.ones(0, 2))
    assert ablations.reinitialize(model, empty, scheme="neuron")["1.weight"].shape == (0, 2)


def test_invert_keeps_exactly_what_the_method_removes() -> None:
    model = net()
    x, y = torch.randn(20, 1, 16, 16), torch.arange(20) % 10
    for name in ("magnitude", "snip", "grasp"):
        usual = fp.prune(model, name, density=0.25, data=(x, y))
        upside_down = fp.prune(model, ablations.invert(name), density=0.75, data=(x, y))
        assert all(torch.equal(upside_down[key], ~usual[key]) for key in usual), name


def test_invert_reverses_zero_and_signed_scores() -> None:
    weight = nn.Linear(5, 1, bias=False)
    weight.weight.data = torch.tensor([[2.0, -1.0, 0.0, -3.0, 1e-30]])
    signed = {"weight": weight.weight.detach()}
    method = fp.get_method("magnitude")
    order = fp.score(weight, ablations.invert(method))["weight"].flatten().argsort()
    assert order.tolist() == list(reversed(signed["weight"].abs().flatten().argsort().tolist()))


def test_invert_keeps_the_rounds() -> None:
    rounds: list[int] = []
    inverted = ablations.invert("synflow")
    fp.prune(
        net(), inverted, density=0.995, inputs=torch.ones(1, 1, 16, 16), progress=lambda done, of: rounds.append(of)
    )
    assert rounds == [100] * 100
    with pytest.raises(ValueError, match="'erk' has no scores to invert"):
        ablations.invert("erk")


@pytest.mark.parametrize("scheme", ["dense", "layer", "neuron"])
def test_reinitialize_keeps_masks_and_scales_the_variance(scheme: ablations.Scheme) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(400, 300), nn.ReLU(), nn.Linear(300, 200))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    mask = torch.rand(300, 400) < torch.linspace(0.05, 0.95, 300)[:, None]
    kept = Masks({"0.weight": mask, "2.weight": torch.ones(200, 300, dtype=torch.bool)})
    weights = ablations.reinitialize(model, kept, scheme=scheme, seed=5)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    drawn = weights["0.weight"]
    assert int(drawn[~mask].count_nonzero()) == 0
    assert int(drawn[mask].count_nonzero()) == int(mask.sum())
    assert not torch.equal(drawn[mask], before["0.weight"][mask])
    fan_in = {"dense": 400.0, "layer": 400 * kept.layer_densities()["0.weight"]}
    for rows in (slice(0, 60), slice(240, 300)):
        count = float(mask[rows].sum(1).float().mean())
        expected = math.sqrt(2 / fan_in.get(scheme, count))
        assert float(drawn[rows][mask[rows]].std()) == pytest.approx(expected, rel=0.06)
    assert torch.equal(weights["2.weight"], ablations.reinitialize(model, seed=5)["2.weight"])
    model.load_state_dict(weights, strict=False)
    assert torch.equal(model[0].weight, drawn)


def test_at_initialization_the_draw_is_the_one_of_earlier_versions() -> None:
    """Kaiming normal from one stream in the order of the layers, nothing else: records of such runs exist."""
    model = models.create("resnet-8", input_shape=(1, 8, 8), seed=1)
    generator = generator_for("reinitialise", 7)
    expected = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for name, layer in model.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            weight = expected[f"{name}.weight"]
            weight.normal_(0.0, math.sqrt(2 / weight[0].numel()), generator=generator)
    weights = ablations.reinitialize(model, seed=7)
    for name, value in expected.items():
        assert torch.equal(weights[name], value), name
    state = model.state_dict()
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[name], state[name]) for name, _ in model.named_buffers())


@pytest.mark.parametrize("init", ["kaiming-normal-fan-in", "xavier-uniform+uniform-scale", "constant-variance"])
def test_nothing_of_a_training_is_left(init: str) -> None:
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 3), nn.LayerNorm(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(3):
        model(torch.randn(6, 2, 4, 4)).square().sum().backward()
        optimizer.step()
    trained = {name: value.clone() for name, value in model.state_dict().items()}
    weights = ablations.reinitialize(model, init=init, seed=3)
    assert weights.keys() == trained.keys()
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())
    for name, value in weights.items():
        assert not torch.equal(value, trained[name]), name
    other = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.fill_(3)
    again = ablations.reinitialize(other, init=init, seed=3)
    assert all(torch.equal(again[name], value) for name, value in weights.items())
    model.load_state_dict(weights)
    for name, tensor in initialize_(other, init=init, generator=generator_for("reinitialise", 3)).state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_reinitialize_by_the_layers_themselves() -> None:
    drawn = ablations.reinitialize(nn.Linear(100, 300), init="own")
    for value in drawn.values():
        assert 0.09 < float(value.abs().max()) <= 0.1


@pytest.mark.parametrize(
    "layer", [nn.ConvTranspose2d(400, 4, 1), nn.ConvTranspose2d(800, 2, 1, groups=2), Conv1D(4, 400)]
)
def test_reinitialize_counts_what_each_unit_keeps(layer: nn.Module) -> None:
    model = nn.Sequential(layer)
    shape = tuple(model[0].weight.shape)
    units = unit_index(layer, "weight", shape).expand(shape)
    torch.manual_seed(0)
    mask = torch.rand(shape) < torch.tensor([0.9, 0.1, 0.5, 0.2])[units]
    drawn = ablations.reinitialize(model, Masks({"0.weight": mask}), scheme="neuron", seed=2)["0.weight"]
    dense = ablations.reinitialize(model, seed=2)["0.weight"]
    for unit in range(4):
        own = mask & (units == unit)
        share = float(own.sum()) / 400
        torch.testing.assert_close(drawn[own], dense[own] / math.sqrt(share))
    assert not drawn[~mask].any()


def test_what_is_no_masks() -> None:
    given = dict(masks())
    for call in (
        lambda: ablations.shuffle(given),
        lambda: ablations.widen(given, fraction=0.5),
        lambda: ablations.reinitialize(net(), given),
    ):
        with pytest.raises(TypeError, match=r"masks must be foreprune.Masks.*, not dict"):
            call()
    for odd in ("0.5", True):
        with pytest.raises(TypeError, match=f"bring back must be a number, not {odd!r}"):
            ablations.widen(masks(), fraction=odd)  # type: ignore[arg-type]


def test_reinitialize_explains_itself() -> None:
    with pytest.raises(ValueError, match="scheme must be"):
        ablations.reinitialize(net(), scheme="sparse")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give masks="):
        ablations.reinitialize(net(), scheme="layer")
    with pytest.raises(ValueError, match=r"unknown init 'kaiming'; known: .*, each also with .uniform-scale, own$"):
        ablations.reinitialize(net(), init="kaiming")
    with pytest.raises(ValueError, match=r"fits no parameter|no parameter|another model"):
        ablations.reinitialize(net(), Masks({"nope": torch.ones(2, dtype=torch.bool)}))


def test_blocks_of_a_tensor_are_layers_by_themselves() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 12)
    masks = fp.prune(model, "magnitude", density={"*.in_proj_weight[q]": 0.5, "*": 0.1}, prunable="*[v]")
    for changed in (ablations.shuffle(masks, seed=1), ablations.widen(masks, fraction=1.0, model=model, seed=1)):
        assert changed.block_counts() == masks.block_counts()
        assert changed != masks
        assert changed["self_attn.in_proj_weight"][16:].all()  # what is not prunable stays
        assert changed.total == masks.total
    drawn = ablations.reinitialize(model, masks, scheme="layer", init="kaiming-normal-fan-in", seed=0)
    dense = ablations.reinitialize(model, scheme="dense", init="kaiming-normal-fan-in", seed=0)
    name, kept = "self_attn.in_proj_weight", masks["self_attn.in_proj_weight"]
    ratio = (drawn[name] / dense[name])[kept]
    share = masks.block_densities()
    wanted = torch.ones(24, 8)
    for rows, label in ((slice(0, 8), "q"), (slice(8, 16), "k")):
        wanted[rows] = share[f"{name}[{label}]"] ** -0.5
    torch.testing.assert_close(ratio, wanted[kept])
