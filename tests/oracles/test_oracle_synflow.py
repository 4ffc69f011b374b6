"""SynFlow's masks after all rounds against the published procedure, and what rounding has no part in."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foreprune
from benchmarks.published import SynFlow
from foreprune.core import net as net_room
from foreprune.core.masks import Masks
from foreprune.zoo import models

pytestmark = pytest.mark.filterwarnings("ignore::foreprune.LayerCollapse")
X = torch.zeros(1, 3, 32, 32)


def resnet_20(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return models.create("resnet-20", input_shape=(3, 32, 32), classes=10)


def published(model: nn.Module, density: float, *, rounds: int = 100) -> Masks:
    """The masks of the authors' procedure in float64."""
    return Masks(SynFlow(copy.deepcopy(model).double(), X.shape[1:]).prune(density, rounds=rounds))


@pytest.fixture
def margins(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """For each round the smallest score that is kept and the largest that is removed in it."""
    found: list[tuple[float, float]] = []
    real = net_room.keep_best

    def noting(scores: dict[str, Tensor], keep: int, *, among: Masks, **options: Any) -> Masks:
        kept = real(scores, keep, among=among, **options)
        removed = Masks({name: among[name] & ~mask for name, mask in kept.items()})
        values = [torch.cat([scores[name][mask] for name, mask in masks.items()]) for masks in (kept, removed)]
        found.append((float(values[0].min()), float(values[1].max())))
        return kept

    monkeypatch.setattr(net_room, "keep_best", noting)
    return found


def test_the_authors_mask_weight_for_weight() -> None:
    """At 1 % of ResNet-20, after a hundred rounds: counts, precision and order have to be theirs."""
    model = resnet_20(0)
    theirs = published(model, 0.01)
    assert theirs.kept == 2709
    assert foreprune.prune(model, "synflow", density=0.01, inputs=X) == theirs


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "density"), [(1, 0.01), (2, 0.01), (0, 0.001)])
def test_the_authors_mask_for_other_draws_and_densities(seed: int, density: float) -> None:
    model = resnet_20(seed)
    assert foreprune.prune(model, "synflow", density=density, inputs=X) == published(model, density)


def test_in_double_no_round_has_a_tie_at_the_threshold(margins: list[tuple[float, float]]) -> None:
    """So neither the seed of the draw nor the number of threads has a part in the mask."""
    model = resnet_20(0)
    one = foreprune.prune(model, "synflow", density=0.02, inputs=X)
    assert len(margins) == 100
    assert all(kept > removed for kept, removed in margins)
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - threads if threads < 3 else 1)
    try:
        assert foreprune.prune(model, "synflow", density=0.02, inputs=X, seed=1) == one
    finally:
        torch.set_num_threads(threads)


def test_the_last_round_keeps_the_nearest_count_and_those_before_it_round_up(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    real = net_room.keep_best

    def noting(scores: dict[str, Tensor], keep: int, **options: Any) -> Masks:
        counts.append(keep)
        return real(scores, keep, **options)

    monkeypatch.setattr(net_room, "keep_best", noting)
    model = nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 5))  # 108 weights
    for density, rounds in itertools.product((0.05, 0.13, 0.9), (1, 2, 7)):
        counts.clear()
        foreprune.prune(model, "synflow", density=density, inputs=torch.zeros(1, 7), rounds=rounds)
        wanted = [108 - int((1 - density ** (k / rounds)) * 108) for k in range(1, rounds)]
        assert counts == [*wanted, round(density * 108)]


def drawn_and_trained(steps: int) -> nn.Module:
    """ResNet-20 with scales and statistics drawn at random, then trained a little."""
    model = resnet_20(3)
    generator = torch.Generator().manual_seed(0)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            for tensor, low, high in ((norm.weight, -1.0, 1.0), (norm.running_var, 0.05, 4.0)):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        images = torch.randn(16, *X.shape[1:], generator=generator)
        labels = torch.randint(10, (16,), generator=generator)
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def without_shifts(model: nn.Module) -> nn.Module:
    """Running means and biases are no part of a path sum: the published procedure without them."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith(("running_mean", "bias")):
                value.zero_()
    return model


@pytest.mark.parametrize(
    ("density", "rounds"),
    [(0.26, 20), (0.05, 20), *(pytest.param(d, 100, marks=pytest.mark.slow) for d in (0.26, 0.05))],
)
def test_the_published_procedure_on_scales_and_statistics_of_any_size(density: float, rounds: int) -> None:
    model = drawn_and_trained(10)
    theirs = published(without_shifts(model), density, rounds=rounds)
    ours = foreprune.prune(model, "synflow", density=density, inputs=X, rounds=rounds)
    assert ours.kept == round(density * 270_896)
    assert ours == theirs
    identity = foreprune.prune(model, "synflow", density=density, inputs=X, rounds=rounds, batchnorm="identity")
    assert (identity & theirs).kept < 0.8 * theirs.kept
