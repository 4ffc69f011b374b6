"""The default loss: cross-entropy over the right axis, the model's own, or one sentence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract.nets import CLASSES, example
from torch import Tensor, nn
from torch.nn import functional as F

import foreprune
from foreprune.core.losses import cross_entropy, own_loss


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def classes(*shape: int, of: int) -> Tensor:
    return torch.randint(of, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.uint8])
def test_classes_of_any_whole_type(kind: torch.dtype) -> None:
    logits, target = normal(5, 3), classes(5, of=3)
    assert torch.equal(cross_entropy(logits, target.to(kind)), F.cross_entropy(logits, target))
    assert torch.equal(cross_entropy(logits, target, temperature=2.0), F.cross_entropy(logits / 2, target))


def test_positions_on_either_side_of_the_classes() -> None:
    """One by one, without the positions that are marked -100."""
    for shape in ((2, 6), (2, 4, 6), (3, 2, 2)):
        target = classes(*shape, of=5)
        target.view(-1)[::4] = -100
        logits = normal(*shape, 5)
        each = [F.cross_entropy(o[None], t[None]) for o, t in zip(logits.view(-1, 5), target.view(-1), strict=True)]
        wanted = torch.stack([value for value, t in zip(each, target.view(-1), strict=True) if t >= 0]).mean()
        torch.testing.assert_close(cross_entropy(logits, target), wanted)
        torch.testing.assert_close(cross_entropy(logits.movedim(-1, 1), target), wanted)


def test_probabilities() -> None:
    logits, target = normal(5, 3), normal(5, 3).softmax(1)
    assert torch.equal(cross_entropy(logits, target), F.cross_entropy(logits, target))


@pytest.mark.parametrize(
    ("logits", "target", "error", "message"),
    [
        (
            normal(4, 1),
            normal(4, 1),
            ValueError,
            r"is \(4, 1\) and the target \(4, 1\), torch.float64; pass loss=.*mse_",
        ),
        (normal(4), normal(4), ValueError, r"cross-entropy of classes or probabilities: .*mse_loss for regression"),
        (normal(4, 3), torch.ones(4, 3), ValueError, r"binary_cross_entropy_with_logits for several labels"),
        (normal(4, 3), classes(4, 3, of=2), ValueError, r"target has the shape of the output without the axis of cl"),
        (normal(4, 3), classes(4, 3, of=2).bool(), ValueError, r"torch.bool; reshape the target, or pass loss="),
        (normal(4, 3), classes(4, 1, of=2), ValueError, r"\(4, 3\) and the target \(4, 1\), torch.int64; reshape"),
        (normal(4, 3), classes(5, of=3), ValueError, r"the output is \(4, 3\) and the target \(5,\)"),
        (normal(4, 3), classes(4, of=3) + 1, ValueError, r"a target is 3, and the output has 3 classes, 0 to 2"),
        (normal(4, 3), classes(4, of=3) - 1, ValueError, r"a target is -1, and .* write -100 for none"),
        (normal(2, 5, 3), torch.full((2, 5), -100), ValueError, "every target of a batch is -100, which means none"),
        (normal(2, 5, 5), classes(2, 5, of=5), ValueError, r"classes on axis 1 .* or on the last .* nobody can tell"),
        (normal(4, 3), {"boxes": normal(4)}, TypeError, "cross-entropy of a tensor of classes, not dict; pass loss="),
    ],
)
def test_targets_that_are_none(logits: Tensor, target: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        cross_entropy(logits, target)


def test_the_loss_in_an_output() -> None:
    loss = normal(1)[0]

    class Output:
        def __init__(self, loss: Any) -> None:
            self.loss = loss

    for output in (
        {"loss": loss, "logits": normal(2, 3)},
        Output(loss),
        (loss, normal(2, 3)),
        (normal(2, 3), loss),
        loss,
    ):
        assert own_loss(output) is loss
    for other in ({"logits": loss}, Output(None), (normal(2, 3),), normal(2, 3), normal(1), torch.tensor(3), [], None):
        assert own_loss(other) is None


class Language(nn.Module):
    """Predicts the next token, and shifts the labels itself where it gets any."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden, self.head = nn.Embedding(7, 5), nn.Linear(5, 6), nn.Linear(6, 7)
        self.answers = True

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.head(F.relu(self.hidden(self.embed(input_ids))))
        if labels is None or not self.answers:
            return {"logits": logits}
        return {"loss": F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()), "logits": logits}


@pytest.mark.parametrize("method", ["snip", "grasp", "force", "iterative-snip"])
def test_a_model_that_computes_its_own_loss(method: str) -> None:
    torch.manual_seed(0)
    model, ids = Language().double(), classes(3, 8, of=7)

    def shifted(output: dict[str, Tensor], labels: Tensor) -> Tensor:
        return F.cross_entropy(output["logits"][:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    wanted = foreprune.score(model, method, data=({"input_ids": ids}, ids), loss=shifted)
    for key in ("labels", "label"):
        found = foreprune.score(model, method, data={"input_ids": ids, key: ids})
        for name, score in wanted.items():
            torch.testing.assert_close(found[name], score, rtol=1e-10, atol=1e-14)
    model.answers = False  # labels that it takes and makes nothing of
    found = foreprune.score(model, method, data={"input_ids": ids, "labels": ids})
    tokens = foreprune.score(
        model, method, data=(ids, ids), loss=lambda o, y: F.cross_entropy(o["logits"].flatten(0, 1), y.flatten())
    )
    for name, score in tokens.items():
        torch.testing.assert_close(found[name], score, rtol=1e-10, atol=1e-14)


def test_a_temperature_has_no_logits_where_the_model_computes_its_loss() -> None:
    model, ids = Language(), classes(3, 8, of=7)
    with pytest.raises(ValueError, match=r"a temperature of 50 needs logits, and this model computes its loss itself"):
        foreprune.score(model, "grasp", data={"input_ids": ids, "labels": ids}, temperature=50)


@pytest.mark.parametrize("method", ["snip", "grasp"])
@pytest.mark.parametrize("name", ["regression", "labels", "segmentation", "tokens"])
def test_targets_of_every_kind(method: str, name: str) -> None:
    """With the loss that belongs to them, or with none where it is a cross-entropy."""
    torch.manual_seed(0)
    given = example("mlp")
    if name in ("regression", "labels"):
        target, loss = {
            "regression": (torch.rand(12, CLASSES).double(), F.mse_loss),
            "labels": ((torch.rand(12, CLASSES) > 0.5).double(), F.binary_cross_entropy_with_logits),
        }[name]
        with pytest.raises(ValueError, match="pass loss="):
            foreprune.score(given.model, method, data=(given.x, target))
        found = foreprune.score(given.model, method, data=(given.x, target), loss=loss)
        assert all(bool(score.any()) for score in found.values())
        return
    model: nn.Module = nn.Conv2d(2, 4, 3, padding=1) if name == "segmentation" else nn.Linear(6, 4)
    x = normal(3, 2, 5, 6) if name == "segmentation" else normal(3, 5, 6)
    target = classes(*((3, 5, 6) if name == "segmentation" else (3, 5)), of=4)
    target[0] = -100
    axis = 1 if name == "segmentation" else -1
    plain = foreprune.score(
        model.double(), method, data=(x, target), **({"temperature": 1} if method == "grasp" else {})
    )
    own = foreprune.score(
        model, method, data=(x, target), loss=lambda o, y: F.cross_entropy(o.movedim(axis, 1), y).clone()
    )
    for key, score in plain.items():
        torch.testing.assert_close(own[key], score)
