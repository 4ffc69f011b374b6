"""The empirical neural tangent kernel Theta(X, X) = J J^T, J = df/dtheta.

Jacot et al. 2018; Gebhart et al. 2021, eq. 3.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from foreprune.analysis.eigen import Spectrum, check_leading, leading_eigenpairs, whole_spectrum
from foreprune.analysis.pruned import undisturbed
from foreprune.analysis.tangent import Parameters, Tangent, check_evaluation
from foreprune.core.masks import Masks
from foreprune.core.seeds import generator_for

Reduce = Literal["full", "trace", "spectrum"]
Outputs = Literal["each", "sum"]
_NUMBERS = 2**27  # of the Jacobian held at a time by default: 512 MiB in float32
_SAMPLES = 64  # in one pass of the matrix-free forms by default


@overload
def ntk(
    model: nn.Module,
    masks: Masks | None = None,
    *,
    inputs: Any,
    reduce: Literal["full"] = "full",
    outputs: Outputs = "each",
    parameters: Parameters = "trainable",
    leading: None = None,
    probes: None = None,
    chunk: int | None = None,
    seed: int = 0,
) -> Tensor:
    """The matrix."""


@overload
def ntk(
    model: nn.Module,
    masks: Masks | None = None,
    *,
    inputs: Any,
    reduce: Literal["trace"],
    outputs: Outputs = "each",
    parameters: Parameters = "trainable",
    leading: None = None,
    probes: int | None = None,
    chunk: int | None = None,
    seed: int = 0,
) -> float:
    """Its trace."""


@overload
def ntk(
    model: nn.Module,
    masks: Masks | None = None,
    *,
    inputs: Any,
    reduce: Literal["spectrum"],
    outputs: Outputs = "each",
    parameters: Parameters = "trainable",
    leading: int | None = None,
    probes: None = None,
    chunk: int | None = None,
    seed: int = 0,
) -> Spectrum:
    """Its eigenvalues."""


def ntk(
    model: nn.Module,
    masks: Masks | None = None,
    *,
    inputs: Any,
    reduce: Reduce = "full",
    outputs: Outputs = "each",
    parameters: Parameters = "trainable",
    leading: int | None = None,
    probes: int | None = None,
    chunk: int | None = None,
    seed: int = 0,
) -> Tensor | float | Spectrum:
    """Tangent kernel of the pruned network between the samples of `inputs`, at its present weights.

    Everything runs in evaluation mode: no dropout, running statistics in batch normalization. Derivatives are taken
    with respect to kept weights only.

    Args:
        model: the network. If it has batch normalization it must be in evaluation mode already.
        masks: what is kept; None: everything.
        inputs: N samples: a tensor, a tuple of them (positional) or a mapping (keywords), batch axis first.
        reduce: "full", the matrix; "trace"; or "spectrum", its eigenvalues.
        outputs: "each": (N K, N K), sample-major, so that row i K + k belongs to output k of sample i. "sum": (N, N),
            summed over equal outputs, sum_k Theta((i, k), (j, k)). The trace is the same.
        parameters: "trainable": all that have `requires_grad`, biases and normalization included, as gradient descent
            moves them. "prunable": only the weights that masks are for, as in the path decomposition
            Theta = J_v Pi J_v^T.
        leading: for "spectrum": that many largest eigenvalues, without forming the matrix (needs scipy). None: all.
        probes: for "trace": Hutchinson's estimate from that many random sign vectors, one backward pass each. None:
            exactly, from every row of the Jacobian.
        chunk: bounds the memory. Rows of the Jacobian (one for each output of each sample) computed at a time, of which
            twice as many are held, each with as many numbers as there are parameters; for `leading` and `probes`:
            samples in one pass. Default: 2^27 numbers, 64 samples.
        seed: of the sign vectors.

    Returns:
        Tensor in the dtype of the model, float, or `Spectrum` (float64).

    Raises:
        ValueError: batch normalization in training mode or without running statistics; an argument that does not belong
            to this `reduce`; no trainable parameter.
        ImportError: `leading` without scipy.
    """
    _check(reduce, outputs, leading=leading, probes=probes, chunk=chunk)
    check_evaluation(model)
    with undisturbed():
        tangent = Tangent.of(model, masks, inputs, parameters=parameters)
        if reduce == "full":
            return kernel_matrix(tangent, outputs=outputs, chunk=chunk)
        if reduce == "trace":
            return kernel_trace(tangent, probes=probes, chunk=chunk, seed=seed)
        return kernel_spectrum(tangent, outputs=outputs, leading=leading, chunk=chunk)


def kernel_matrix(tangent: Tangent, *, outputs: Outputs = "each", chunk: int | None = None) -> Tensor:
    """`ntk(..., reduce="full")` of a network that is prepared already."""
    return tangent.gram(_rows(tangent, chunk), summed=outputs == "sum")


def kernel_trace(tangent: Tangent, *, probes: int | None = None, chunk: int | None = None, seed: int = 0) -> float:
    """`ntk(..., reduce="trace")` of a network that is prepared already."""
    if probes is None:
        return tangent.squared_norm(_rows(tangent, chunk))
    # the mean over random signs v of |J^T v|^2, whose expectation is the trace of J J^T (Hutchinson 1990)
    generator, shape, total = generator_for("probes", seed), (tangent.samples, tangent.outputs), 0.0
    for _ in range(probes):
        signs = torch.randint(0, 2, shape, generator=generator) * 2 - 1
        total += sum(float(part.double().square().sum()) for part in tangent.pull(signs, chunk or _SAMPLES).values())
    return total / probes


def kernel_spectrum(
    tangent: Tangent, *, outputs: Outputs = "each", leading: int | None = None, chunk: int | None = None
) -> Spectrum:
    """`ntk(..., reduce="spectrum")` of a network that is prepared already."""
    if leading is None:
        return whole_spectrum(kernel_matrix(tangent, outputs=outputs, chunk=chunk))
    size = tangent.samples * (tangent.outputs if outputs == "each" else 1)
    check_leading(leading, size, "the tangent kernel")
    values, vectors = leading_eigenpairs(
        lambda vector: _multiply(tangent, vector, outputs, chunk or _SAMPLES),
        size,
        leading,
        tolerance=float(torch.finfo(tangent.dtype).eps),
    )
    return Spectrum(values, vectors, None)


def _rows(tangent: Tangent, chunk: int | None) -> int:
    return chunk or max(1, _NUMBERS // max(tangent.size, 1))


def _multiply(tangent: Tangent, vector: Tensor, outputs: Outputs, batch: int) -> Tensor:
    """Theta times a vector by one product with J^T and one with J, for each output if they are summed."""
    if outputs == "each":
        return tangent.push(tangent.pull(vector.view(tangent.samples, -1), batch), batch).flatten().cpu().double()
    total = torch.zeros_like(vector)
    for output in range(tangent.outputs):
        one = torch.zeros(tangent.samples, tangent.outputs, dtype=vector.dtype)
        one[:, output] = vector
        total += tangent.push(tangent.pull(one, batch), batch)[:, output].cpu().double()
    return total


def _check(reduce: str, outputs: str, *, leading: int | None, probes: int | None, chunk: int | None) -> None:
    if reduce not in ("full", "trace", "spectrum"):
        raise ValueError(f'reduce must be "full", "trace" or "spectrum", not {reduce!r}')
    if outputs not in ("each", "sum"):
        raise ValueError(f'outputs must be "each" (one row for each) or "sum" (summed over), not {outputs!r}')
    if leading is not None and reduce != "spectrum":
        raise ValueError(f'leading= is a number of eigenvalues and belongs to reduce="spectrum", not {reduce!r}')
    if probes is not None and reduce != "trace":
        raise ValueError(f'probes= is a number of random vectors and belongs to reduce="trace", not {reduce!r}')
    for name, value in (("probes", probes), ("chunk", chunk)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
