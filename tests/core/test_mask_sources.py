"""Masks from zero weights, scores and torch's own pruning, and under other names."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

import foreprune as fp
from foreprune import Masks


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))


class Tied(nn.Module):
    """Two linear layers that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.outside = nn.Linear(5, 5), nn.Linear(5, 5, bias=False)
        self.outside.weight = self.inside.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.outside(self.inside(x).relu())


def test_zeros_of_a_pruned_model_are_its_mask() -> None:
    model = network()
    masks = fp.prune(model, "random", density=0.3)
    masks.apply_(model)
    with torch.no_grad():
        model[3].weight.view(-1)[torch.nonzero(~masks["3.weight"].view(-1))[0]] = -0.0  # pruned, whatever the sign
        model[0].bias.zero_()  # no weight that is prunable
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = Masks.from_zeros(model)
    assert found == masks
    assert found.metadata["method"] == "zeros"
    assert Masks.from_zeros(nn.DataParallel(model)) == masks
    assert list(Masks.from_zeros(model, prunable="3")) == ["0.weight"]
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_weights_that_are_not_zero_are_kept() -> None:
    model = network()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = float("nan")
    assert Masks.from_zeros(model).density == 1


def test_a_weight_of_nothing_but_zeros_is_named() -> None:
    model = network()
    nn.init.zeros_(model[3].weight)
    with pytest.warns(UserWarning, match=r"^1 of 2 weights hold nothing but zeros \(3.weight\).*exclude them with"):
        masks = Masks.from_zeros(model)
    assert masks.collapsed() == ("3.weight",)


def test_blocks_are_found_and_renamed() -> None:
    model = nn.MultiheadAttention(8, 2)
    masks = fp.prune(model, "erk", density=0.5, prunable=["*in_proj_weight[q]"])
    masks.apply_(model)
    with torch.no_grad():
        model.in_proj_weight[0] = 0  # a query, which is not prunable
    found = Masks.from_zeros(model, prunable=["*in_proj_weight[q]"])
    assert found == masks
    assert found.block_counts() == masks.block_counts()
    renamed = masks.renamed(add="layer.")
    assert list(renamed.block_counts()) == ["layer." + name for name in masks.block_counts()]
    assert list(renamed.block_counts().values()) == list(masks.block_counts().values())
    assert renamed.renamed(strip="layer.").blocks == masks.blocks


@pytest.mark.filterwarnings("ignore::foreprune.core.cautions.TiedScores")
@pytest.mark.parametrize("scope", ["global", "local"])
def test_scores_are_selected_as_by_prune(scope: str) -> None:
    model = network()
    generator = torch.Generator().manual_seed(1)
    # few different values: most of the threshold is ties
    scores = {
        name: torch.randint(0, 4, weight.shape, generator=generator).float()
        for name, weight in model.named_parameters()
        if weight.dim() > 1
    }
    masks = Masks.from_scores(scores, 0.37, scope=scope, seed=5)  # type: ignore[arg-type]
    assert masks.kept == round(0.37 * masks.total)
    assert masks == fp.prune(model, scores, density=0.37, scope=scope, seed=5)  # type: ignore[arg-type]
    assert masks != Masks.from_scores(scores, 0.37, scope=scope, seed=6)  # type: ignore[arg-type]
    if scope == "global":
        lowest = min(float(scores[name][mask].min()) for name, mask in masks.items())
        assert all(float(scores[name][~mask].max()) <= lowest for name, mask in masks.items())


DENSITIES = {"3": 0.05, "*": 0.5}


@pytest.mark.parametrize("scope", ["global", "local"])
def test_scores_are_selected_by_patterns_as_by_prune(scope: str) -> None:
    model = network()
    generator = torch.Generator().manual_seed(2)
    scores = {
        name: torch.rand(weight.shape, generator=generator)
        for name, weight in model.named_parameters()
        if weight.dim() > 1
    }
    masks = Masks.from_scores(scores, DENSITIES, scope=scope)  # type: ignore[arg-type]
    assert masks.layer_counts() == {"0.weight": (18, 36), "3.weight": (72, 1440)}
    assert masks == fp.prune(model, scores, density=DENSITIES, scope=scope)  # type: ignore[arg-type]
    assert masks.metadata["density"] == repr(DENSITIES)
    for name, score in scores.items():
        assert float(score[masks[name]].min()) > float(score[~masks[name]].max())
    assert Masks.from_scores(scores, {"*": 0.3}) == Masks.from_scores(scores, 0.3)


