"""`evaluate` against a slow loop, one sample at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from foreprune.training.evaluate import evaluate

INPUTS = torch.randn(53, 5, generator=torch.Generator().manual_seed(0))


def network(classes: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, classes))


@pytest.mark.parametrize("classes", [2, 5, 6, 20])
def test_against_one_sample_at_a_time(classes: int) -> None:
    labels = torch.randint(0, classes, (53,), generator=torch.Generator().manual_seed(1))
    model = network(classes)
    result = evaluate(model, list(zip(INPUTS.split(20), labels.split(20), strict=True)))
    model.eval()
    total, first, five = 0.0, 0, 0
    for x, y in zip(INPUTS, labels.tolist(), strict=True):
        logits = model(x[None])[0].tolist()
        total += math.log(sum(math.exp(value) for value in logits)) - logits[y]
        ranked = sorted(range(classes), key=logits.__getitem__, reverse=True)
        first += ranked[0] == y
        five += y in ranked[:5]
    assert result.loss == pytest.approx(total / 53, rel=1e-5)
    assert result.top1 == first / 53
    assert result.top5 == (five / 53 if classes > 5 else None)
    assert tuple(result) == (result.loss, result.top1, result.top5)


def test_modes_gradients_and_random_state_are_left_alone() -> None:
    model = network(6)
    model[1].eval()
    labels = torch.zeros(53, dtype=torch.int64)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(INPUTS, labels), batch_size=8, shuffle=True)
    state, before = torch.get_rng_state(), {key: value.clone() for key, value in model.state_dict().items()}
    evaluate(model, loader)
    assert torch.equal(state, torch.get_rng_state())
    assert [module.training for module in model] == [True, False, True, True, True]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_mode_comes_back_after_an_error() -> None:
    model = network(6)
    with pytest.raises(TypeError, match="each batch must be a pair"):
        evaluate(model, [(INPUTS,)])
    assert model.training


def test_one_answer_for_each_pixel() -> None:
    model = nn.Conv2d(3, 8, 1)
    images = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 8, (4, 5, 5), generator=torch.Generator().manual_seed(1))
    result = evaluate(model, [(images, labels)])
    assert result.top1 == int((model(images).argmax(1) == labels).sum()) / 100
    assert result.loss == pytest.approx(float(nn.functional.cross_entropy(model(images), labels).detach()), rel=1e-6)
    assert result.top5 is not None


def test_accuracy_needs_class_labels() -> None:
    targets = torch.rand(53, 7)
    assert evaluate(network(7), [(INPUTS, targets)])[1:] == (None, None)  # soft labels
    counts = torch.zeros(53, dtype=torch.int64)
    result = evaluate(network(1), [(INPUTS, counts)], loss=lambda out, y: (out[:, 0] - y).square().mean())
    assert result[1:] == (None, None)


def test_a_bfloat16_loss_is_summed_exactly_enough() -> None:
    batches = [(INPUTS[:1], torch.zeros(1, 1))] * 600

    def one(_output: Tensor, _target: Tensor) -> Tensor:
        return torch.ones((), dtype=torch.bfloat16)  # adding ones in bfloat16 stops at 256

    assert evaluate(network(2), batches, loss=one).loss == 1.0


class Two(nn.Module):
    """A network of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network(6)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        out: Tensor = self.inner(a + b)
        return out


def test_one_batch_a_loader_and_every_kind_of_input() -> None:
    labels = torch.arange(53) % 6
    model, two = network(6), Two()
    expected = evaluate(model, [(INPUTS, labels)])
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(INPUTS, labels), batch_size=53)
    assert evaluate(model, (INPUTS, labels)) == evaluate(model, [INPUTS, labels]) == evaluate(model, loader) == expected
    halves = (INPUTS / 2, INPUTS / 2)
    named = {"a": INPUTS / 2, "b": INPUTS / 2}
    for data in ((halves, labels), [(halves, labels)], (named, labels), named | {"labels": labels}):
        assert evaluate(two, data) == expected
    with pytest.raises(TypeError, match=r"data must be a batch \(input, target\), .*, not Tensor; e.g. a DataLoader"):
        evaluate(model, INPUTS)


def test_nothing_to_evaluate_on() -> None:
    with pytest.raises(ValueError, match="data holds no samples to evaluate on"):
        evaluate(network(2), [])
    with pytest.raises(TypeError, match="data is an iterator, which is used up after one pass"):
        evaluate(network(2), iter([]))
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, not int"):
        evaluate(3, [])  # type: ignore[arg-type]
