"""What the matrix takes for right, refused, raw and wrong."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from models.cell import Cell, try_cell
from models.fused import parts
from models.network import Given, labels
from models.own import Encoder, flat, mlp
from torch import nn

import foreprune as fp
from foreprune.core import density as in_the_package

REAL = fp.prune


def judged(monkeypatch: pytest.MonkeyPatch, prune: Callable[..., Any], model: nn.Module | None = None) -> Cell:
    """The cell of `magnitude` if `prune` were foreprune's."""
    monkeypatch.setattr(fp, "prune", prune)
    return try_cell(Given(model or mlp(), flat(), labels()), "magnitude")


def test_masks_as_asked_for_are_ok(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judged(monkeypatch, REAL).outcome == "ok"


def test_one_weight_too_many_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_more(model: nn.Module, method: str, *, density: float) -> fp.Masks:
        kept = dict(REAL(model, method, density=density))
        first = next(iter(kept.values()))
        first.view(-1)[first.flatten().logical_not().nonzero()[0]] = True
        return fp.Masks(kept)

    cell = judged(monkeypatch, one_more)
    assert (cell.outcome, cell.detail) == ("wrong", "keeps 85 of 840 weights where 84 were asked for")


def _changes_a_weight(model: nn.Module, method: str, **settings: Any) -> fp.Masks:
    made = REAL(model, method, **settings)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1
    return made


def _draws(model: nn.Module, method: str, **settings: Any) -> fp.Masks:
    random.random()
    return REAL(model, method, **settings)


@pytest.mark.parametrize("prune", [_changes_a_weight, _draws])
def test_a_change_of_what_is_the_users_is_wrong(prune: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert judged(monkeypatch, prune).detail.startswith("changed the caller's state: ")


def test_an_error_of_torch_is_raw(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        torch.zeros(2) @ torch.zeros(3)

    cell = judged(monkeypatch, fails)
    assert cell.outcome == "raw"
    assert cell.detail.startswith("not a ValueError or TypeError: RuntimeError: ")


def test_a_value_error_from_elsewhere_is_raw(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ValueError("give something else; please")

    assert judged(monkeypatch, fails).detail.startswith("raised in ")


@pytest.mark.parametrize(
    ("words", "outcome"),
    [
        ("density must be in (0, 1]", "refused"),
        ("no", "raw"),
        ("two\nlines; use one", "raw"),
        ("long; " + "x" * 400, "raw"),
    ],
)
def test_an_error_of_ours_is_a_refusal_if_it_is_one_sentence_with_advice(
    words: str, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "def fails(*_, **__):\n    raise ValueError(words)\n"
    monkeypatch.setattr("models.cell.linecache.getline", lambda *_: "    raise ValueError(words)")
    space: dict[str, Any] = {"words": words}
    exec(compile(source, in_the_package.__file__, "exec"), space)
    assert judged(monkeypatch, space["fails"]).outcome == outcome


def _no_queries(model: nn.Module, *, words: str = "") -> Callable[..., fp.Masks]:
    """Prunes at random, and takes every query of the first attention for other weights."""

    def prune(model: nn.Module, method: str, *, density: float) -> fp.Masks:
        made = dict(REAL(model, "random", density=density))
        attention = made["layers.layers.0.self_attn.in_proj_weight"]
        queries, others = attention[:16], made["head.weight"].view(-1)
        missing = int(queries.sum())
        queries.fill_(False)
        others[others.logical_not().nonzero()[:missing]] = True
        if words:
            warnings.warn(words, fp.LayerCollapse, stacklevel=2)
        return fp.Masks(made)

    return prune


def test_an_empty_block_of_a_fused_projection_is_wrong_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = judged(monkeypatch, _no_queries(Encoder()), Encoder())
    assert cell.outcome == "wrong"
    assert cell.detail == "leaves no weight in layers.layers.0.self_attn.in_proj_weight[q] without a word"


def test_a_warning_that_names_the_block_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "no weight in layers.layers.0.self_attn.in_proj_weight[q]"
    assert judged(monkeypatch, _no_queries(Encoder(), words=words), Encoder()).outcome == "warned"


def test_a_warning_of_torch_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def warns(model: nn.Module, method: str, **settings: Any) -> fp.Masks:
        warnings.warn_explicit("use something else", UserWarning, "torch/somewhere.py", 1)
        return REAL(model, method, **settings)

    assert judged(monkeypatch, warns).detail == "a warning that is not ours: UserWarning: use something else"


class PerHead(nn.Module):
    """A projection with the query, key and value of one head after the other."""

    head_first = True
    num_heads = 2

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)


def test_queries_keys_and_values_may_lie_head_by_head() -> None:
    mask = torch.zeros(12, 4, dtype=torch.bool)
    mask[[2, 3, 8, 9]] = True  # the keys of both heads
    found = parts(PerHead(), "qkv.weight", mask)
    assert {part: bool(block.any()) for part, block in found.items()} == {"q": False, "k": True, "v": False}
    assert int(found["k"].sum()) == 16