@pytest.mark.parametrize(
    ("density", "message"),
    [
        ({"4": 0.5, "*": 0.1}, "^density pattern '4' fits no prunable block; there are 0.weight, 3.weight, ..."),
        ({"3": 0.5}, r"^no density pattern fits '0.weight'; add a density for the others: \"\*\": 0.1$"),
        ({"3": 2, "*": 0.5}, r"^density of '3': density must be in \(0, 1\]"),
        ({"0": 0.001, "*": 0.5}, "^density of '0': density 0.001 keeps none of 36 weights"),
    ],
)
def test_densities_of_scores_that_cannot_be(density: dict[str, float], message: str) -> None:
    scores = {name: weight.detach() for name, weight in network().named_parameters() if weight.dim() > 1}
    with pytest.raises(ValueError, match=message):
        Masks.from_scores(scores, density)


def test_scores_of_zero_are_worth_nothing_without_a_model() -> None:
    """As by `prune` with gates="score": by default it would keep a share of a layer without a score."""
    model = network()
    scores = {"0.weight": torch.zeros(4, 1, 3, 3), "3.weight": torch.rand(10, 144)}
    masks = Masks.from_scores(scores, 0.4)
    assert masks.layer_counts()["0.weight"][0] == 0
    with pytest.warns(fp.LayerCollapse):
        assert fp.prune(model, scores, density=0.4, gates="score") == masks
    with pytest.warns(UserWarning, match="get no score at all"):
        assert fp.prune(model, scores, density=0.4).layer_counts()["0.weight"][0] > 0


