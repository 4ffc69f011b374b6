"""Every method, with data in every form users have them in; and scores that follow a permutation of units."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from contract.nets import CLASSES, example
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import foreprune
from foreprune.core.method import Method

pytestmark = pytest.mark.filterwarnings("ignore::foreprune.LayerCollapse")
DATA_DRIVEN = [
    pytest.param(method, id=method.name) for method in foreprune.list_methods() if method.needs & {"images", "labels"}
]
WITH_INPUTS = [pytest.param(method, id=method.name) for method in foreprune.list_methods() if "shape" in method.needs]
SCORED = [pytest.param(method, id=method.name) for method in foreprune.list_methods() if method.score is not None]


def few(method: Method) -> dict[str, Any]:
    return {"rounds": 3} if "rounds" in method.settings else {}


@pytest.mark.parametrize("method", DATA_DRIVEN)
def test_forms_of_batches(method: Method) -> None:
    given = example("mlp")
    x, y = given.x, given.y
    Batch = namedtuple("Batch", "image label")
    whole: list[Any] = [
        (x, y),
        [x, y],
        Batch(x, y),
        [(x, y)],
        ([x, y] for _ in range(1)),
        DataLoader(TensorDataset(x, y), batch_size=12),
        [{"input": x, "labels": y}],
        {"input": x, "labels": y},
        [([x], y)],
        (((x,), y)),
    ]
    halves: list[Any] = [
        [(x[:6], y[:6]), (x[6:], y[6:])],
        DataLoader(TensorDataset(x, y), batch_size=6),
        iter([{"input": x[:6], "labels": y[:6]}, {"input": x[6:], "labels": y[6:]}]),
    ]
    for forms in (whole, halves):
        masks = [foreprune.prune(given.model, method.name, density=0.3, data=data, **few(method)) for data in forms]
        assert all(found == masks[0] for found in masks)


@pytest.mark.parametrize("method", DATA_DRIVEN)
def test_a_loader_that_draws_anew_is_read_once(method: Method) -> None:
    """Every pass of every round sees the same images; the published GraSP port takes g and Hg of different ones."""
    given = example("mlp")

    class Drawing:
        def __init__(self) -> None:
            self.read: list[tuple[Tensor, Tensor]] = []

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            for _ in range(3):
                self.read.append((torch.rand(4, 6, dtype=torch.float64), torch.randint(CLASSES, (4,))))
                yield self.read[-1]

    drawing = Drawing()
    masks = foreprune.prune(given.model, method.name, density=0.3, data=drawing, **few(method))
    assert len(drawing.read) == 3
    assert foreprune.prune(given.model, method.name, density=0.3, data=drawing.read, **few(method)) == masks


class TwoInputs(nn.Module):
    """Keyword arguments, one of them optional, and an output that is a mapping with logits."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(6, 8)
        self.right = nn.Linear(4, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, left: Tensor, right: Tensor, scale: Tensor | None = None) -> dict[str, Tensor]:
        hidden = F.relu(self.left(left) + self.right(right))
        return {"features": hidden, "logits": self.head(hidden)}


@pytest.mark.parametrize("method", DATA_DRIVEN + WITH_INPUTS)
def test_models_with_several_inputs_and_mappings(method: Method) -> None:
    if "mean image" in method.needs:
        pytest.skip("the mean image is of one input")
    torch.manual_seed(0)
    model = TwoInputs().double()
    left, right, y = torch.rand(9, 6).double(), torch.rand(9, 4).double(), torch.arange(9) % CLASSES
    forms: list[dict[str, Any]] = (
        [{"data": ((left, right), y)}, {"data": {"left": left, "right": right, "labels": y}}]
        if method.needs & {"images", "labels"}
        else [{"inputs": (left, right)}, {"inputs": {"left": left, "right": right}}, {"data": ((left, right), y)}]
    )
    masks = [foreprune.prune(model, method.name, density=0.4, **form, **few(method)) for form in forms]
    assert masks[0].kept == round(0.4 * masks[0].total)
    assert all(found == masks[0] for found in masks)


@pytest.mark.parametrize("method", WITH_INPUTS)
def test_of_inputs_only_shape_and_type_count(method: Method) -> None:
    if "mean image" in method.needs:
        pytest.skip("the mean image is data")
    given = example("conv")
    one = foreprune.prune(given.model, method.name, density=0.3, inputs=given.x, **few(method))
    other = foreprune.prune(given.model, method.name, density=0.3, inputs=torch.zeros_like(given.x[:1]), **few(method))
    assert one == other


@pytest.mark.parametrize("method", SCORED)
def test_permuting_hidden_units_permutes_the_scores(method: Method) -> None:
    given = example("mlp")
    arguments = {key: value for key, value in given.arguments(method).items() if key != "rounds"}
    before = foreprune.score(given.model, method.name, **arguments)
    again = foreprune.score(given.model, method.name, seed=1, **arguments)
    if any(not torch.equal(before[name], again[name]) for name in before):
        pytest.skip(f"{method.name} draws its scores at random")
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    first, second = given.model[0], given.model[2]
    with torch.no_grad():
        first.weight.copy_(first.weight[order])
        first.bias.copy_(first.bias[order])
        second.weight.copy_(second.weight[:, order])
    after = foreprune.score(given.model, method.name, **arguments)
    wanted = {**before, "0.weight": before["0.weight"][order], "2.weight": before["2.weight"][:, order]}
    for name in wanted:
        torch.testing.assert_close(after[name], wanted[name], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("method", SCORED)
def test_scores_fit_the_weights_and_choose_the_one_shot_mask(method: Method) -> None:
    given = example("residual")
    arguments = {key: value for key, value in given.arguments(method).items() if key != "rounds"}
    scores = foreprune.score(given.model, method.name, **arguments)
    one_round = {"rounds": 1} if "rounds" in method.settings else {}
    masks = foreprune.prune(given.model, method.name, density=0.2, **arguments, **one_round)
    assert {name: tuple(score.shape) for name, score in scores.items()} == masks.shapes
    assert not any(score.requires_grad for score in scores.values())
    flat = torch.cat([score.flatten() for score in scores.values()])
    kept = torch.cat([mask.flatten() for mask in masks.values()])
    assert flat[kept].min() >= flat[~kept].max()


@pytest.mark.parametrize("method", DATA_DRIVEN)
@pytest.mark.parametrize("name", ["tied", "shared-module"])
def test_tied_weights_are_one_weight_with_one_score(method: Method, name: str) -> None:
    """Their score is checked against an unshared twin in tests/oracles."""
    given = example(name)
    masks = foreprune.prune(given.model, method.name, density=0.4, **given.arguments(method))
    names = {"tied": "down.weight", "shared-module": "block.0.weight"}
    assert names[name] in masks
    assert len(masks) == 3
    assert masks.total == 6 * 8 + 8 * 8 + 8 * CLASSES
