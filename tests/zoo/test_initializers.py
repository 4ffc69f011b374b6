from __future__ import annotations

import contextlib
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from foreprune.core.init import initializers
from foreprune.zoo.initializers import initialize_
from foreprune.zoo.models import create


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("init", "variance"),
    [
        ("kaiming-normal-fan-in", 2 / 600),
        ("kaiming-normal-fan-out", 2 / 200),
        ("kaiming-uniform-fan-in", 2 / 600),
        ("xavier-normal", 2 / 800),
        ("xavier-uniform", 2 / 800),
        ("normal-0.1", 0.01),
        ("normal-variance-0.1", 0.1),
        ("constant-variance", 1.0),
    ],
)
def test_variance_of_each_distribution(init: str, variance: float) -> None:
    layer = nn.Linear(600, 200)
    initialize_(layer, init=init, generator=seeded())
    # 120,000 draws: the standard error of the variance is 0.4 %
    assert layer.weight.var().item() == pytest.approx(variance, rel=0.02)
    assert layer.weight.mean().abs().item() < 5 * math.sqrt(variance / 120_000)
    assert layer.bias.eq(0).all()
    if "uniform" in init:
        assert layer.weight.abs().max().item() <= math.sqrt(3 * variance)
    else:
        assert layer.weight.abs().max().item() > math.sqrt(12 * variance)


def test_every_initializer_is_tested_above_and_listed() -> None:
    weights = {name.removesuffix("+uniform-scale") for name in initializers()}
    assert set(initializers()) == weights | {f"{name}+uniform-scale" for name in weights}
    assert weights == {
        "kaiming-normal-fan-in",
        "kaiming-normal-fan-out",
        "kaiming-uniform-fan-in",
        "xavier-normal",
        "xavier-uniform",
        "normal-0.1",
        "normal-variance-0.1",
        "constant-variance",
    }


@pytest.mark.parametrize(
    ("layer", "fan_in", "fan_out"),
    [
        (nn.Conv2d(64, 128, 3), 64 * 9, 128 * 9),
        (nn.Conv2d(64, 128, (1, 3), groups=4), 16 * 3, 32 * 3),
        (nn.Conv1d(64, 128, 5), 64 * 5, 128 * 5),
        (nn.ConvTranspose2d(64, 128, 3), 64 * 9, 128 * 9),
    ],
)
def test_fans_count_true_connections(layer: nn.Module, fan_in: int, fan_out: int) -> None:
    for init, fan in (("kaiming-normal-fan-in", fan_in), ("kaiming-normal-fan-out", fan_out)):
        initialize_(layer, init=init, generator=seeded())
        assert layer.weight.var().item() == pytest.approx(2 / fan, rel=0.1)


def test_normalization_layers_are_reset_with_their_statistics() -> None:
    norms = nn.ModuleList([nn.BatchNorm2d(3), nn.GroupNorm(1, 3), nn.LayerNorm(3), nn.InstanceNorm1d(3, affine=True)])
    norms[0](torch.randn(4, 3, 5, 5) + 7)
    with torch.no_grad():
        for parameter in norms.parameters():
            parameter.uniform_(2, 3)
    initialize_(norms, generator=seeded())
    for norm in norms:
        assert norm.weight.eq(1).all()
        assert norm.bias.eq(0).all()
    assert norms[0].running_mean.eq(0).all()
    assert norms[0].running_var.eq(1).all()
    assert norms[0].num_batches_tracked == 0


@pytest.mark.parametrize("init", ["kaiming-normal-fan-in", "constant-variance", "xavier-uniform"])
@pytest.mark.parametrize("model", ["resnet-20", "vgg-11", "mlp-bn-100", "lenet-300-100"])
def test_uniform_scales_leave_every_other_number_as_it_is(model: str, init: str) -> None:
    plain = create(model, input_shape=(3, 16, 16), init=init, seed=5).state_dict()
    said = pytest.warns(UserWarning, match="has none") if model == "lenet-300-100" else contextlib.nullcontext()
    with said:
        drawn = create(model, input_shape=(3, 16, 16), init=f"{init}+uniform-scale", seed=5)
    scales = [f"{name}.weight" for name, layer in drawn.named_modules() if type(layer).__name__.startswith("Batch")]
    assert bool(scales) is (model != "lenet-300-100")
    for name, value in drawn.state_dict().items():
        if name in scales:
            assert plain[name].eq(1).all()
            assert len(set(value.tolist())) == len(value) > 1
        else:
            assert torch.equal(value, plain[name]), name
    if model == "resnet-20":
        found = torch.cat([drawn.state_dict()[name] for name in scales])
        assert len(found) == 16 * 7 + 32 * 7 + 64 * 7  # a projection in two of three stages
        assert 0 <= found.min() < 0.01
        assert 0.99 < found.max() < 1
        assert float(found.mean()) == pytest.approx(1 / 2, abs=5 * math.sqrt(1 / 12 / 784))
        assert float(found.var()) == pytest.approx(1 / 12, rel=0.15)


