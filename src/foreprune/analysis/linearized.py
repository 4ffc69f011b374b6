"""Training of the linearized network in closed form, and what the path kernel's trace predicts of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foreprune.analysis.pruned import undisturbed
from foreprune.analysis.statistics import LeastSquares, least_squares
from foreprune.analysis.tangent import Parameters, Tangent, check_evaluation
from foreprune.analysis.tangent_kernel import kernel_spectrum
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
    masks: Masks | None = None,
    *,
    inputs: Any,
    targets: Tensor,
    parameters: Parameters = "trainable",
    chunk: int | None = None,
) -> Linearized:
    """Closed-form training of the pruned network, linearized at its present weights, on squared error.

    Args:
        model: the network; with batch normalization in evaluation mode, as in `foreprune.ntk`.
        masks: what is kept; None: everything.
        inputs: N samples, batch axis first.
        targets: (N, K) numbers, or (N,) classes, which stand for one-hot vectors.
        parameters: what training moves, as in `foreprune.ntk`.
        chunk: rows of the Jacobian at a time, as in `foreprune.ntk`. The kernel, (N K, N K), is formed whole.

    Raises:
        ValueError: targets that do not fit the outputs; and as `foreprune.ntk`.
    """
    check_evaluation(model)
    with undisturbed():
        tangent = Tangent.of(model, masks, inputs, parameters=parameters)
        spectrum = kernel_spectrum(tangent, chunk=chunk)
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


def predicted_change(
    log10_traces: Sequence[float], *, learning_rate: float, time: float
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """1 - exp(-eta Tr t) for each log10 of a path kernel's trace: the share of the way that training has gone."""
    rate = _rate(time, learning_rate)
    with np.errstate(over="ignore"):
        return -np.expm1(-rate * np.power(10.0, np.asarray(log10_traces, dtype=np.float64)))


def fit_weight_change(
    log10_traces: Sequence[float], changes: Sequence[float], *, learning_rate: float, time: float
) -> LeastSquares:
    """Fit |omega_t| = a (1 - exp(-eta Tr t)) over networks, by least squares in a (Gebhart et al. 2021, figure 1).

    Args:
        log10_traces: log10 of the path kernel's trace of each network.
        changes: distance of its weights from their initial values at `time`.
        learning_rate: eta.
        time: number of steps.

    Returns:
        The coefficient a, and R squared.

    Raises:
        ValueError: lists of different length, fewer than two networks, or numbers that are not finite.
    """
    _check_points(log10_traces, changes)
    return least_squares([predicted_change(log10_traces, learning_rate=learning_rate, time=time)], changes)


def fit_outputs(
    log10_traces: Sequence[float], outputs: Sequence[float], *, learning_rate: float, time: float
) -> LeastSquares:
    """Fit |f_t(X)| = a (1 - exp(-eta Tr t)) + b exp(-eta Tr t), by least squares in a and b (figure 1).

    Arguments and errors as in `fit_weight_change`, with the norm of the outputs on the data in place of the change.
    """
    _check_points(log10_traces, outputs)
    share = predicted_change(log10_traces, learning_rate=learning_rate, time=time)
    return least_squares([share, 1 - share], outputs)


def fit_log_trace(log10_traces: Sequence[float], values: Sequence[float]) -> LeastSquares:
    """Fit value = a ln(Tr) + b over networks (figure 2), for changes of weights or norms of outputs.

    Errors as in `fit_weight_change`.
    """
    _check_points(log10_traces, values)
    return least_squares([np.asarray(log10_traces, dtype=np.float64) * math.log(10), 1], values)


def _check_points(log10_traces: Sequence[float], values: Sequence[float]) -> None:
    if len(log10_traces) != len(values) or len(values) < 2:
        raise ValueError(
            "give one value for each trace, of at least two networks; got "
            f"{len(log10_traces)} traces and {len(values)} values"
        )
    if not all(map(math.isfinite, (*log10_traces, *values))):
        raise ValueError("traces (as log10) and values must be finite; leave out networks without a path")
