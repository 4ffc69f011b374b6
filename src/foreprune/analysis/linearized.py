"""Training of the linearised network in closed form, and what the path kernel's trace predicts of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foreprune.analysis.eigen import whole_spectrum
from foreprune.analysis.pruned import undisturbed
from foreprune.analysis.tangent import Parameters, Tangent, check_evaluation
from foreprune.analysis.tangent_kernel import kernel
from foreprune.core.masks import Masks


@dataclass(frozen=True, eq=False)
class Linearized:
    """Gradient flow on squared error of a network that is linear in its weights. Build it with `linearize`.

    The loss is L = 1/2 sum over samples and outputs of (f - y)^2, as in Gebhart et al. 2021, eq. 5-8: for a mean over
    M numbers divide the learning rate by M (and multiply it by 2 for torch's `mse_loss`). With small steps, gradient
    descent with learning rate eta is at time t = eta * number of steps, so pass eta and the number of steps as `time`.

    Attributes:
        eigenvalues: of the tangent kernel, descending, (N K,), float64.
        eigenvectors: as columns, (N K, N K).
        initial: f(X) before training, (N, K).
        targets: Y, (N, K).
        tangent: the Jacobian behind the kernel.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor
    initial: Tensor
    targets: Tensor
    tangent: Tangent

    def outputs(self, time: float, *, learning_rate: float) -> Tensor:
        """f_t(X) = (I - e^(-eta Theta t)) Y + e^(-eta Theta t) f_0(X), (N, K); eq. 8."""
        decay = torch.exp(-self.eigenvalues * _rate(time, learning_rate))
        return self.targets + self._apply(decay).view(self.targets.shape)

    def loss(self, time: float, *, learning_rate: float) -> float:
        """1/2 sum (f_t - y)^2."""
        return float((self.outputs(time, learning_rate=learning_rate) - self.targets).square().sum()) / 2

    def output_change(self, time: float, *, learning_rate: float) -> float:
        """|f_t(X) - f_0(X)|."""
        return float((self.outputs(time, learning_rate=learning_rate) - self.initial).norm())

    def weights(self, time: float, *, learning_rate: float) -> dict[str, Tensor]:
        """omega_t = -J^T Theta^-1 (I - e^(-eta Theta t)) (f_0(X) - Y), how far each weight has moved; eq. 7.

        A singular kernel needs no inverse: where an eigenvalue is zero nothing moves.
        """
        with undisturbed():
            pulled = self.tangent.pull(-self._apply(self._reached(time, learning_rate)).view(self.targets.shape), 64)
        return {name: value.detach() for name, value in pulled.items()}

    def weight_change(self, time: float, *, learning_rate: float) -> float:
        """|omega_t|, from the kernel alone."""
        along = self.eigenvectors.T @ (self.initial - self.targets).flatten()
        moved = self._reached(time, learning_rate) * along
        return math.sqrt(float((self.eigenvalues * moved.square()).sum()))

    def _reached(self, time: float, learning_rate: float) -> Tensor:
        """(1 - e^(-lambda s)) / lambda, which is s where lambda is zero."""
        rate = _rate(time, learning_rate)
        safe = torch.where(self.eigenvalues > 0, self.eigenvalues, 1.0)
        return torch.where(self.eigenvalues > 0, -torch.expm1(-safe * rate) / safe, rate)

    def _apply(self, spectrum: Tensor) -> Tensor:
        """The function of the kernel with these eigenvalues, times f_0 - Y."""
        residual = (self.initial - self.targets).flatten()
        return self.eigenvectors @ (spectrum * (self.eigenvectors.T @ residual))


def linearize(
    model: nn.Module,
    inputs: Any,
    targets: Tensor,
    masks: Masks | None = None,
    *,
    parameters: Parameters = "trainable",
    chunk: int | None = None,
) -> Linearized:
    """Closed-form training of the pruned network, linearised at its present weights, on squared error.

    Args:
        model: the network; with batch normalization in evaluation mode, as in `foreprune.ntk`.
        inputs: N samples, batch axis first.
        targets: (N, K) numbers, or (N,) classes, which stand for one-hot vectors.
        masks: what is kept; None: everything.
        parameters: what training moves, as in `foreprune.ntk`.
        chunk: rows of the Jacobian at a time, as in `foreprune.ntk`. The kernel, (N K, N K), is formed whole.

    Raises:
        ValueError: targets that do not fit the outputs; and as `foreprune.ntk`.
    """
    check_evaluation(model)
    with undisturbed():
        tangent = Tangent.of(model, masks, inputs, parameters=parameters)
        matrix = kernel(tangent, "full", chunk=chunk)
        assert isinstance(matrix, Tensor)
        spectrum = whole_spectrum(matrix)
        initial = tangent.values.double().cpu()
    return Linearized(spectrum.eigenvalues, spectrum.eigenvectors, initial, _targets(targets, initial), tangent)


def _targets(targets: Tensor, outputs: Tensor) -> Tensor:
    if not isinstance(targets, Tensor):
        raise TypeError(f"targets must be a tensor, not {type(targets).__name__}")
    samples, classes = outputs.shape
    targets = targets.detach().cpu()
    if not targets.is_floating_point() and targets.shape == (samples,):
        if samples and not 0 <= int(targets.min()) <= int(targets.max()) < classes:
            raise ValueError(f"classes must be from 0 to {classes - 1}, one for each output; got {targets.tolist()}")
        return torch.nn.functional.one_hot(targets.long(), classes).double()
    if targets.numel() != outputs.numel() or targets.shape[:1] != (samples,):
        raise ValueError(
            f"targets must be numbers of the outputs' shape {tuple(outputs.shape)}, or {samples} classes; got shape "
            f"{tuple(targets.shape)}"
        )
    return targets.double().reshape(outputs.shape)


def _rate(time: float, learning_rate: float) -> float:
    if not (time >= 0 and learning_rate > 0):
        raise ValueError(
            f"time must be at least 0 (steps) and learning_rate above 0; got time={time!r}, "
            f"learning_rate={learning_rate!r}"
        )
    return time * learning_rate


@dataclass(frozen=True)
class Fit:
    """A fitted curve.

    Attributes:
        a: the factor in front.
        b: the constant or second factor, 0 if the curve has none.
        r2: coefficient of determination, 1 - residual / total sum of squares (about the mean; may be negative for a
            curve without a constant).
    """

    a: float
    b: float
    r2: float


def predicted_change(
    log10_traces: Sequence[float], *, learning_rate: float, time: float
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """1 - exp(-eta Tr t) for each log10 of a path kernel's trace: the share of the way that training has gone."""
    rate = _rate(time, learning_rate)
    with np.errstate(over="ignore"):
        return -np.expm1(-rate * np.power(10.0, np.asarray(log10_traces, dtype=np.float64)))


def fit_weight_change(
    log10_traces: Sequence[float], changes: Sequence[float], *, learning_rate: float, time: float
) -> Fit:
    """Fit |omega_t| = a (1 - exp(-eta Tr t)) over networks, by least squares in a (Gebhart et al. 2021, figure 1).

    Args:
        log10_traces: log10 of the path kernel's trace of each network.
        changes: distance of its weights from their initial values at `time`.
        learning_rate: eta.
        time: number of steps.

    Raises:
        ValueError: lists of different length, fewer than two networks, or numbers that are not finite.
    """
    traces, values = _points(log10_traces, changes)
    share = predicted_change(list(traces), learning_rate=learning_rate, time=time)
    return _least_squares(np.stack([share, np.zeros_like(share)], 1), values)


def fit_outputs(log10_traces: Sequence[float], outputs: Sequence[float], *, learning_rate: float, time: float) -> Fit:
    """Fit |f_t(X)| = a (1 - exp(-eta Tr t)) + b exp(-eta Tr t), by least squares in a and b (figure 1).

    Arguments and errors as in `fit_weight_change`, with the norm of the outputs on the data in place of the change.
    """
    traces, values = _points(log10_traces, outputs)
    share = predicted_change(list(traces), learning_rate=learning_rate, time=time)
    return _least_squares(np.stack([share, 1 - share], 1), values)


def fit_log_trace(log10_traces: Sequence[float], values: Sequence[float]) -> Fit:
    """Fit value = a ln(Tr) + b over networks (figure 2), for changes of weights or norms of outputs.

    Errors as in `fit_weight_change`.
    """
    traces, found = _points(log10_traces, values)
    return _least_squares(np.stack([traces * math.log(10), np.ones_like(traces)], 1), found)


def _points(
    log10_traces: Sequence[float], values: Sequence[float]
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.float64]]]:
    traces, found = np.asarray(log10_traces, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if traces.ndim != 1 or traces.shape != found.shape or len(traces) < 2:
        raise ValueError(
            f"give one value for each trace, of at least two networks; got {traces.size} traces and {found.size} values"
        )
    if not (np.isfinite(traces).all() and np.isfinite(found).all()):
        raise ValueError("traces (as log10) and values must be finite; leave out networks without a path")
    return traces, found


def _least_squares(
    columns: np.ndarray[Any, np.dtype[np.float64]], values: np.ndarray[Any, np.dtype[np.float64]]
) -> Fit:
    (a, b), *_ = np.linalg.lstsq(columns, values, rcond=None)
    residual = float(np.square(values - columns @ np.array([a, b])).sum())
    total = float(np.square(values - values.mean()).sum())
    if total == 0:  # nothing to explain
        return Fit(float(a), float(b), 1.0 if residual <= 1e-12 * float(np.square(values).sum()) else 0.0)
    return Fit(float(a), float(b), 1 - residual / total)
