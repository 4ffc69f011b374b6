"""The rule over blocks against sorting and a greedy choice, one weight at a time, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import foreprune
from foreprune.core.blocks import Block, split, whole
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.select import Lot, NoSignal, Unscored, keep_best

SHAPES = {"fused": (6, 3), "columns": (2, 9), "plain": (5,)}
THIRDS = {"q": ((0, 2),), "k": ((2, 4),), "v": ((4, 6),)}
HEADS = {"q": ((0, 1), (3, 5)), "v": ((1, 3), (6, 9))}  # column 5 belongs to none
BLOCKS = (
    *split("fused", SHAPES["fused"], 0, THIRDS),
    *split("columns", SHAPES["columns"], 1, HEADS),
    whole("plain", SHAPES["plain"]),
)

TOTAL = 39


def entries(block: Block) -> list[tuple[str, int]]:
    """(tensor, place in it) of every weight of a block."""
    numbers = torch.arange(math.prod(block.tensor)).view(block.tensor)
    if not block.spans:
        return [(block.parameter, int(number)) for number in numbers.flatten()]
    rows = [row for start, stop in block.spans for row in range(start, stop)]
    return [(block.parameter, int(number)) for number in numbers.index_select(block.axis, torch.tensor(rows)).flatten()]


def greedy(scores: dict[str, torch.Tensor], keep: int, least: dict[str, int], alive: set[tuple[str, int]]) -> set[Any]:
    """First the best of every block, as many as it must keep, then the best of all the rest."""
    flat = {name: score.flatten() for name, score in scores.items()}

    def best(of: set[tuple[str, int]]) -> list[tuple[str, int]]:
        return sorted(of & alive, key=lambda entry: -float(flat[entry[0]][entry[1]]))

    kept: set[tuple[str, int]] = set()
    for block in BLOCKS:
        kept |= set(best(set(entries(block)))[: least.get(block.name, 0)])
    everything = {entry for block in BLOCKS for entry in entries(block)}
    return kept | set(best(everything - kept)[: keep - len(kept)])


def kept_by(masks: Masks) -> set[tuple[str, int]]:
    """Of the prunable weights."""
    prunable = {entry for block in BLOCKS for entry in entries(block)}
    return {entry for entry in prunable if masks[entry[0]].flatten()[entry[1]]}


def bounded_erk(density: float) -> dict[str, float]:
    """ERK counts of the blocks by bisection."""
    raw = {block.name: sum(block.shape) / block.size for block in BLOCKS}
    total, low, high = sum(block.size for block in BLOCKS), 0.0, 1e6
    for _ in range(200):
        eps = (low + high) / 2
        found = {block.name: min(1.0, eps * raw[block.name]) * block.size for block in BLOCKS}
        low, high = (eps, high) if sum(found.values()) < density * total else (low, eps)
    return found


@given(st.integers(0, 1000), st.integers(1, TOTAL), st.sampled_from([0.0, 0.3, 0.8, 1.0]), st.booleans())
def test_every_block_keeps_its_floor_and_the_best_of_all_the_rest(
    seed: int, keep: int, floor: float, living: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}
    for block in BLOCKS:  # of different sizes, or no block would fall below its floor
        scores[block.parameter][block.index] *= float(torch.rand((), generator=generator)) ** 6
    prunable = {entry for block in BLOCKS for entry in entries(block)}
    among, alive = None, prunable
    if living:
        kept = {name: torch.rand(shape, generator=generator) < 0.9 for name, shape in SHAPES.items()}
        among = Masks(kept, blocks=BLOCKS)
        alive = kept_by(among)
        keep = min(keep, len(alive))
    ideal = bounded_erk(keep / len(prunable))
    rooms = {block.name: len(set(entries(block)) & alive) for block in BLOCKS}
    least = {name: min(math.floor(floor * count + 1e-9), rooms[name]) for name, count in ideal.items()}
    masks = keep_best(scores, keep, generator=generator, among=among, blocks=BLOCKS, floor=floor)
    found = kept_by(masks)
    assert len(found) == masks.kept == keep
    assert masks.total == len(prunable) == TOTAL
    assert masks["columns"][:, 5].all()
    wanted = greedy(scores, keep, least, alive)
    rounding = any(abs(floor * count - round(floor * count)) < 1e-6 for count in ideal.values())
    assert found == wanted or (floor and rounding)  # where a floor is a whole number, rounding decides


@given(st.integers(0, 1000), st.integers(2, TOTAL))
def test_blocks_without_a_score_keep_their_share_by_other_scores(seed: int, keep: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = {name: torch.rand(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}
    silent = BLOCKS[1], BLOCKS[3]
    for block in silent:
        scores[block.parameter][block.index] = 0
    instead = {
        block.name: torch.rand(scores[block.parameter][block.index].shape, generator=generator) for block in silent
    }
    masks = keep_best(scores, keep, generator=generator, blocks=BLOCKS, unscored=Unscored(instead))
    assert masks.kept == keep
    ideal, counts = bounded_erk(keep / TOTAL), masks.block_counts()
    for block in silent:
        kept = masks[block.parameter][block.index]
        assert abs(counts[block.name][0] - ideal[block.name]) < 1
        chosen, rest = instead[block.name][kept], instead[block.name][~kept]
        assert not len(chosen) or not len(rest) or chosen.min() > rest.max()
    others = {entry for block in BLOCKS if block not in silent for entry in entries(block)}
    least = greedy(scores, len(kept_by(masks) & others), {}, others)
    assert kept_by(masks) & others == least


@pytest.mark.parametrize("scope", ["global", "local"])
def test_lots_keep_their_own_numbers(scope: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = {name: torch.rand(shape, generator=generator) for name, shape in SHAPES.items()}
    lots = [Lot(BLOCKS[:2], 7), Lot(BLOCKS[2:], 11)]
    masks = keep_best(scores, lots, scope=scope, generator=generator, blocks=BLOCKS)
    counts = {name: kept for name, (kept, _) in masks.block_counts().items()}
    assert sum(counts[block.name] for block in BLOCKS[:2]) == 7
    assert sum(counts[block.name] for block in BLOCKS[2:]) == 11
    if scope == "local":
        assert counts["fused[q]"] in (3, 4)
        assert all(abs(counts[block.name] - block.size * 11 / 27) < 1 for block in BLOCKS[2:])


def test_no_signal_is_that_of_the_scored_blocks() -> None:
    scores = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    instead = {BLOCKS[1].name: torch.rand(2, 3)}
    with pytest.raises(NoSignal):
        keep_best(scores, 9, generator=torch.Generator(), blocks=BLOCKS, unscored=Unscored(instead))


@pytest.mark.parametrize("density", [0.03, 0.1, 0.4])
def test_erdos_renyi_densities_are_those_of_the_layers_in_a_tensor(density: float) -> None:
    """A fused projection is pruned as the three layers that it stands for."""
    model = nn.TransformerEncoderLayer(24, 2, 40)
    masks = foreprune.prune(model, "erk", density=density)
    separate = nn.ModuleDict({name: nn.Linear(24, 24) for name in "qkvo"})
    separate["up"], separate["down"] = nn.Linear(24, 40), nn.Linear(40, 24)
    wanted = foreprune.prune(separate, "erk", density=density)
    assert list(masks.block_counts().values()) == list(wanted.layer_counts().values())
    uniform = foreprune.prune(model, "uniform", density=density)
    assert all(abs(kept - density * total) < 1 for kept, total in uniform.block_counts().values())


def test_old_masks_of_fused_tensors_stay_as_they_are() -> None:
    """One lot over all blocks of whole tensors is `keep_top` over the tensors, ties included."""
    net = Net.of(nn.MultiheadAttention(6, 2))
    scores = {name: torch.randint(0, 4, weight.shape).float() for name, weight in net.weights.items()}
    found = keep_best(scores, 50, generator=torch.Generator().manual_seed(3), blocks=net.blocks)
    plain = keep_best(scores, 50, generator=torch.Generator().manual_seed(3))
    by_lots = keep_best(scores, [Lot(net.blocks, 50)], generator=torch.Generator().manual_seed(3), blocks=net.blocks)
    assert found == plain == by_lots
    assert len(found.blocks) == 4
