"""The path kernel Pi = J J^T, J = dv/dtheta (Gebhart et al. 2021, section 3): whole, or its leading eigenvalues."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foreprune.analysis.eigen import check_leading, leading_eigenpairs
from foreprune.analysis.path_sums import PathCount, count, squared_norm
from foreprune.analysis.pruned import Pruned, undisturbed
from foreprune.core.masks import Masks
from foreprune.graph import EVERY_PATH, Path, PathError, PathGraph, Weight, every_path

MOST_PATHS = 4096
_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class PathKernel:
    """The path kernel of a network, or what is known of it. Tensors are float64.

    Attributes:
        paths: number of paths P.
        eigenvalues: in descending order, (k,); infinite where float64 cannot hold them. All others are zero if the
            kernel is explicit.
        log10_eigenvalues: (k,), -inf for zero.
        directions: name -> (k, *shape of the weight): for each eigenvalue the unit vector over the kept weights that
            goes with it, J^T u / sqrt(eigenvalue), a right singular vector of J. The entry of the eigenvector u for
            path p is the sum over its weights of J_pj times the direction, over sqrt(eigenvalue).
        matrix: Pi, (P, P); None if only the leading eigenvalues were asked for, like all that follows.
        eigenvectors: columns over the paths, (P, k).
        jacobian: J, (P, weights): J_pj = sqrt(c_p) v_p / theta_j, where c_p is the product of the path's constants: 1/n
            for an average over n, the square of the scale of a normalization, else 1.
        columns: the weight of each column of J.
        rows: the path of each row of J.
    """

    paths: PathCount
    eigenvalues: Tensor
    log10_eigenvalues: Tensor
    directions: dict[str, Tensor]
    matrix: Tensor | None = None
    eigenvectors: Tensor | None = None
    jacobian: Tensor | None = None
    columns: tuple[Weight, ...] = ()
    rows: tuple[Path, ...] = ()


def path_kernel(model: nn.Module, masks: Masks | None = None, *, inputs: Any, leading: int | None = None) -> PathKernel:
    """The path kernel of the pruned network.

    Pi(p, p') = sum over the weights that both paths share of (v_p / theta_j) (v_p' / theta_j), where v_p is the product
    of the weights of path p. Without `leading` it is formed whole, path by path, for up to 4,096 paths. With it, that
    many largest eigenvalues are computed for a network of any size: they are those of J^T J over the weights, whose
    products with vectors come from second derivatives of R_PK(theta^2), and ARPACK does the rest.

    Args:
        model: the network.
        masks: what is kept; None: everything.
        inputs: example inputs, of which only the shape counts.
        leading: number of eigenvalues, or None for the whole kernel.

    Raises:
        ValueError: more paths than the whole kernel can hold (the message says how many), no path at all, or an
            impossible number of eigenvalues.
        PathError: an operation that has no meaning for paths.
        ImportError: `leading` without scipy.
    """
    with undisturbed():
        pruned = Pruned.of(model, masks, inputs)
        paths = count(pruned)
        if paths.value == 0:
            raise ValueError(no_path(pruned.masks))
        if leading is None:
            return _whole(pruned, paths)
        return _leading(pruned, paths, leading)


def no_path(masks: Masks) -> str:
    """Why there is no path from input to output."""
    empty = masks.collapsed()
    why = (
        f"layers without a single kept weight: {', '.join(empty[:5])}{', ...' if len(empty) > 5 else ''}"
        if empty
        else "every layer keeps weights, but they do not connect"
    )
    return f"no path leads from the input to the output ({why}); keep more, or use a method that keeps whole paths"


def _whole(pruned: Pruned, paths: PathCount) -> PathKernel:
    if paths.value is None or paths.value > MOST_PATHS:
        size = f"{paths.value:,}" if paths.value is not None else f"about 10^{paths.log10:.1f}"
        raise ValueError(
            f"this network has {size} paths, and the path kernel is a matrix of that size; it is formed for up to "
            f"{MOST_PATHS:,}. Ask for the leading eigenvalues instead: path_kernel(..., leading=10)"
        )
    rows = every_path(pruned.net, pruned.inputs, pruned.masks)
    weights = {name: value.double() for name, value in pruned.masks(dict(pruned.floating())).items()}
    values = {name: value.flatten().tolist() for name, value in weights.items()}
    _check_complete(pruned, rows, values, paths)
    columns = tuple(dict.fromkeys(weight for path in rows for weight in path.weights))
    place = {weight: column for column, weight in enumerate(columns)}
    jacobian = torch.zeros(len(rows), len(columns), dtype=torch.float64)
    for row, path in enumerate(rows):
        factors = [values[name][position] for name, position in path.weights]
        for at, weight in enumerate(path.weights):  # a weight that is used twice counts twice, as in the derivative
            rest = math.prod(factors[:at]) * math.prod(factors[at + 1 :])
            jacobian[row, place[weight]] += math.sqrt(path.coefficient) * rest
    left, singular, right = torch.linalg.svd(jacobian, full_matrices=False)
    directions = {
        name: torch.zeros(len(singular), value.numel(), dtype=torch.float64) for name, value in weights.items()
    }
    for column, (name, position) in enumerate(columns):
        directions[name][:, position] = right[:, column]
    return PathKernel(
        paths=paths,
        eigenvalues=singular.square(),
        log10_eigenvalues=singular.square().log10(),
        directions={name: value.view(-1, *weights[name].shape) for name, value in directions.items()},
        matrix=jacobian @ jacobian.T,
        eigenvectors=left,
        jacobian=jacobian,
        columns=columns,
        rows=tuple(rows),
    )


def _check_complete(pruned: Pruned, rows: list[Path], values: dict[str, list[float]], paths: PathCount) -> None:
    """The paths found are all there are, with the values the network gives them."""
    total = math.fsum(
        path.coefficient * math.prod(values[name][position] ** 2 for name, position in path.weights) for path in rows
    )
    whole = squared_norm(pruned).value
    if len(rows) != paths.value or whole is None or not math.isclose(total, whole, rel_tol=_TOLERANCE):
        raise PathError(
            "the paths of this network cannot be listed one by one: some operation uses weights in a way that cannot "
            "be taken apart (a weight computed from others?); ask for the leading eigenvalues: "
            "path_kernel(..., leading=10)"
        )


def _leading(pruned: Pruned, paths: PathCount, leading: int) -> PathKernel:
    """With R(s) the sum over paths at s = theta^2, J^T J = diag(theta) R'' diag(theta) + diag(R')."""
    signed = {name: value.double() for name, value in pruned.masks(dict(pruned.floating())).items()}
    squares = {name: value.square().requires_grad_() for name, value in signed.items()}
    total = PathGraph(pruned.net, pruned.inputs, EVERY_PATH, power=2).sum(squares)
    names = list(squares)
    variables = [squares[name] for name in names]
    slopes = torch.autograd.grad(total.value, variables, create_graph=True, materialize_grads=True)
    # a weight on no path has no slope; pruned ones are not part of the network
    used = [slope.detach() > 0 for slope in slopes]
    kept = pruned.masks(dict(zip(names, used, strict=True)))
    theta = torch.cat([signed[name][kept[name]] for name in names])
    slope = torch.cat([part.detach()[kept[name]] for name, part in zip(names, slopes, strict=True)])
    size, largest = len(theta), float(slope.sum())
    check_leading(leading, size, "the path kernel over the weights that lie on paths")

    def spread(vector: Tensor) -> list[Tensor]:
        parts = torch.split(vector, [int(kept[name].sum()) for name in names])
        return [
            torch.zeros_like(signed[name]).masked_scatter_(kept[name], part)
            for name, part in zip(names, parts, strict=True)
        ]

    def multiply(vector: Tensor) -> Tensor:
        vector = vector.to(theta.device)
        along = sum((s * d).sum() for s, d in zip(slopes, spread(theta * vector), strict=True))
        assert isinstance(along, Tensor)
        bent = torch.autograd.grad(along, variables, retain_graph=True, materialize_grads=True)
        curved = torch.cat([part.detach()[kept[name]] for name, part in zip(names, bent, strict=True)])
        return ((theta * curved + slope * vector) / largest).cpu()

    values, vectors = leading_eigenpairs(multiply, size, leading)
    columns = [spread(vector.to(theta.device)) for vector in vectors.T]
    log10 = values.log10() + math.log10(largest) + total.exponent * math.log10(2)
    return PathKernel(
        paths=paths,
        eigenvalues=torch.tensor(
            [_ldexp(float(value) * largest, total.exponent) for value in values], dtype=torch.float64
        ),
        log10_eigenvalues=log10,
        directions={name: torch.stack([column[at].cpu() for column in columns]) for at, name in enumerate(names)},
    )


def _ldexp(value: float, exponent: int) -> float:
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.inf
