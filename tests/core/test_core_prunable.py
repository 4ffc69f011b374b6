"""Which weights may be pruned: the default rule, names, patterns, predicates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract.nets import NETS, example
from torch import nn

import foreprune as fp
from foreprune.core.net import Net


class Mixed(nn.Module):
    """One of every kind of parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.conv = nn.Sequential(nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4))
        self.attention = nn.MultiheadAttention(4, 2)
        self.separate = nn.MultiheadAttention(4, 2, kdim=3, vdim=5)
        self.norm = nn.LayerNorm(4)
        self.free = nn.Parameter(torch.ones(4, 4))
        self.up = nn.ConvTranspose2d(2, 2, 1)
        self.volume = nn.Conv3d(1, 1, 1)
        self.head = nn.Linear(4, 2)
        self.steps = nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)


DEFAULT = (
    "conv.0.weight",
    "attention.in_proj_weight",
    "attention.out_proj.weight",
    "separate.q_proj_weight",
    "separate.k_proj_weight",
    "separate.v_proj_weight",
    "separate.out_proj.weight",
    "up.weight",
    "volume.weight",
    "head.weight",
)


def chosen(prunable: Any) -> tuple[str, ...]:
    return Net.of(Mixed(), prunable=prunable).prunable


def test_the_default_is_weights_of_layers_and_attention() -> None:
    assert chosen(None) == DEFAULT


@pytest.mark.parametrize("name", NETS)
def test_networks_of_the_contract_have_what_is_expected_of_them(name: str) -> None:
    net = Net.of(example(name).model)
    assert net.total == sum(weight.numel() for weight in net.weights.values())
    assert all(weight.dim() > 1 for weight in net.weights.values())


def test_conv1d_of_transformers_is_recognized_by_name() -> None:
    class Conv1D(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nf = 3
            self.weight = nn.Parameter(torch.ones(4, 3))
            self.bias = nn.Parameter(torch.zeros(3))

    assert Net.of(nn.Sequential(Conv1D(), nn.Linear(3, 2))).prunable == ("0.weight", "1.weight")


@pytest.mark.parametrize(
    ("prunable", "left"),
    [
        ("head", DEFAULT[:-1]),
        (["head", "conv"], DEFAULT[1:-1]),
        ("*.in_proj_weight", tuple(name for name in DEFAULT if "in_proj" not in name)),
        (["re:.*_proj.*", "up", "volume"], ("conv.0.weight", "head.weight")),
        ("head.weight", ("head.weight",)),
        (["head.weight", "free", "embedding.weight"], ("free", "embedding.weight", "head.weight")),
        (["norm"], DEFAULT),
        (lambda name, parameter: parameter.dim() == 1 and name.startswith("norm"), ("norm.weight", "norm.bias")),
    ],
)
def test_names_patterns_and_predicates(prunable: Any, left: tuple[str, ...]) -> None:
    assert chosen(prunable) == left


def test_excluding_by_any_name_of_a_tied_weight_excludes_it() -> None:
    model = example("tied").model
    assert Net.of(model, prunable="up").prunable == ("embed.weight", "head.weight")
    assert Net.of(model, prunable=["up.weight"]).prunable == ("down.weight",)
    shared = example("shared-module").model
    assert Net.of(shared, prunable="block").prunable == ("embed.weight", "head.weight")
    with pytest.raises(ValueError, match="prunable pattern 'again' fits no parameter"):  # as in named_parameters()
        Net.of(shared, prunable="again")


@pytest.mark.parametrize(
    ("prunable", "message"),
    [
        ("haed", r"prunable pattern 'haed' fits no parameter; near: head"),
        ("re:zzz", r"prunable pattern 're:zzz' fits no parameter"),
        ("re:(", "prunable pattern 're:\\(' is not a regular expression"),
        (
            ["head.weight", "conv"],
            r"prunable mixes parameter names to prune \('head.weight'\) with patterns to exclude \('conv'\)",
        ),
        ("*", "nothing to prune: prunable leaves no weight .*; name weights with prunable="),
        (
            ["steps"],
            "parameter 'steps' is torch.int64: only real floating weights can be pruned; exclude it with prunable=",
        ),
        (lambda name, parameter: False, "nothing to prune: prunable leaves no weight"),
    ],
)
def test_choices_that_cannot_be(prunable: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chosen(prunable)


def test_types_that_cannot_be() -> None:
    with pytest.raises(
        TypeError, match="prunable must be a predicate, a list of parameter names, or patterns to exclude"
    ):
        chosen(3)
    with pytest.raises(TypeError, match=r"prunable holds 3; entries must be names or patterns \(strings\)"):
        chosen(["head", 3])


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_model_with_nothing_to_prune_says_what_it_has() -> None:
    with pytest.raises(
        ValueError, match=r"the model has no Linear or convolution weight \(modules with parameters: LayerNorm\)"
    ):
        Net.of(nn.Sequential(nn.LayerNorm(3), nn.ReLU()))
    with pytest.raises(ValueError, match="modules with parameters: none"):
        Net.of(nn.ReLU())
    with pytest.raises(ValueError, match="nothing to prune"):
        Net.of(nn.Conv2d(3, 0, 1))


def test_complex_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"parameter '0.weight' is torch.complex64"):
        Net.of(nn.Sequential(nn.Linear(2, 2, dtype=torch.complex64)))


def test_an_empty_list_is_not_the_default() -> None:
    with pytest.raises(ValueError, match="prunable is an empty list; give None for the default"):
        Net.of(nn.Linear(2, 2), prunable=[])


def test_types_of_modules_are_excluded() -> None:
    class Own(nn.Linear):
        pass

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = nn.Linear(4, 4)

    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Linear(3, 4), Own(4, 4), Block())

    def chosen(prunable: Any) -> list[str]:
        return list(fp.prune(model, "random", density=0.5, prunable=prunable))

    assert chosen(nn.Conv2d) == ["1.weight", "2.weight", "3.inside.weight"]
    assert chosen([nn.Linear]) == ["0.weight"]
    assert chosen([Own, Block]) == ["0.weight", "1.weight"]
    assert chosen([nn.Conv2d, "1"]) == ["2.weight", "3.inside.weight"]


@pytest.mark.parametrize(
    ("prunable", "error", "message"),
    [
        ([nn.Conv3d], ValueError, "prunable excludes Conv3d, but the model has none; it has Conv2d, Linear"),
        (int, TypeError, "prunable holds the type int; types to exclude must be modules"),
        (
            [nn.Conv2d, "1.weight"],
            ValueError,
            "mixes parameter names to prune .'1.weight'. with types to exclude .Conv2d",
        ),
        ([nn.Conv2d, nn.Linear], ValueError, "nothing to prune: prunable leaves no weight"),
        ([nn.Conv2d, "9"], ValueError, "prunable pattern '9' fits no parameter"),
    ],
)
def test_types_that_do_not_fit(prunable: Any, error: type[Exception], message: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(3, 4))
    with pytest.raises(error, match=message):
        fp.prune(model, "random", density=0.5, prunable=prunable)
