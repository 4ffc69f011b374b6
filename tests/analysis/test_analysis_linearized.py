"""Closed-form training against gradient descent; fits of curves whose constants are known."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from contract.nets import example
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from foreprune.analysis.linearized import (
    fit_log_trace,
    fit_outputs,
    fit_weight_change,
    linearize,
    predicted_change,
)
from foreprune.analysis.statistics import LeastSquares
from foreprune.core.masks import Masks
from foreprune.core.net import Net

RATE = 0.02


def setting(name: str = "mlp", samples: int = 5) -> tuple[nn.Module, Tensor, Tensor, Masks]:
    given = example(name, samples=samples)
    generator = torch.Generator().manual_seed(5)
    weights = Net.of(given.model).weights
    masks = Masks({name: torch.rand(value.shape, generator=generator) < 0.7 for name, value in weights.items()})
    targets = torch.randn(samples, 3, generator=generator, dtype=torch.float64)
    return given.model.eval(), given.x, targets, masks


def descend(model: nn.Module, x: Tensor, y: Tensor, masks: Masks, time: float, steps: int) -> tuple[Tensor, Any]:
    """Gradient descent in tiny steps on the linearised model: outputs and weights' displacement."""
    start = masks({name: value.detach() for name, value in model.named_parameters()})
    with sdpa_kernel(SDPBackend.MATH):
        jacobian = jacrev(lambda params: functional_call(model, params, (x,)))(start)
        initial = functional_call(model, start, (x,)).flatten()
    rows = torch.cat(
        [(part * masks[name] if name in masks else part).reshape(y.numel(), -1) for name, part in jacobian.items()], 1
    )
    moved = torch.zeros(rows.shape[1], dtype=torch.float64)
    for _ in range(steps):
        moved -= RATE * time / steps * (rows.T @ (initial + rows @ moved - y.flatten()))
    parts = moved.split([value.numel() for value in start.values()])
    weights = {name: part.view(start[name].shape) for name, part in zip(start, parts, strict=True)}
    return (initial + rows @ moved).view_as(y), weights


@pytest.mark.parametrize("name", ["mlp", "conv", "attention"])
@pytest.mark.parametrize("time", [0.5, 3.0])
def test_the_closed_form_is_where_gradient_descent_on_the_linear_model_goes(name: str, time: float) -> None:
    model, x, y, masks = setting(name)
    found = linearize(model, masks, inputs=x, targets=y)
    outputs, weights = descend(model, x, y, masks, time, steps=20_000)
    torch.testing.assert_close(found.outputs(time, learning_rate=RATE), outputs, rtol=0, atol=2e-4)
    moved = found.weights(time, learning_rate=RATE)
    assert moved.keys() == weights.keys()
    for key, value in weights.items():
        torch.testing.assert_close(moved[key], value, rtol=0, atol=2e-4)
    norm = math.sqrt(sum(float(value.square().sum()) for value in moved.values()))
    assert norm > 0.01
    assert found.weight_change(time, learning_rate=RATE) == pytest.approx(norm, rel=1e-9)
    change = float((found.outputs(time, learning_rate=RATE) - found.initial).norm())
    assert found.output_change(time, learning_rate=RATE) == pytest.approx(change)


def test_the_real_network_follows_as_long_as_it_hardly_moves() -> None:
    model, x, y, masks = setting()
    found = linearize(model, masks, inputs=x, targets=y)
    trained = masks.apply_(copy.deepcopy(model))
    optimizer = torch.optim.SGD(trained.parameters(), lr=1e-5)
    masks.attach(trained, optimizer)
    start = {name: value.detach().clone() for name, value in trained.named_parameters()}
    for _ in range(20):
        optimizer.zero_grad()
        ((trained(x) - y).square().sum() / 2).backward()
        optimizer.step()
    expected = found.weights(20, learning_rate=1e-5)
    for name, value in trained.named_parameters():
        torch.testing.assert_close(value.detach() - start[name], expected[name], rtol=0.01, atol=1e-8)
    change = trained(x).detach() - found.initial
    torch.testing.assert_close(
        found.outputs(20, learning_rate=1e-5) - found.initial, change, rtol=0, atol=0.01 * float(change.abs().max())
    )


