"""Every method leaves attention alive by default: queries and keys keep weights, or a warning says so."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foreprune
from foreprune.core.attention import score_blocks
from foreprune.core.method import Method
from foreprune.core.net import Net
from foreprune.core.unscored import UnscoredBlocks

METHODS = [pytest.param(method, id=method.name) for method in foreprune.list_methods()]
LOOKING = [param for param in METHODS if param.values[0].score is not None and param.values[0].needs]


class Encoder(nn.Module):
    """Two layers of torch's own encoder over sequences of four vectors, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.encoder(x)[:, -1])
        return output


def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder().double()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(12, 4, 8, generator=generator, dtype=torch.float64), torch.arange(12) % 3


def pruned(method: Method, **options: Any) -> tuple[foreprune.Masks, list[warnings.WarningMessage]]:
    if "rounds" in method.settings:
        options["rounds"] = 3
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        x, y = batch()
        masks = foreprune.prune(encoder(), method.name, density=0.1, inputs=x, data=(x, y), **options)
    return masks, said


def queries_and_keys(masks: foreprune.Masks) -> dict[str, int]:
    return {name: kept for name, (kept, _) in masks.block_counts().items() if name.endswith(("[q]", "[k]"))}


@pytest.mark.parametrize("method", METHODS)
def test_queries_and_keys_of_every_layer_keep_weights_or_a_warning_names_them(method: Method) -> None:
    masks, said = pruned(method)
    found = queries_and_keys(masks)
    assert len(found) == 4
    words = " ".join(str(warning.message) for warning in said if warning.category is foreprune.LayerCollapse)
    assert [name for name, kept in found.items() if not kept and name not in words] == []


@pytest.mark.parametrize("method", LOOKING)
def test_what_a_method_that_looks_at_inputs_keeps_of_them_is_what_erk_keeps_their_largest_weights(
    method: Method,
) -> None:
    masks, said = pruned(method)
    reference, _ = pruned(foreprune.get_method("erk"))
    wanted = queries_and_keys(reference)
    assert all(abs(kept - wanted[name]) <= 1 for name, kept in queries_and_keys(masks).items())
    (warning,) = (warning for warning in said if warning.category is UnscoredBlocks)
    paths = method.name == "px" or "synflow" in method.name
    why = "get no score at all" if paths else "make attention scores, whose gradients say little"
    assert str(warning.message).startswith(f"4 of 13 blocks {why}")
    for name, weight in encoder().named_parameters():
        if name.endswith("in_proj_weight"):
            for rows, mask in zip(weight.abs().chunk(3)[:2], masks[name].chunk(3)[:2], strict=True):
                assert rows[mask].min() > rows[~mask].max()


def test_gates_score_is_the_published_selection_and_starves_them() -> None:
    snip = foreprune.get_method("snip")
    masks, said = pruned(snip, gates="score")
    scores = foreprune.score(encoder(), "snip", data=batch())
    flat = torch.cat([score.flatten() for score in scores.values()])
    bits = torch.cat([masks[name].flatten() for name in scores])
    assert flat[bits].min() >= flat[~bits].max()
    assert not [warning for warning in said if warning.category is UnscoredBlocks]
    assert sum(queries_and_keys(masks).values()) < sum(queries_and_keys(pruned(snip)[0]).values())


@pytest.mark.filterwarnings("ignore::foreprune.LayerCollapse")
def test_scores_decide_where_nothing_but_queries_and_keys_is_prunable() -> None:
    names = sorted(score_blocks(Net.of(encoder()).blocks))
    masks = foreprune.prune(encoder(), "snip", density=0.2, data=batch(), prunable=names)
    assert (masks.kept, masks.total) == (51, 256)
