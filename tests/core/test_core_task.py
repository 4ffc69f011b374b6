"""Data for scoring: what counts as a batch, and what is said to data that is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract.nets import example
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import foreprune
from foreprune.core.net import Net
from foreprune.core.task import NEEDS, Inputs, Task, as_inputs, materialize, task_for

X, Y = torch.linspace(0.01, 0.99, 12).view(4, 3), torch.tensor([0, 1, 0, 1])
CPU = torch.device("cpu")


def test_sizes_and_targets() -> None:
    batches = materialize([(X, Y), {"x": X[:3], "labels": Y[:3]}, ((X[:1], X[:1]), {"boxes": Y[:1]})], CPU)
    assert [batch.size for batch in batches] == [4, 3, 1]
    assert batches[1].inputs.kwargs is not None
    assert batches[1].inputs.kwargs.keys() == {"x"}
    assert len(batches[2].inputs.args) == 2
    assert torch.equal(batches[2].target["boxes"], Y[:1])


def test_inputs_alone_as_loaders_give_them() -> None:
    for data in (X, [X[:2], X[2:]], DataLoader(TensorDataset(X), batch_size=2), [(X,)], DataLoader(X.unbind(), 3)):
        batches = materialize(data, CPU, labeled=False)
        assert torch.equal(torch.cat([batch.inputs.tensors()[0] for batch in batches]), X)


def test_inputs_are_detached() -> None:
    recording = X.clone().requires_grad_()
    (batch,) = materialize((recording * 2, Y), CPU)
    assert not batch.inputs.tensors()[0].requires_grad


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (X, r"data must be a batch \(input, target\) or an iterable of batches, not Tensor; .* pass inputs= instead"),
        (3, "data must be a batch .*, not int"),
        (TensorDataset(X, Y), r"data must be a batch .*, not TensorDataset; .* DataLoader\(dataset, batch_size=64\)"),
        ([X, X, X], r"each batch must be a pair \(input, target\) or a mapping with 'labels', not Tensor"),
        ([(X, "a", Y)], r"each batch must be a pair .*, not tuple of 3; several inputs come before .*\(a, b, y\)"),
        ({"x": X, "z": Y}, r"a batch that is a mapping needs 'labels' \(or 'label', .* 'y'\); it has x, z"),
        ([(X[0], 3)], r"the target of a batch is 3, one value: .* data=DataLoader\(dataset, batch_size=64\)"),
        ([{}], "it has nothing"),
        ([("text", Y)], "inputs must be a tensor, a tuple of tensors"),
        ([((), Y)], "inputs must be a tensor"),
        ([({}, Y)], "a batch needs an input tensor with a batch axis, and this one has none"),
        ([(torch.tensor(1.0), Y)], "and this one has one number"),
    ],
)
def test_data_that_is_none(data: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        materialize(data, CPU)


@pytest.mark.parametrize("data", [[], iter(()), (X[:0], Y[:0])])
def test_data_without_a_sample(data: Any) -> None:
    with pytest.raises(
        ValueError, match="data holds no batch: an empty iterable, or an iterator that was already used up"
    ):
        materialize(data, CPU)


def test_inputs_in_their_forms() -> None:
    given = Inputs((X,))
    assert as_inputs(given) is given
    assert as_inputs(X).args == (X,)
    assert as_inputs({"a": X}).kwargs == {"a": X}
    assert as_inputs([X, X]).args == (X, X)
    assert len(as_inputs({"a": X, "nested": [{"b": (X, 3)}]}).tensors()) == 2
    for wrong in ("x", 3, None, (), (X, "x")):
        with pytest.raises(TypeError, match=r"inputs must be a tensor, .*e.g. inputs=torch.zeros\(1, 3, 32, 32\)"):
            as_inputs(wrong)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            lambda output, y: F.cross_entropy(output, y, reduction="none"),
            r"loss must return one number .*, got \(12,\); use reduction='mean'",
        ),
        (lambda output, y: None, "loss must return one number .*, got NoneType"),
        (lambda output, y: 0.5, "got float"),
    ],
)
def test_losses_that_are_no_scalar(loss: Any, message: str) -> None:
    given = example("mlp")
    with pytest.raises(ValueError, match=message):
        foreprune.prune(given.model, "snip", density=0.5, data=(given.x, given.y), loss=loss)


def test_a_loss_of_one_element_and_a_loss_that_cannot_be_called() -> None:
    given = example("mlp")
    data = (given.x, given.y)
    plain = foreprune.score(given.model, "snip", data=data)
    shaped = foreprune.score(given.model, "snip", data=data, loss=lambda o, y: F.cross_entropy(o, y)[None, None])
    assert all(torch.equal(plain[name], shaped[name]) for name in plain)
    with pytest.raises(TypeError, match=r"loss must be callable as loss\(output, target\), not str"):
        foreprune.prune(given.model, "snip", density=0.5, data=data, loss="mse")  # type: ignore[arg-type]


def test_a_loss_that_does_not_depend_on_the_model_is_no_signal() -> None:
    given = example("mlp")
    for loss in (lambda o, y: o.detach().sum(), lambda o, y: torch.zeros(()), lambda o, y: 0 * o.sum()):
        with pytest.raises(ValueError, match=r"every score is zero.*zero loss gradient"):
            foreprune.prune(given.model, "snip", density=0.5, data=(given.x, given.y), loss=loss)


def test_a_temperature_needs_one_tensor() -> None:
    given = example("mlp")
    model = given.model

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.body(x)}

    def loss(output: dict[str, Tensor], y: Tensor) -> Tensor:
        return F.cross_entropy(output["logits"], y)

    arguments: dict[str, Any] = {"data": (given.x, given.y), "loss": loss}
    with pytest.raises(
        ValueError,
        match=r"a temperature of 200 needs a model that returns one tensor, .* returns dict; pass temperature=1",
    ):
        foreprune.prune(Wrapped(), "grasp", density=0.5, temperature=200, **arguments)
    plain = foreprune.prune(Wrapped(), "grasp", density=0.5, **arguments)
    assert plain.kept == 82
    assert plain == foreprune.prune(Wrapped(), "grasp", density=0.5, temperature=1, **arguments)


def test_what_a_call_makes_once_is_the_same_in_every_round() -> None:
    made: list[object] = []

    def make(*args: object) -> list[object]:
        made.append(args)
        return [*args]

    task, other = (Task((), None, None, torch.Generator()) for _ in range(2))
    key = object()
    assert task.once(make, key) is task.once(make, key)
    assert task.once(make, object()) is not task.once(make, key)
    assert other.once(make, key) is not task.once(make, key)
    assert len(made) == 3


def test_a_task_holds_what_is_needed_and_nothing_else() -> None:
    net = Net.of(example("mlp").model)
    given: dict[str, Any] = {"inputs": torch.rand(2, 6), "data": (torch.rand(4, 6), torch.tensor([0, 1, 0, 1]))}

    def held(*needs: Any, optional: tuple[Any, ...] = (), **arguments: Any) -> tuple[int, int | None, bool]:
        found = task_for(net, frozenset(needs), asking="m", optional=frozenset(optional), **arguments)
        rows = None if found.example is None else found.example.tensors()[0].shape[0]
        return len(found.batches), rows, found.mean_image is not None

    assert held(**given) == (0, 2, False)
    assert held("shape", **given) == (0, 2, False)
    assert held("shape", data=given["data"]) == (1, 4, False)
    assert held("images", data=given["data"][0]) == held("labels", data=given["data"]) == (1, 4, False)
    assert held("shape", "mean image", data=given["data"]) == (1, 4, True)
    assert held("mean image", mean_image=torch.ones(6), data=iter(())) == (0, None, True)
    assert held(optional=tuple(NEEDS), **given) == (1, 2, False)
    assert held(optional=tuple(NEEDS)) == (0, None, False)
    assert held(optional=tuple(NEEDS), mean_image=torch.ones(6)) == (0, None, True)


def test_the_mean_image_is_that_of_all_samples() -> None:
    net = Net.of(example("mlp").model)
    x = torch.rand(7, 6)
    needs = frozenset({"mean image"})
    found = task_for(net, needs, asking="m", data=[x[:2], x[2:]])  # type: ignore[arg-type]
    torch.testing.assert_close(found.mean_image, x.double().mean(0))
    for batch in ((x, torch.arange(7)), [x, torch.arange(7)], (x, x)):
        one = task_for(net, needs, asking="m", data=batch)  # type: ignore[arg-type]
        assert len(one.batches) == 1
    own = task_for(net, needs, asking="m", data=x, mean_image=x[0])  # type: ignore[arg-type]
    assert own.mean_image is not None
    assert torch.equal(own.mean_image, x[0])


@pytest.mark.parametrize(
    ("needs", "given", "message"),
    [
        ({"images"}, {"inputs": X}, r"method 'm' needs data: pass data=x or an iterable of such batches \("),
        ({"labels"}, {"inputs": X}, r"method 'm' needs data: pass data=\(x, y\) or an iterable of such batches \("),
        ({"images"}, {"data": TensorDataset(X)}, r"not TensorDataset; e.g. data=x or a DataLoader"),
        (
            {"images"},
            {"data": [(X, Y, Y)]},
            r"each batch must be inputs, or \(input, target\), not tuple of 3",
        ),
        ({"labels"}, {"data": X}, r"data must be a batch \(input, target\)"),
        ({"shape"}, {}, r"method 'm' needs example inputs, .* inputs=torch.zeros"),
        ({"mean image"}, {"inputs": X}, r"method 'm' needs the mean image of the data: pass mean_image= .* or data="),
        ({"mean image"}, {"mean_image": -X}, r"the mean image has negative entries \(smallest -0.99\).*raw pixels"),
        ({"mean image"}, {"mean_image": [1.0]}, r"mean_image must be a tensor of finite numbers"),
        (set(), {"mean_image": X}, r"method 'm' takes no mean_image; leave it out, or use 'synflow-dist'"),
        (set(), {"loss": 3}, r"loss must be callable as loss\(output, target\), not int"),
    ],
)
def test_what_a_task_lacks(needs: set[Any], given: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        task_for(Net.of(example("mlp").model), frozenset(needs), asking="m", **given)
