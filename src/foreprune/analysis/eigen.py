"""Eigenvalues of symmetric positive semidefinite matrices, given whole or by their products with vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Multiply = Callable[[Tensor], Tensor]
_SMALL = 64  # below this, all products with unit vectors cost less than iterations
_REFINEMENTS = 12


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues of a kernel.

    Attributes:
        eigenvalues: descending, (k,), float64.
        eigenvectors: unit vectors as columns, (n, k), float64.
        condition_number: the largest over the smallest eigenvalue, infinite for a singular kernel; None if not all
            eigenvalues were computed.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor
    condition_number: float | None


def whole_spectrum(matrix: Tensor) -> Spectrum:
    """Every eigenvalue of `matrix`. Those below its rounding error count as zero."""
    values, vectors = torch.linalg.eigh(matrix.double().cpu())
    values, vectors = values.flip(0), vectors.flip(1)
    rounding = float(values[0]) * len(values) * torch.finfo(matrix.dtype).eps
    values = torch.where(values > rounding, values, 0.0)
    smallest = float(values[-1])
    return Spectrum(values, vectors, float(values[0]) / smallest if smallest > 0 else math.inf)


def check_leading(leading: int, size: int, what: str) -> None:
    """Raise for a number of eigenvalues that is none, or more than there are."""
    if isinstance(leading, bool) or not isinstance(leading, int):
        raise TypeError(f"leading must be a whole number of eigenvalues, not {leading!r}")
    if not 1 <= leading <= size:
        raise ValueError(f"leading must be from 1 to {size:,}, the size of {what}; got {leading:,}")


def leading_eigenpairs(
    multiply: Multiply,
    size: int,
    leading: int,
    *,
    tolerance: float = 0.0,
    start: Tensor | None = None,
    basis: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues, descending, (leading,), and their unit eigenvectors as columns, (size, leading).

    By the implicitly restarted Lanczos method (ARPACK through scipy), from a fixed starting vector, to a relative
    accuracy of `tolerance` (0: machine precision); small matrices are formed and solved whole.

    Args:
        multiply: takes and gives vectors on the CPU, float64 or of the type of `start`.
        size: of the matrix.
        leading: how many eigenvalues.
        tolerance: of the residuals, over the eigenvalues.
        start: a vector that holds something of every eigenvector wanted; random if it is not given.
        basis: how many vectors to keep between restarts; ARPACK's choice if it is not given.

    Raises:
        ImportError: scipy is not installed.
    """
    dtype = torch.float64 if start is None else start.dtype
    if size <= _SMALL or 2 * leading >= size:
        whole = torch.stack([multiply(unit) for unit in torch.eye(size, dtype=dtype)])
        values, vectors = torch.linalg.eigh((whole + whole.T) / 2)
    else:
        try:
            from scipy.sparse.linalg import LinearOperator, eigsh
        except ImportError as error:
            raise ImportError("leading eigenvalues need scipy: pip install 'foreprune[report]'") from error

        def product(vector: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> object:
            return multiply(torch.from_numpy(np.ascontiguousarray(vector.reshape(-1)))).numpy()

        first = np.random.default_rng(0).standard_normal(size) if start is None else start.numpy()
        operator = LinearOperator((size, size), matvec=product, dtype=first.dtype)
        found = eigsh(operator, k=leading, which="LA", v0=first, tol=tolerance, ncv=basis)
        values, vectors = (torch.from_numpy(np.ascontiguousarray(part)) for part in found)
    order = values.argsort(descending=True)[:leading]
    return values[order].clamp(min=0), vectors[:, order]


def refined_eigenpairs(multiply: Multiply, vectors: Tensor, *, accuracy: float) -> tuple[Tensor, Tensor]:
    """Eigenvalues, descending, and unit eigenvectors as columns, from approximate ones in the columns of `vectors`.

    The best in the space they span, which grows by their residuals until each is below `accuracy` times its eigenvalue.
    """
    leading = vectors.shape[1]
    space = torch.linalg.qr(vectors)[0]
    images = torch.stack([multiply(vector) for vector in space.T], dim=1)
    for _ in range(_REFINEMENTS):
        small = space.T @ images
        values, turn = torch.linalg.eigh((small + small.T) / 2)
        values, turn = values.flip(0)[:leading], turn.flip(1)[:, :leading]
        found = space @ turn
        residuals = images @ turn - found * values
        open_ = residuals.norm(dim=0) > accuracy * values
        if not bool(open_.any()):
            break
        further = residuals[:, open_]
        for _ in range(2):  # once leaves what rounding makes of nearly parallel vectors
            further = torch.linalg.qr(further - space @ (space.T @ further))[0]
        space = torch.cat([space, further], dim=1)
        images = torch.cat([images, torch.stack([multiply(vector) for vector in further.T], dim=1)], dim=1)
    return values.clamp(min=0), found
