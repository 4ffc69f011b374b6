"""Attention survives: queries and keys, which have no score on paths, in three kinds of transformers."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from contract.attention_models import KINDS, HeadwiseAttention, Transformer, UnnamedColumns, transformer

import foreprune
from foreprune.core.masks import Masks
from foreprune.core.unscored import UnscoredBlocks

PATHS = ("synflow", "synflow-l2", "px")


def pruned(kind: str, method: str, **given: Any) -> tuple[Masks, tuple[str, ...], list[warnings.WarningMessage]]:
    model, x, parts = transformer(kind)
    data = {"data": (x, torch.arange(len(x)) % 3)} if method in ("px", "snip", "grasp", "force") else {"inputs": x}
    if "rounds" in foreprune.get_method(method).settings:
        given.setdefault("rounds", 5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        masks = foreprune.prune(model, method, **{"density": 0.1, **data, **given})
    return masks, parts, caught


@pytest.mark.parametrize("method", [*PATHS, "phew"])
@pytest.mark.parametrize("kind", KINDS)
def test_queries_and_keys_keep_their_share_by_default(kind: str, method: str) -> None:
    if method in ("phew", "px") and kind != "vit":
        pytest.skip("they do not take token ids")
    masks, parts, caught = pruned(kind, method)
    erk = pruned(kind, "erk")[0].block_counts()
    counts = masks.block_counts()
    if method != "phew":
        assert masks.kept == round(0.1 * masks.total)
    for name in parts:
        assert counts[name][0] > 0
        assert abs(counts[name][0] - erk[name][0]) <= 1
    caught = [warning for warning in caught if warning.category is not foreprune.LayerCollapse]
    assert [warning.category for warning in caught] == [UnscoredBlocks]
    assert f"{len(parts)} of {len(counts)} blocks get no score at all" in str(caught[0].message)
    assert all(name in str(caught[0].message) for name in parts)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("kind", KINDS)
def test_their_largest_weights_are_kept(kind: str) -> None:
    model, _, parts = transformer(kind)
    masks, *_ = pruned(kind, "synflow")
    params = dict(model.named_parameters())
    for block in masks.blocks:
        if block.name in parts:
            weights, kept = params[block.parameter][block.index].abs(), masks[block.parameter][block.index]
            assert weights[kept].min() > weights[~kept].max()


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_kept_whole_or_go_by_their_zeros_if_asked(kind: str) -> None:
    kept, parts, caught = pruned(kind, "synflow", gates="keep", density=0.3)
    assert kept.kept == round(0.3 * kept.total)
    assert all(kept.block_densities()[name] == 1 for name in parts)
    assert "they are kept whole" in str(caught[0].message)
    gone, parts, caught = pruned(kind, "synflow", gates="score")
    assert gone.kept == round(0.1 * gone.total)
    assert set(gone.collapsed_blocks()) == set(parts)
    assert [warning.category for warning in caught] == [foreprune.LayerCollapse]
    what = "layers" if kind == "bert" else "blocks"
    assert f"leaves no weight in 4 of {len(gone.blocks)} {what}: {parts[0]}" in str(caught[0].message)
    with pytest.raises(ValueError, match=r'gates="keep" keeps the 576 weights of .*; ask for a density of at least'):
        pruned(kind, "synflow", gates="keep")


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_fraction_of_every_block(kind: str) -> None:
    masks, _, caught = pruned(kind, "synflow", scope="local")
    assert all(abs(kept - 0.1 * total) < 1 for kept, total in masks.block_counts().values())
    assert [warning.category for warning in caught] == [UnscoredBlocks]


@pytest.mark.parametrize("rounds", [1, 7])
def test_the_share_does_not_depend_on_the_rounds(rounds: int) -> None:
    masks, parts, _ = pruned("vit", "synflow", rounds=rounds)
    once, *_ = pruned("vit", "synflow", rounds=30)
    assert [masks.block_counts()[name] for name in parts] == [once.block_counts()[name] for name in parts]


def test_without_pruning_nothing_is_said() -> None:
    assert pruned("vit", "synflow", density=1.0)[2] == []


@pytest.mark.parametrize("method", ["snip", "grasp"])
def test_a_floor_for_scores_of_the_data(method: str) -> None:
    plain, parts, _ = pruned("gpt2", method, gates="score")
    floored, *_ = pruned("gpt2", method, gates="score", floor=0.5)
    erk = pruned("gpt2", "erk")[0].block_counts()
    assert plain.kept == floored.kept
    assert min(plain.block_counts()[name][0] for name in parts) < 0.3 * erk[parts[0]][0]  # or there is nothing to see
    for name, (kept, _) in floored.block_counts().items():
        assert kept >= 0.5 * erk[name][0] - 1, name


def test_rows_that_no_name_tells() -> None:
    """Rows without a score that are a regular part of a tensor, as queries and keys head by head, are one block."""
    torch.manual_seed(0)
    model = Transformer(HeadwiseAttention, tokens=False)
    with pytest.warns(UnscoredBlocks, match=r"2 of 12 blocks get no score at all.*mixed.weight\[unscored\]"):
        masks = foreprune.prune(model, "synflow", density=0.1, inputs=torch.rand(2, 2, 8, 8), rounds=5)
    assert masks.kept == round(0.1 * masks.total)
    rows = masks["blocks.0.attn.mixed.weight"].view(2, 3, 6, 12)
    assert rows[:, :2].sum() > 0
    assert masks.block_counts()["blocks.0.attn.mixed.weight[unscored]"] == (int(rows[:, :2].sum()), 288)


def test_columns_that_no_name_tells() -> None:
    torch.manual_seed(0)
    model = Transformer(UnnamedColumns, tokens=False)
    with pytest.warns(UnscoredBlocks, match=r"mixed.weight\[unscored\]"):
        masks = foreprune.prune(model, "synflow", density=0.2, inputs=torch.rand(2, 2, 8, 8), rounds=5)
    kept = masks["blocks.1.attn.mixed.weight"][:, :24]
    assert masks.block_counts()["blocks.1.attn.mixed.weight[unscored]"] == (int(kept.sum()), 288)
    assert kept.sum() > 0
