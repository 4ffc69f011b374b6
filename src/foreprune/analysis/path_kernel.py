"""The path kernel Pi = J J^T, J = dv/dtheta (Gebhart et al. 2021, section 3): whole, or its leading eigenvalues."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foreprune.analysis.eigen import check_leading, leading_eigenpairs, refined_eigenpairs
from foreprune.analysis.path_sums import PathCount, count, squared_norm
from foreprune.analysis.pruned import Pruned, undisturbed
from foreprune.core.masks import Masks
from foreprune.graph import EVERY_PATH, Path, PathError, PathGraph, Weight, every_path

MOST_PATHS = 4096
_TOLERANCE = 1e-6
_MANY = 200_000  # weights; above it, products in double precision are saved
_ROUGH = 1e-5  # residuals, over eigenvalues, to be reached in single precision
_RESIDUAL = 1e-5  # and then in double; the error of an eigenvalue is about its square over the gap to the others
_BASIS = 36  # vectors kept; more of them save products, and cost memory


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
    products with vectors come from second derivatives of R_PK(theta^2), and ARPACK does the rest. Up to 200,000 weights
    the result is exact to rounding; above, directions have an accuracy of about 1e-5 over the relative gap between
    eigenvalues, and eigenvalues of its square.

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
    """Those of J^T J over the weights that lie on paths. Many weights are solved for in single precision first."""
    bent = _Bent.of(pruned, torch.float64)
    size = len(bent.theta)
    check_leading(leading, size, "the path kernel over the weights that lie on paths")
    if size <= _MANY:
        values, vectors = leading_eigenpairs(bent.multiply, size, leading, start=bent.start())
    else:
        single = _Bent.of(pruned, torch.float32)
        rough = leading_eigenpairs(
            single.multiply, size, leading, tolerance=_ROUGH, start=single.start(), basis=_BASIS + 2 * leading
        )[1]
        del single
        values, vectors = refined_eigenpairs(bent.multiply, rough.double(), accuracy=_RESIDUAL)
    columns = [bent.spread(vector.to(bent.theta.device)) for vector in vectors.T]
    log10 = values.log10() + math.log10(bent.largest) + bent.exponent * math.log10(2)
    return PathKernel(
        paths=paths,
        eigenvalues=torch.tensor(
            [_ldexp(float(value) * bent.largest, bent.exponent) for value in values], dtype=torch.float64
        ),
        log10_eigenvalues=log10,
        directions={name: torch.stack([column[at].cpu() for column in columns]) for at, name in enumerate(bent.signed)},
    )


@dataclass(frozen=True, eq=False)
class _Bent:
    """J^T J / (`largest` * 2**`exponent`) over the weights on paths, by its products with vectors.

    With R(s) the sum over paths at s = theta^2, J^T J = diag(theta) R'' diag(theta) + diag(R').
    """

    signed: dict[str, Tensor]
    squares: list[Tensor]
    slopes: tuple[Tensor, ...]  # R', which depends on the squares
    used: list[Tensor | None]  # positions of the weights on paths in each flattened tensor; None: all
    theta: Tensor
    slope: Tensor  # of those weights, over `largest`
    largest: float
    exponent: int

    @classmethod
    def of(cls, pruned: Pruned, dtype: torch.dtype) -> _Bent:
        signed = {name: value.to(dtype) for name, value in pruned.masks(dict(pruned.floating())).items()}
        squares = {name: value.square().requires_grad_() for name, value in signed.items()}
        total = PathGraph(pruned.net, pruned.inputs, EVERY_PATH, dtype=dtype, power=2).sum(squares)
        variables = list(squares.values())
        slopes = torch.autograd.grad(total.value, variables, create_graph=True, materialize_grads=True)
        # a weight on no path has no slope; pruned ones are not part of the network
        kept = pruned.masks({name: slope.detach() > 0 for name, slope in zip(squares, slopes, strict=True)})
        used = [None if bool(mask.all()) else mask.flatten().nonzero().squeeze(1) for mask in kept.values()]
        slope = torch.cat([_picked(part.detach(), at) for part, at in zip(slopes, used, strict=True)])
        theta = torch.cat([_picked(part, at) for part, at in zip(signed.values(), used, strict=True)])
        largest = float(slope.sum())
        return cls(signed, variables, slopes, used, theta, slope / largest, largest, total.exponent)

    def start(self) -> Tensor:
        """Close to the first eigenvector: with the signs of theta taken out, J^T J has no negative entry."""
        return (self.theta * self.slope).cpu()

    def spread(self, vector: Tensor) -> list[Tensor]:
        """A vector over the weights on paths as tensors of the shapes of the weights, zero elsewhere."""
        sizes = [value.numel() if at is None else len(at) for at, value in zip(self.used, self.squares, strict=True)]
        return [
            (part if at is None else vector.new_zeros(like.numel()).index_copy_(0, at, part)).view(like.shape)
            for part, at, like in zip(torch.split(vector, sizes), self.used, self.squares, strict=True)
        ]

    def multiply(self, vector: Tensor) -> Tensor:
        vector = vector.to(self.theta)
        along = [(s, d) for s, d in zip(self.slopes, self.spread(self.theta * vector), strict=True) if s.requires_grad]
        result = self.slope * vector
        if along:
            slopes, directions = zip(*along, strict=True)
            bent = torch.autograd.grad(slopes, self.squares, directions, retain_graph=True, materialize_grads=True)
            curved = torch.cat([_picked(part, at) for part, at in zip(bent, self.used, strict=True)])
            result.addcmul_(self.theta, curved, value=1 / self.largest)
        return result.cpu()


def _picked(values: Tensor, positions: Tensor | None) -> Tensor:
    flat = values.flatten()
    return flat if positions is None else flat[positions]


def _ldexp(value: float, exponent: int) -> float:
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.inf
