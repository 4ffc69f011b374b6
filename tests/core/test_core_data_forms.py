"""Batches in every form, read with the forward of the model in view."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import pytest
import torch
from contract.nets import CLASSES, example
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import foreprune
from foreprune.core.data_forms import as_inputs, materialize

A, B, Y = torch.rand(4, 3), torch.rand(4, 2), torch.tensor([0, 1, 0, 1])
CPU = torch.device("cpu")


class Two(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a, b], 1)


class Optional(nn.Module):
    def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        return a


class Labeled(nn.Module):
    """As models of transformers: a loss of its own where labels are given."""

    def forward(self, a: Tensor, labels: Tensor | None = None) -> Tensor:
        return a


class Margin(nn.Module):
    """Cannot do without its labels."""

    def forward(self, a: Tensor, labels: Tensor) -> Tensor:
        return a


class Answers(nn.Module):
    def forward(self, a: Tensor, start_positions: Any = None, end_positions: Any = None) -> Tensor:
        return a


def read(module: nn.Module | None, data: Any, *, labeled: bool) -> list[Any]:
    """For each batch its arguments, whether it has a target, and the names of labels that the forward gets."""
    batches = materialize(data, CPU, labeled=labeled, module=module)
    return [
        (
            len(batch.inputs.args) or sorted(batch.inputs.kwargs or {}),
            batch.target is not None,
            *([] if batch.with_labels is None else [sorted(batch.with_labels.kwargs or {})]),
        )
        for batch in batches
    ]


ONE = nn.Identity()
FORMS: dict[str, tuple[nn.Module | None, Any, bool, list[Any]]] = {
    # several inputs, then the target
    "a-b-y": (Two(), (A, B, Y), True, [(2, True)]),
    "a-b-y-list": (Two(), [A, B, Y], True, [(2, True)]),
    "a-b-y-loader": (Two(), DataLoader(TensorDataset(A, B, Y), 2), True, [(2, True)] * 2),
    "a-b-y-unread": (Two(), (A, B, Y), False, [(2, True)]),
    "a-b": (Two(), (A, B), False, [(2, False)]),
    "a-b-loader": (Two(), DataLoader(TensorDataset(A, B), 2), False, [(2, False)] * 2),
    "a-b-nested": (Two(), [((A, B), None)], False, [(2, False)]),
    "a-b-unknown": (None, [(A, B, Y)], True, [(2, True)]),
    "pair-or-target": (Optional(), (A, Y), False, [(1, True)]),
    "optional-and-y": (Optional(), (A, B, Y), True, [(2, True)]),
    "a-none": (ONE, (A, None), False, [(1, False)]),
    "a-mapping": (ONE, (A, {"boxes": Y}), True, [(1, True)]),
    "three-of-inputs": (ONE, (A, A, A), False, [(1, False)] * 3),
    "two-of-inputs": (ONE, [A, A], False, [(1, False)] * 2),
    "loader-of-inputs": (ONE, DataLoader(TensorDataset(A), 2), False, [(1, False)] * 2),
    # mappings
    **{
        f"key-{key}": (Optional(), {"a": A, key: Y}, True, [(["a"], True)])
        for key in ("labels", "label", "target", "targets", "y")
    },
    "key-unread": (Optional(), [{"a": A, "label": Y}], False, [(["a"], True)]),
    "key-missing": (Optional(), {"a": A}, False, [(["a"], False)]),
    "key-of-forward": (Labeled(), {"a": A, "labels": Y}, True, [(["a"], True, ["a", "labels"])]),
    "key-renamed": (Labeled(), {"a": A, "label": Y}, True, [(["a"], True, ["a", "labels"])]),
    "key-needed": (Margin(), {"a": A, "labels": Y}, True, [(["a", "labels"], True, ["a", "labels"])]),
    "positions": (
        Answers(),
        {"a": A, "start_positions": Y, "end_positions": Y},
        True,
        [(["a"], True, ["a", "end_positions", "start_positions"])],
    ),
    "positions-unread": (
        Answers(),
        {"a": A, "start_positions": Y, "end_positions": Y},
        False,
        [(["a"], True, ["a", "end_positions", "start_positions"])],
    ),
    "tokenizer": (Labeled(), UserDict(a=A, labels=Y), True, [(["a"], True, ["a", "labels"])]),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str) -> None:
    module, data, labeled, wanted = FORMS[name]
    assert read(module, data, labeled=labeled) == wanted


class Samples(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(A[0], 1), (A[1], 0)])


@pytest.mark.parametrize(
    ("module", "data", "labeled", "message"),
    [
        (
            ONE,
            TensorDataset(A, Y),
            True,
            r"it is a data set of single samples, .* DataLoader\(dataset, batch_size=64\)",
        ),
        (ONE, Samples(), True, r"the target of a batch is 1, one value: data yields single samples; .*DataLoader"),
        (ONE, [(A, A, Y)], True, r"not tuple of 3; .* as many tensors as the model's forward takes"),
        (
            Two(),
            [(A, Y)],
            True,
            r"a batch of data does not fit the model, whose forward takes a, b and would get 1 in order \(missing a "
            r"required argument: 'b'\); give what it takes, in order as a tuple or by name as a mapping",
        ),
        (Two(), {"a": A, "c": B, "y": Y}, True, r"takes a, b and would get a, c \(missing a required argument: 'b'\)"),
        (Two(), {"a": A, "b": B, "id": B, "y": Y}, True, r"got an unexpected keyword argument 'id'"),
        (Two(), {"a": A, "b": B}, True, r"a batch that is a mapping needs 'labels' .*; it has a, b"),
    ],
)
def test_what_does_not_fit(module: nn.Module, data: Any, labeled: bool, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        materialize(data, CPU, labeled=labeled, module=module)


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(TypeError, match=r"inputs= does not fit the model, whose forward takes a, b and would get 1"):
        as_inputs(A, module=Two())
    hooked = Two()
    hooked.register_forward_pre_hook(lambda module, args: (*args, B))
    assert len(as_inputs(A, module=hooked).args) == 1
    labeled = Labeled()
    labeled.register_forward_pre_hook(lambda module, args: None)
    assert read(labeled, {"a": A, "labels": Y}, labeled=True) == [(["a"], True, ["a", "labels"])]


class Pair(nn.Module):
    """Two inputs, and attention to a third if there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 8), nn.Linear(4, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        output: Tensor = self.head(F.relu(self.left(left) + self.right(right)))
        return output


@pytest.mark.parametrize("method", foreprune.list_methods(), ids=lambda method: method.name)
def test_every_method_reads_several_inputs_in_every_form(method: Any) -> None:
    if "mean image" in method.needs:
        pytest.skip("the mean image is of one input")
    torch.manual_seed(0)
    model = Pair().double()
    left, right, y = torch.rand(9, 6).double(), torch.rand(9, 4).double(), torch.arange(9) % CLASSES
    few = {"rounds": 2} if "rounds" in method.settings else {}
    forms: list[Any] = [
        (left, right, y),
        [left, right, y],
        DataLoader(TensorDataset(left, right, y), 9),
        {"left": left, "right": right, "label": y},
    ]
    if "labels" not in method.needs:
        forms += [(left, right), DataLoader(TensorDataset(left, right), 9), {"left": left, "right": right}]
    wanted = foreprune.prune(model, method, density=0.4, data=((left, right), y), **few)
    assert all(foreprune.prune(model, method, density=0.4, data=data, **few) == wanted for data in forms)


@pytest.mark.parametrize("method", foreprune.list_methods(), ids=lambda method: method.name)
def test_what_is_missing_is_asked_for_once(method: Any) -> None:
    """No two messages send a user back and forth: what a message asks for is taken."""
    given = example("mlp")
    few = {"rounds": 2} if "rounds" in method.settings else {}
    unlabeled: list[dict[str, Any]] = [
        {"data": given.x},
        {"data": [given.x[:6], given.x[6:]]},
        {"data": DataLoader(TensorDataset(given.x), 6)},
        {"data": (given.x, None)},
        {"data": {"input": given.x}},
    ]
    labeled: list[dict[str, Any]] = [{"data": (given.x, given.y)}, {"data": {"input": given.x, "y": given.y}}]
    only_shape: list[dict[str, Any]] = [{"inputs": given.x}]
    needs = method.needs
    works = [*labeled, *([] if "labels" in needs else unlabeled)]
    works += only_shape if not needs & {"images", "labels", "mean image"} else []
    for form in works:
        assert foreprune.prune(given.model, method, density=0.4, **form, **few).total == 164
    fails = [*(unlabeled if "labels" in needs else []), *([] if only_shape[0] in works else only_shape), {}]
    asked = (
        r"data=\(x, y\)|needs 'labels'|must be a pair \(input, target\)|default loss is cross-entropy"
        if "labels" in needs
        else r"pass data=x|or data=$"
        if needs & {"images", "mean image"}
        else "pass inputs=x"
    )
    for form in fails if needs else []:
        with pytest.raises((TypeError, ValueError), match=asked):
            foreprune.prune(given.model, method, density=0.4, **form, **few)


class Decoder(nn.Module):
    """As encoder-decoders of transformers: what the decoder sees is the labels, moved by one."""

    def __init__(self) -> None:
        super().__init__()
        self.config = type("Config", (), {"is_encoder_decoder": True, "decoder_start_token_id": 9, "pad_token_id": 8})

    def forward(self, a: Tensor, decoder_input_ids: Any = None, labels: Any = None) -> Tensor:
        return a


def test_decoders_see_the_labels_moved_by_one() -> None:
    labels = torch.tensor([[1, 2, 3], [4, -100, -100]])
    for labeled in (False, True):
        (batch,) = materialize({"a": A[:2], "labels": labels}, CPU, labeled=labeled, module=Decoder())
        assert batch.inputs.kwargs is not None
        assert batch.inputs.kwargs["decoder_input_ids"].tolist() == [[9, 1, 2], [9, 4, 8]]
        assert "labels" not in batch.inputs.kwargs
    given = {"a": A[:2], "labels": labels, "decoder_input_ids": labels}
    (batch,) = materialize(given, CPU, module=Decoder())
    assert batch.inputs.kwargs is not None
    assert torch.equal(batch.inputs.kwargs["decoder_input_ids"], labels)


def test_targets_that_the_forward_takes_if_it_is_given_them() -> None:
    class Small(nn.Module):
        def forward(self, idx: Tensor, targets: Any = None) -> Tensor:
            return idx

    class Needed(nn.Module):
        def forward(self, idx: Tensor, targets: Tensor) -> Tensor:
            return idx

    assert read(Small(), {"idx": A, "targets": Y}, labeled=True) == [(["idx"], True, ["idx", "targets"])]
    assert read(Needed(), {"idx": A, "targets": Y, "y": Y}, labeled=True) == [(["idx", "targets"], True)]