def test_torch_masks_are_read_and_written() -> None:
    model = network()
    original = copy.deepcopy(model.state_dict())
    torch_prune.l1_unstructured(model[0], "weight", amount=10)
    torch_prune.random_unstructured(model[3], "weight", amount=100)
    torch_prune.random_unstructured(model[3], "weight", amount=200)  # a second time: a container of both
    torch_prune.random_unstructured(model[3], "bias", amount=3)
    masks = Masks.from_torch_prune(model)
    assert masks.layer_counts() == {"0.weight": (26, 36), "3.weight": (1140, 1440), "3.bias": (7, 10)}
    for layer, name in ((model[0], "weight"), (model[3], "weight"), (model[3], "bias")):
        torch_prune.remove(layer, name)
    assert Masks.from_zeros(model, prunable=["0.weight", "3.weight", "3.bias"]) == masks

    model = network()
    assert masks.to_torch_prune(model) is model
    assert Masks.from_torch_prune(model) == masks
    assert torch.equal(model[3].weight_orig, original["3.weight"])
    assert torch.equal(model[3].weight, original["3.weight"] * masks["3.weight"])
    for layer, name in ((model[0], "weight"), (model[3], "weight"), (model[3], "bias")):
        torch_prune.remove(layer, name)
    assert set(model.state_dict()) == set(original)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    masks.attach(model, optimizer)
    model(torch.randn(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    assert all(not model.get_parameter(name)[~mask].any() for name, mask in masks.items())


def test_tied_weights_stay_tied_under_torch_prune() -> None:
    model = Tied()
    masks = fp.prune(model, "random", density=0.4)
    masks.to_torch_prune(model)
    assert model.inside.weight_orig is model.outside.weight_orig
    assert set(Masks.from_torch_prune(model)) == {"inside.weight", "outside.weight"}
    for layer in (model.inside, model.outside):
        assert int((layer.weight != 0).sum()) == masks.kept
        torch_prune.remove(layer, "weight")
    assert model.inside.weight is model.outside.weight
    assert Masks.from_zeros(model) == masks


def test_names_are_changed() -> None:
    masks = fp.prune(network(), "random", density=0.5)
    inside = masks.renamed(add="model.")
    assert list(inside) == ["model.0.weight", "model.3.weight"]
    assert inside.metadata == masks.metadata
    assert inside.renamed(strip="model.") == masks
    assert list(inside.renamed(strip="model.", add="net.")) == ["net.0.weight", "net.3.weight"]
    assert list(masks.renamed({"3.weight": "head.weight"})) == ["0.weight", "head.weight"]
    assert list(masks.renamed({"0.weight": "3.weight", "3.weight": "0.weight"})) == ["3.weight", "0.weight"]
    assert list(masks.renamed(lambda name: name.upper())) == ["0.WEIGHT", "3.WEIGHT"]


def test_an_error_says_which_prefix_is_missing() -> None:
    model = network()
    masks = fp.prune(model, "random", density=0.5)
    outside = nn.ModuleDict({"net": nn.ModuleDict({"model": model})})
    with pytest.raises(ValueError, match=re.escape("; write masks.renamed(add='net.model.')") + "$"):
        masks.attach(outside)
    masks.renamed(add="net.model.").attach(outside).remove()
    with pytest.raises(ValueError, match=re.escape("; write masks.renamed(strip='net.model.')") + "$"):
        masks.renamed(add="net.model.").apply_(model)


def _pruned() -> nn.Module:
    return torch_prune.identity(nn.Linear(3, 3), "weight")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: Masks.from_zeros("model"), TypeError, "model must be a torch.nn.Module, not str"),
        (lambda m: Masks.from_scores([1.0], 0.5), TypeError, "scores must be a mapping .* not list"),
        (lambda m: Masks.from_scores({"a": [1.0]}, 0.5), TypeError, "scores of 'a' must be a tensor, not list"),
        (lambda m: Masks.from_scores({"a": torch.ones(4)}, 1.5), ValueError, r"density must be in \(0, 1\]"),
        (lambda m: Masks.from_scores({"a": torch.ones(4)}, 0.5, scope="layer"), ValueError, 'scope must be "global"'),
        (lambda m: Masks.from_scores({"a": torch.ones(4)}, 0.5, seed=-1), ValueError, "seed must be a whole number"),
        (lambda m: Masks.from_scores({"a": torch.tensor([1, float("nan")])}, 0.5), ValueError, "scores of 'a' are NaN"),
        (
            lambda m: Masks.from_scores({}, 0.5),
            ValueError,
            "there is no weight to keep any of: give at least one tensor",
        ),
        (lambda m: Masks.from_scores({"a": torch.ones(0, 3)}, 0.5), ValueError, "there is no weight to keep any of"),
        (
            lambda m: Masks.from_scores({"a": torch.ones(2, 2).to_sparse()}, 0.5),
            TypeError,
            r"scores of 'a' must be a dense tensor, not torch.sparse_coo; write scores.to_dense\(\)",
        ),
        (lambda m: Masks.from_torch_prune(network()), ValueError, "holds no mask of torch.nn.utils.prune: prune it"),
        (
            lambda m: Masks({"weight": torch.ones(3, 3) > 0}).to_torch_prune(_pruned()),
            ValueError,
            r"'weight' is pruned by torch.nn.utils.prune already; call prune.remove\(module, 'weight'\) first",
        ),
        (lambda m: m.to_torch_prune(nn.Linear(2, 2)), ValueError, "masks belong to another model: it has no parameter"),
        (lambda m: m.renamed(), TypeError, "give either names .* or prefixes"),
        (lambda m: m.renamed(str.upper, add="a."), TypeError, "give either names .* or prefixes"),
        (lambda m: m.renamed(3), TypeError, "names must be a mapping from old to new or a function .* not int"),
        (lambda m: m.renamed({"9.weight": "a"}), ValueError, "no mask '9.weight' to rename; there are 0.weight, 3"),
        (lambda m: m.renamed({"0.weight": 3}), TypeError, "new name of '0.weight' must be a string .* not 3"),
        (
            lambda m: m.renamed({"0.weight": "3.weight"}),
            ValueError,
            "'0.weight' and '3.weight' would both be named '3.",
        ),
        (lambda m: m.renamed(lambda name: "x"), ValueError, "would both be named 'x'"),
        (lambda m: m.renamed(strip="module."), ValueError, "'0.weight' does not begin with 'module.'"),
    ],
)
def test_errors_say_what_to_write(call: Callable[[Masks], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(fp.prune(network(), "random", density=0.5))