def test_uniform_scales_are_those_of_batch_normalization() -> None:
    norms = nn.ModuleList(
        [
            nn.BatchNorm1d(3),
            nn.BatchNorm2d(3).bfloat16(),
            nn.BatchNorm3d(3),
            nn.BatchNorm1d(3, affine=False),
            nn.GroupNorm(1, 3),
            nn.LayerNorm(3),
            nn.InstanceNorm1d(3, affine=True),
            nn.RMSNorm(3),
        ]
    )
    initialize_(norms, init="kaiming-normal-fan-in+uniform-scale", generator=seeded())
    drawn = [not bool(norm.weight.eq(1).all()) for norm in norms if norm.weight is not None]
    assert drawn == [True, True, True, False, False, False, False]
    assert all(not norm.bias.any() for norm in norms if getattr(norm, "bias", None) is not None)


def test_uniform_scales_where_there_are_none_are_said_to_be_nothing() -> None:
    for model in (nn.Linear(3, 2), nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, affine=False), nn.LayerNorm(2))):
        with pytest.warns(UserWarning, match=r"this network has none; write 'xavier-normal' for the same weights$"):
            initialize_(model, init="xavier-normal+uniform-scale", generator=seeded())


def test_same_seed_same_weights_other_seed_other_weights() -> None:
    first, second, third = (initialize_(nn.Conv2d(3, 8, 3), generator=seeded(seed)).weight for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_half_precision_and_double_keep_their_dtype() -> None:
    for dtype in (torch.bfloat16, torch.float64):
        layer = initialize_(nn.Linear(50, 50).to(dtype), generator=seeded())
        assert layer.weight.dtype == dtype
        assert layer.weight.std().item() == pytest.approx(0.2, rel=0.1)


def test_layers_of_other_kinds_are_drawn_by_themselves_from_the_generator() -> None:
    def build() -> nn.ModuleDict:
        return nn.ModuleDict(
            {"embed": nn.Embedding(7, 4), "attention": nn.MultiheadAttention(4, 2), "lstm": nn.LSTM(4, 4)}
        )

    before = torch.random.get_rng_state()
    first, second = (initialize_(build(), generator=seeded(3)).state_dict() for _ in range(2))
    torch.random.set_rng_state(before)
    assert first.keys() == second.keys()
    for key in first:
        assert torch.equal(first[key], second[key]), key
    other = initialize_(build(), generator=seeded(4)).state_dict()
    assert not torch.equal(first["attention.in_proj_weight"], other["attention.in_proj_weight"])
    assert not torch.equal(first["lstm.weight_ih_l0"], other["lstm.weight_ih_l0"])


def test_global_random_state_is_untouched() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Embedding(5, 3))
    before = torch.random.get_rng_state()
    initialize_(module, generator=seeded())
    assert torch.equal(before, torch.random.get_rng_state())


class Token(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.token = nn.Parameter(torch.zeros(2))


def test_a_parameter_nothing_draws_is_refused_before_anything_changes() -> None:
    module = nn.Sequential(nn.Linear(2, 2), Token())
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(ValueError, match=r"cannot initialize '1' \(Token\): it owns token .* reset_parameters\(\)"):
        initialize_(module, generator=seeded())
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key])


def test_computed_and_unknown_weights_are_refused() -> None:
    pruned = nn.Linear(3, 3)
    prune.l1_unstructured(pruned, "weight", amount=0.5)
    for layer in (pruned, parametrizations.weight_norm(nn.Linear(3, 3))):
        with pytest.raises(ValueError, match="its weight is computed from other tensors"):
            initialize_(layer, generator=seeded())
    with pytest.raises(ValueError, match="its shape is not known yet; run the model once first"):
        initialize_(nn.LazyLinear(3), generator=seeded())


def test_unknown_init_names_near_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown init 'kaiming-normal'; did you mean 'kaiming-normal-fan-in'"):
        initialize_(nn.Linear(2, 2), init="kaiming-normal", generator=seeded())
    with pytest.raises(ValueError, match=r"'constant-variance\+uniform'; did you mean 'constant-variance\+un"):
        initialize_(nn.Linear(2, 2), init="constant-variance+uniform", generator=seeded())
    with pytest.raises(
        ValueError, match=r"'zzz'; known: kaiming-normal-fan-in, .*variance, each also with \+uniform-scale$"
    ):
        initialize_(nn.Linear(2, 2), init="zzz", generator=seeded())