def test_limits_in_time() -> None:
    model, x, y, masks = setting()
    found = linearize(model, masks, inputs=x, targets=y)
    torch.testing.assert_close(found.outputs(0, learning_rate=RATE), found.initial)
    assert found.weight_change(0, learning_rate=RATE) == 0
    assert all(not value.any() for value in found.weights(0, learning_rate=RATE).values())
    losses = [found.loss(time, learning_rate=RATE) for time in (0, 1, 10, 100, 1e9)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] == pytest.approx(float((found.initial - y).square().sum()) / 2)
    assert losses[-1] < 1e-12


def test_a_singular_kernel_needs_no_inverse() -> None:
    model, x, y, masks = setting()
    x, y = torch.cat([x, x]), torch.cat([y, y + 1])  # equal inputs that want different outputs
    found = linearize(model, masks, inputs=x, targets=y)
    assert float(found.eigenvalues.min()) == 0
    outputs = found.outputs(1e9, learning_rate=RATE)
    torch.testing.assert_close(outputs[:5], y[:5] + 0.5, rtol=0, atol=1e-6)  # the mean of both wishes
    assert math.isfinite(found.weight_change(1e9, learning_rate=RATE))


def test_classes_stand_for_one_hot_vectors_and_prunable_weights_for_all() -> None:
    model, x, _, masks = setting()
    classes = torch.tensor([0, 2, 1, 1, 0])
    found = linearize(model, masks, inputs=x, targets=classes, parameters="prunable")
    assert torch.equal(found.targets, torch.eye(3, dtype=torch.float64)[classes])
    assert set(found.weights(1, learning_rate=RATE)) == set(masks)


def test_bad_targets_and_times() -> None:
    model, x, y, masks = setting()
    with pytest.raises(ValueError, match=r"outputs' shape \(5, 3\), or 5 classes; got shape \(4, 3\)"):
        linearize(model, masks, inputs=x, targets=y[:4])
    with pytest.raises(ValueError, match="classes must be from 0 to 2"):
        linearize(model, masks, inputs=x, targets=torch.tensor([0, 1, 2, 3, 0]))
    with pytest.raises(TypeError, match="targets must be a tensor, not list"):
        linearize(model, masks, inputs=x, targets=[1])  # type: ignore[arg-type]
    found = linearize(model, masks, inputs=x, targets=y)
    for time, rate in ((-1, 0.1), (1, 0), (math.nan, 0.1)):
        with pytest.raises(ValueError, match="time must be at least 0"):
            found.outputs(time, learning_rate=rate)
    training = example("conv").model
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        linearize(training, inputs=example("conv").x, targets=torch.zeros(12, dtype=torch.long))


def test_the_share_of_the_way_that_the_trace_predicts() -> None:
    found = predicted_change([0.0, 2.0, -3.0, 400.0], learning_rate=0.01, time=50)
    wanted = [1 - math.exp(-0.5), 1 - math.exp(-50), 5e-4, 1.0]
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_fits_find_the_constants_they_were_made_with() -> None:
    traces = np.linspace(-2, 3, 12)
    share = -np.expm1(-0.001 * 60 * 10**traces)
    weights = fit_weight_change(list(traces), list(7 * share), learning_rate=0.001, time=60)
    assert weights == LeastSquares(pytest.approx((7,)), pytest.approx(1), 12)
    outputs = fit_outputs(list(traces), list(5 * share + 2 * (1 - share)), learning_rate=0.001, time=60)
    assert outputs == LeastSquares(pytest.approx((5, 2)), pytest.approx(1), 12)
    line = fit_log_trace(list(traces), list(3 * traces * math.log(10) - 4))
    assert line == LeastSquares(pytest.approx((3, -4)), pytest.approx(1), 12)


def test_the_coefficient_of_determination() -> None:
    fit = fit_log_trace([0, 1, 2, 3], [0, 1, 1, 2])
    x, y = np.arange(4.0), np.array([0, 1, 1, 2.0])
    assert fit.r2 == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2)
    assert fit_log_trace([0, 1, 2], [4, 4, 4]).r2 == pytest.approx(1)
    # without a constant a curve can be worse than the mean
    assert fit_weight_change([3, -3], [0.0, 1.0], learning_rate=1, time=1).r2 < 0


@pytest.mark.parametrize(
    ("traces", "values", "match"),
    [
        ([1.0, 2.0], [1.0], "got 2 traces and 1 values"),
        ([1.0], [1.0], "of at least two networks"),
        ([1.0, -math.inf], [1.0, 2.0], "must be finite; leave out networks without a path"),
        ([1.0, 2.0], [1.0, math.nan], "must be finite"),
    ],
)
def test_points_that_cannot_be_fitted(traces: list[float], values: list[float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        fit_log_trace(traces, values)
