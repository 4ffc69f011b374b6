"""Functions that torch differentiates once only: values and gradients are torch's, second derivatives right."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from contract.nets import example
from torch import Tensor, nn
from torch.autograd import gradgradcheck
from torch.nn import functional as F

import foreprune
from foreprune.methods.second_order import TwiceDifferentiable

Forward = Callable[[Tensor], Tensor]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CLASSES = torch.tensor([0, 1, 4, 3])
LABELS = torch.tensor([[0, 1, -1, 2, 0], [3, -1, 0, 0, 0], [-1, 1, 1, 1, 1], [4, 3, 2, 1, 0]])
WEIGHT = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5], dtype=torch.float64)


def ctc(logits: Tensor, targets: Any, lengths: tuple[Any, Any], **settings: Any) -> Tensor:
    return F.ctc_loss(logits.log_softmax(-1), targets, *lengths, **settings)


SYMBOLS = torch.tensor([[1, 2, 2], [3, 1, 0], [4, 4, 4]])
FUNCTIONS: dict[str, tuple[Forward, tuple[int, ...]]] = {
    "hardsigmoid": (F.hardsigmoid, (4, 5)),
    "hardsigmoid-in-place": (lambda x: nn.Hardsigmoid(inplace=True)(x * 2), (4, 5)),
    "multi-margin": (lambda x: F.multi_margin_loss(x, CLASSES), (4, 5)),
    "multi-margin-settings": (lambda x: F.multi_margin_loss(x, CLASSES, 2, 0.7, WEIGHT, reduction="none"), (4, 5)),
    "multi-margin-one": (lambda x: nn.MultiMarginLoss(reduction="sum")(x, CLASSES[2]), (5,)),
    "multilabel-margin": (lambda x: F.multilabel_margin_loss(x, LABELS), (4, 5)),
    "multilabel-margin-none": (lambda x: F.multilabel_margin_loss(x, LABELS, reduction="none"), (4, 5)),
    "multilabel-margin-one": (lambda x: nn.MultiLabelMarginLoss()(x, LABELS[0]), (5,)),
    "ctc": (lambda x: ctc(x, SYMBOLS, ((7, 7, 7), (3, 2, 3))), (7, 3, 5)),
    "ctc-lengths": (lambda x: ctc(x, SYMBOLS, (torch.tensor([7, 2, 6]), torch.tensor([3, 2, 1]))), (7, 3, 5)),
    "ctc-in-a-row": (
        lambda x: ctc(x, torch.tensor([1, 2, 2, 3, 1, 4]), ((7, 5, 7), (3, 2, 1)), reduction="sum"),
        (7, 3, 5),
    ),
    "ctc-blank": (lambda x: ctc(x, SYMBOLS[:1] + 1, ((6,), (3,)), blank=4, reduction="none"), (6, 1, 5)),
    "ctc-unbatched": (lambda x: ctc(x, SYMBOLS[0], (torch.tensor(6), torch.tensor(3))), (6, 5)),
    "ctc-empty": (lambda x: ctc(x, SYMBOLS[:2], ((4, 4), (2, 0))), (4, 2, 5)),
    "ctc-impossible": (lambda x: ctc(x, SYMBOLS, ((3, 2, 4), (3, 2, 3)), zero_infinity=True), (4, 3, 5)),
    "normalize": (lambda x: F.normalize(x, dim=-1), (4, 5)),
    "normalize-settings": (lambda x: F.normalize(x, 3.0, 0, 0.5), (4, 5)),
    "cosine": (lambda x: F.cosine_similarity(x, x.flip(0).sin(), dim=-1), (4, 5)),
    "norm": (lambda x: torch.stack([x.norm(), torch.norm(x, 3), torch.linalg.vector_norm(x)]), (4, 5)),
    "norm-axes": (lambda x: x.norm(2, (0, 2), True) * torch.linalg.norm(x, dim=1, keepdim=True), (2, 3, 4)),
    "norm-of-matrices": (lambda x: torch.linalg.norm(x, "nuc") + torch.linalg.norm(x, "fro") + x.norm(p=2), (3, 3)),
}


def inside(forward: Forward) -> Forward:
    def run(x: Tensor) -> Tensor:
        with TwiceDifferentiable():
            return forward(x)

    return run


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients_are_those_of_torch(name: str) -> None:
    forward, shape = FUNCTIONS[name]
    x = normal(*shape, seed=1) * 2
    found: list[tuple[Tensor, Tensor]] = []
    for function in (inside(forward), forward):
        leaf = x.clone().requires_grad_()
        value = function(leaf)
        (gradient,) = torch.autograd.grad((value * normal(*value.shape, seed=2)).sum(), leaf)
        found.append((value.detach(), gradient))
    for one, other in zip(*found, strict=True):
        assert one.shape == other.shape
        assert float(other.abs().max()) > 0
        # torch's own derivative of the hard sigmoid has 1/6 in single precision
        torch.testing.assert_close(one, other, rtol=1e-7 if "hardsigmoid" in name else 1e-11, atol=1e-13)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_derivatives_against_finite_differences(name: str) -> None:
    forward, shape = FUNCTIONS[name]
    x = (normal(*shape, seed=1) * 2).requires_grad_()
    assert gradgradcheck(lambda x: inside(forward)(x.sin() * 2).square(), (x,))


def test_an_impossible_alignment_is_infinite_as_in_torch() -> None:
    x = normal(3, 1, 5).log_softmax(-1).requires_grad_()
    lengths = ((3,), (3,))
    assert F.ctc_loss(x, SYMBOLS[2:], *lengths) == torch.inf
    assert inside(lambda x: F.ctc_loss(x, SYMBOLS[2:], *lengths))(x) == torch.inf


def test_a_deprecated_reduction() -> None:
    x = normal(4, 5)
    for given in ({"size_average": False}, {"reduce": False}, {"size_average": True}):
        with pytest.warns(UserWarning, match="size_average and reduce"):
            wanted = F.multi_margin_loss(x, CLASSES, **given)
        torch.testing.assert_close(inside(partial(F.multi_margin_loss, target=CLASSES, **given))(x), wanted)
    with pytest.raises(ValueError, match="half is not a valid value for reduction"):
        inside(partial(F.multi_margin_loss, target=CLASSES, reduction="half"))(x)


ZERO = {
    "normalize": lambda x: F.normalize(x, dim=-1),
    "cosine": lambda x: F.cosine_similarity(x, x.flip(0), dim=-1),
    "norm": lambda x: x / (x.norm(dim=-1, keepdim=True) + 1e-3),
    "linalg-norm": lambda x: x / (torch.linalg.norm(x, 2, -1, True) + 1e-3),
    "vector-norm": lambda x: x / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) + 1e-3),
}


@pytest.mark.parametrize("name", ZERO)
def test_a_row_of_zeros_counts_as_linear(name: str) -> None:
    """The other rows have the derivatives that they have without it, and it has its first one, with a constant norm."""
    x = normal(3, 4).requires_grad_()
    rows = torch.cat([x[:1], torch.zeros(1, 4, dtype=x.dtype) * x[:1], x[1:]])
    forward = inside(ZERO[name])
    (plain,) = torch.autograd.grad(ZERO[name](rows).sin().sum(), x, retain_graph=True)
    (gradient,) = torch.autograd.grad(forward(rows).sin().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), x)
    assert torch.isfinite(second).all()
    torch.testing.assert_close(gradient, plain)
    if name != "cosine":
        (gradient,) = torch.autograd.grad(forward(x).sin().sum(), x, create_graph=True)
        torch.testing.assert_close(second, torch.autograd.grad(gradient.square().sum(), x)[0])


def test_recurrent_layers_run_without_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    enabled: list[bool] = []

    class Noting(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.lstm:
                enabled.append(torch.backends.cudnn.enabled)
            return func(*args, **(kwargs or {}))

    with Noting(), TwiceDifferentiable():
        nn.LSTM(3, 2)(torch.zeros(4, 1, 3))
    assert enabled == [False]
    assert torch.backends.cudnn.enabled


class Gated(nn.Module):
    """A squeeze-and-excitation gate as MobileNetV3 has it, and a cosine classifier if asked for."""

    def __init__(self, *, normalized: bool = False) -> None:
        super().__init__()
        self.first, self.gate, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.normalized = normalized

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.first(x))
        x = x * F.hardsigmoid(self.gate(x))
        output: Tensor = self.last(F.normalize(x) if self.normalized else x)
        return output


def _differences(model: nn.Module, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    """w (H g), H g from gradients at w + step g and w - step g."""
    weights = {name: value for name, value in model.named_parameters() if value.dim() > 1}

    def gradient() -> list[Tensor]:
        return list(torch.autograd.grad(loss(), list(weights.values())))

    start, step = gradient(), 1e-4
    ends = []
    for sign in (1, -2):
        with torch.no_grad():
            for value, direction in zip(weights.values(), start, strict=True):
                value.add_(direction, alpha=sign * step)
        ends.append(gradient())
    with torch.no_grad():
        for value, direction in zip(weights.values(), start, strict=True):
            value.add_(direction, alpha=step)
    return {
        name: weights[name].detach() * (up - down) / (2 * step) for name, up, down in zip(weights, *ends, strict=True)
    }


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": F.cross_entropy,
    "multi-margin": F.multi_margin_loss,
    "ctc": lambda output, y: F.ctc_loss(
        output.view(4, -1, 3).log_softmax(-1), (y[:3, None] % 2) + 1, (4, 4, 4), (1, 1, 1)
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_grasp_against_finite_differences(name: str) -> None:
    torch.manual_seed(0)
    given, model = example("mlp"), Gated().double()
    found = foreprune.score(model, "grasp", data=(given.x, given.y), loss=LOSSES[name], temperature=1)
    wanted = _differences(model, lambda: LOSSES[name](model(given.x), given.y))
    for key, score in found.items():
        assert float(score.abs().max()) > 0
        torch.testing.assert_close(score, wanted[key], rtol=1e-5, atol=1e-6 * float(wanted[key].abs().max()))


def test_grasp_with_a_sample_that_dies_in_front_of_a_normalization() -> None:
    torch.manual_seed(0)
    given, model = example("mlp"), Gated(normalized=True).double()
    with torch.no_grad():
        model.first.bias.zero_()
    x = torch.cat([given.x, torch.zeros(1, 6, dtype=torch.float64)])
    y = torch.cat([given.y, given.y[:1]])
    found = foreprune.score(model, "grasp", data=(x, y), temperature=1)
    wanted = _differences(model, lambda: F.cross_entropy(model(x), y))
    for key, score in found.items():
        torch.testing.assert_close(score, wanted[key], rtol=1e-5, atol=1e-6 * float(wanted[key].abs().max()))


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad * ctx.saved_tensors[0].cos()


REFUSED: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "cdist": (
        lambda output, y: torch.cdist(output, output + 1).square().mean(),
        r"method 'grasp' needs second derivatives, and 'cdist', which the model or its loss uses, has none in torch; "
        r"compose it of other operations, or use 'snip'",
    ),
    "once": (
        lambda output, y: Once.apply(output).square().mean(),
        r"needs second derivatives, and a custom autograd function marked once_differentiable, which",
    ),
    "nan": (
        lambda output, y: F.cross_entropy(output, y) + (output - output.detach()).pow(1.5).mean(),
        r"the second derivative of the loss is not finite in '.*', though the gradient is: .*torch.sqrt\(x \+ 1e-12\)"
        r".*, or use 'snip'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_second_derivative_is_refused(name: str) -> None:
    given = example("mlp")
    loss, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        foreprune.score(given.model, "grasp", data=(given.x, given.y), loss=loss)
    assert foreprune.score(given.model, "snip", data=(given.x, given.y), loss=loss)


def test_a_gradient_that_is_not_finite_is_told_as_ever() -> None:
    given = example("mlp")
    with pytest.raises(ValueError, match=r"the scores of .* are NaN: look for NaN or infinite weights or inputs"):
        foreprune.prune(given.model, "grasp", density=0.5, data=(given.x * torch.nan, given.y))


def test_the_temperature_divides_logits_of_cross_entropy_only() -> None:
    given = example("mlp")
    data = (given.x, given.y)

    def scores(**settings: Any) -> Tensor:
        found = foreprune.score(given.model, "grasp", data=data, **settings)
        return torch.cat([value.flatten() for value in found.values()])

    paper = scores(temperature=200)
    for loss in (None, F.cross_entropy, nn.CrossEntropyLoss(), partial(F.cross_entropy, label_smoothing=0.0)):
        assert torch.equal(scores(loss=loss), paper)

    def squared(output: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(output, F.one_hot(y, 3).to(output.dtype))

    assert torch.equal(scores(loss=squared), scores(loss=squared, temperature=1))
    by_hand = scores(loss=lambda output, y: squared(output / 200, y))
    torch.testing.assert_close(scores(loss=squared, temperature=200), by_hand)
