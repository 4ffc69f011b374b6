from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import foreprune as fp
from foreprune import ablations
from foreprune.analysis import layer_widths
from foreprune.core.masks import Masks
from foreprune.zoo import models


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


def test_reinitialize_explains_itself() -> None:
    with pytest.raises(ValueError, match="scheme must be"):
        ablations.reinitialize(net(), scheme="sparse")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give masks="):
        ablations.reinitialize(net(), scheme="layer")
    with pytest.raises(ValueError, match=r"fits no parameter|no parameter|another model"):
        ablations.reinitialize(net(), Masks({"nope": torch.ones(2, dtype=torch.bool)}))
