from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import foreprune as fp
from foreprune import ablations
from foreprune.core.seeds import generator_for


def draw(generator: torch.Generator) -> list[float]:
    return torch.rand(64, generator=generator).tolist()


def test_a_generator_depends_on_the_seed_and_on_its_purpose() -> None:
    assert draw(generator_for("prune", 3)) == draw(generator_for("prune", 3))
    streams = [draw(generator_for(purpose, seed)) for purpose in ("prune", "shuffle") for seed in (0, 1, 2**32)]
    streams.append(draw(torch.Generator().manual_seed(0)))
    assert len({tuple(stream) for stream in streams}) == len(streams)


def test_streams_are_pinned() -> None:
    """A change would change every random mask that was ever drawn."""
    assert torch.randint(1000, (4,), generator=generator_for("prune", 0)).tolist() == [429, 343, 34, 927]


@pytest.mark.parametrize("method", ["random", "uniform", "er", "erk"])
@pytest.mark.parametrize("seed", [0, 7])
def test_random_masks_do_not_follow_weights_drawn_with_the_same_seed(method: str, seed: int) -> None:
    """Plain seeding made random pruning keep the large weights: their mean was a quarter above that of all."""
    torch.manual_seed(seed)
    model = nn.Linear(500, 400, bias=False)
    nn.init.normal_(model.weight, generator=torch.Generator().manual_seed(seed))
    masks = fp.prune(model, method, density=0.1, seed=seed)
    size = model.weight.detach().abs()[masks["weight"]]
    assert size.numel() == 20_000
    # the mean of |w| for normal weights, and four standard errors
    mean, error = math.sqrt(2 / math.pi), math.sqrt((1 - 2 / math.pi) / 20_000)
    assert abs(float(size.mean()) - mean) < 4 * error


def test_shuffled_masks_do_not_follow_random_ones_of_the_same_seed() -> None:
    model = nn.Linear(500, 400, bias=False)
    masks = fp.prune(model, "random", density=0.1, seed=0)
    shared = int((masks["weight"] & ablations.shuffle(masks, seed=0)["weight"]).sum())
    expected, deviation = 20_000 * 0.1, math.sqrt(20_000 * 0.1 * 0.9 * 0.9)
    assert abs(shared - expected) < 4 * deviation
