"""The path kernel against walking every path; its decomposition of the tangent kernel; its leading eigenvalues."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from walked_nets import NAMES, Case, Walk, case

from foreprune.analysis.path_kernel import PathKernel, _Bent, path_kernel
from foreprune.analysis.path_sums import path_kernel_trace
from foreprune.analysis.tangent_kernel import ntk
from foreprune.core.masks import Masks
from foreprune.graph import PathError
from foreprune.zoo.models import create


def living(given: Case, density: float, most: int = 450) -> Masks:
    """The first random masks that leave some paths, and few enough to compare each with each."""
    found = (given.masks(density, seed) for seed in range(100))
    return next(masks for masks in found if 4 < len(given.kept(masks)) < most)


Key = tuple[int, int, tuple[tuple[str, int], ...]]


def key_of(given: Case, walk: Walk) -> Key:
    flat = tuple((name, int(np.ravel_multi_index(at, given.weights[name].shape))) for name, at in walk.entries)
    return walk.start, walk.end, flat


def gram(given: Case, walks: list[Walk]) -> Tensor:
    """Pi by its definition, entry by entry over shared weights, without dividing by a weight."""
    rows: list[dict[tuple[str, tuple[int, ...]], float]] = []
    for walk in walks:
        factors = [float(given.weights[name][at]) for name, at in walk.entries]
        root = math.sqrt(walk.coefficient) * walk.scale
        rows.append(
            {entry: root * float(np.prod(factors[:k] + factors[k + 1 :])) for k, entry in enumerate(walk.entries)}
        )
    matrix = [[sum(a[e] * b[e] for e in a.keys() & b.keys()) for b in rows] for a in rows]
    return torch.tensor(matrix, dtype=torch.float64)


@pytest.mark.parametrize("name", [*NAMES, "normalized"])
@pytest.mark.parametrize("density", [0.6, 0.4])
def test_the_matrix_is_that_of_walking_each_path(name: str, density: float) -> None:
    given = case(name)
    masks = living(given, density)
    walks = given.kept(masks)
    found = path_kernel(given.model, masks, inputs=given.x)
    assert found.matrix is not None
    keys = [(path.start, path.end, path.weights) for path in found.rows]
    assert sorted(keys) == sorted(key_of(given, walk) for walk in walks)
    order = {key: [] for key in keys}  # parallel routes share a key, and are exchangeable
    for row, key in enumerate(keys):
        order[key].append(row)
    rows = [order[key_of(given, walk)].pop() for walk in walks]
    torch.testing.assert_close(found.matrix[rows][:, rows], gram(given, walks), rtol=1e-12, atol=1e-14)
    trace = path_kernel_trace(given.model, masks, inputs=given.x).value
    assert float(found.matrix.trace()) == pytest.approx(trace, rel=1e-12)
    assert found.paths.value == len(walks)


@pytest.mark.parametrize("name", NAMES)
def test_eigenvalues_and_eigenvectors_of_the_whole_kernel(name: str) -> None:
    given = case(name)
    found = path_kernel(given.model, living(given, 0.5), inputs=given.x)
    assert found.matrix is not None
    assert found.eigenvectors is not None
    wanted = torch.linalg.eigvalsh(found.matrix).flip(0)[: len(found.eigenvalues)]
    torch.testing.assert_close(found.eigenvalues, wanted, rtol=1e-9, atol=1e-12)
    assert float(found.eigenvalues.sum()) == pytest.approx(float(found.matrix.trace()))
    scaled = found.eigenvectors * found.eigenvalues
    torch.testing.assert_close(found.matrix @ found.eigenvectors, scaled, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", [*NAMES, "normalized"])
def test_leading_eigenpairs_without_the_matrix(name: str) -> None:
    given = case(name)
    masks = living(given, 0.5)
    whole = path_kernel(given.model, masks, inputs=given.x)
    found = path_kernel(given.model, masks, inputs=given.x, leading=3)
    assert found.matrix is None
    torch.testing.assert_close(found.eigenvalues, whole.eigenvalues[:3], rtol=1e-9, atol=0)
    torch.testing.assert_close(found.log10_eigenvalues, whole.eigenvalues[:3].log10(), rtol=0, atol=1e-9)
    for at in range(3):
        check_direction(found, whole, at)


def check_direction(found: PathKernel, whole: PathKernel, at: int) -> None:
    """J times the direction has the length of the square root of the eigenvalue, and is an eigenvector of Pi."""
    assert whole.jacobian is not None
    assert whole.matrix is not None
    direction = torch.stack([found.directions[name][at].flatten()[j] for name, j in whole.columns])
    assert float(torch.cat([value[at].flatten() for value in found.directions.values()]).norm()) == pytest.approx(1)
    assert float(direction.norm()) == pytest.approx(1)  # nothing outside the weights on paths
    along = whole.jacobian @ direction
    assert float(along.square().sum()) == pytest.approx(float(found.eigenvalues[at]), rel=1e-9)
    torch.testing.assert_close(whole.matrix @ along, found.eigenvalues[at] * along, rtol=0, atol=1e-8)


def test_arpack_and_the_small_solver_agree_and_signs_of_weights_are_kept() -> None:
    """More than 64 weights, so that the iterative solver runs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 10, bias=False), nn.ReLU(), nn.Linear(10, 5, bias=False)).double()
    whole = path_kernel(model, inputs=torch.zeros(1, 6))
    found = path_kernel(model, inputs=torch.zeros(1, 6), leading=4)
    torch.testing.assert_close(found.eigenvalues, whole.eigenvalues[:4], rtol=1e-10, atol=0)
    for at in range(4):
        check_direction(found, whole, at)
    again = path_kernel(model, inputs=torch.zeros(1, 6), leading=4)
    assert torch.equal(again.eigenvalues, found.eigenvalues)


def test_single_precision_first_comes_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What networks of many weights take: a rough solution in single precision, corrected in double."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 6, 3), nn.Flatten(), nn.Linear(6 * 16, 4)
        ).double()
    masks, x = random_masks(model), torch.zeros(1, 2, 6, 6)
    for given in (None, masks):
        exact = path_kernel(model, given, inputs=x, leading=3)
        products = {torch.float32: 0, torch.float64: 0}
        with monkeypatch.context() as patch:
            patch.setattr("foreprune.analysis.path_kernel._MANY", 64)
            multiply = _Bent.multiply

            def counted(self: _Bent, vector: Tensor) -> Tensor:
                products[self.theta.dtype] += 1  # noqa: B023
                return multiply(self, vector)  # noqa: B023

            patch.setattr(_Bent, "multiply", counted)
            found = path_kernel(model, given, inputs=x, leading=3)
        torch.testing.assert_close(found.eigenvalues, exact.eigenvalues, rtol=1e-8, atol=0)
        torch.testing.assert_close(found.log10_eigenvalues, exact.log10_eigenvalues, rtol=0, atol=1e-8)
        for name, directions in found.directions.items():
            for one, other in zip(directions, exact.directions[name], strict=True):
                sign = 1 if float((one * other).sum()) >= 0 else -1
                torch.testing.assert_close(sign * one, other, rtol=0, atol=1e-3)
        assert 3 <= products[torch.float64] < products[torch.float32]


def random_masks(model: nn.Module) -> Masks:
    generator = torch.Generator().manual_seed(0)
    return Masks(
        {n: torch.rand(v.shape, generator=generator) < 0.6 for n, v in model.named_parameters() if v.dim() > 1}
    )


def test_property_15_the_tangent_kernel_decomposes() -> None:
    """Theta = J_v Pi J_v^T, with J_v the input of each path that is active, and the bounds on its trace."""
    given = case("mlp")
    masks = given.masks(0.7, 1)
    found = path_kernel(given.model, masks, inputs=given.x)
    assert found.matrix is not None
    weights = {name: value * masks[name] for name, value in given.weights.items()}
    hidden = [given.x @ weights["0.weight"].T]
    hidden.append(F.relu(hidden[0]) @ weights["2.weight"].T)
    samples, outputs = len(given.x), 2
    features = torch.zeros(samples * outputs, len(found.rows), dtype=torch.float64)
    for column, path in enumerate(found.rows):
        (_, first), (_, second), _ = path.weights
        active = (hidden[0][:, first // 3] > 0) & (hidden[1][:, second // 4] > 0)
        features[path.end :: outputs, column] = active * given.x[:, path.start]
    theta = ntk(given.model, masks, inputs=given.x, parameters="prunable")
    torch.testing.assert_close(features @ found.matrix @ features.T, theta, rtol=1e-11, atol=1e-13)
    trace = float(found.matrix.trace())
    assert float(theta.trace()) <= float(torch.linalg.matrix_norm(features, 2)) ** 2 * trace
    assert float(torch.linalg.matrix_norm(features, 2)) ** 2 * trace <= float(features.square().sum()) * trace


def test_a_weight_of_zero_that_is_kept_has_its_column() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.fill_(0.0)
        model[1].weight.fill_(3.0)
    found = path_kernel(model, inputs=torch.zeros(1, 1))
    assert found.jacobian is not None
    assert found.jacobian.tolist() == [[3.0, 0.0]]
    assert path_kernel(model, inputs=torch.zeros(1, 1), leading=1).eigenvalues.tolist() == [9.0]


def test_a_weight_used_twice_along_a_path_counts_as_its_derivative() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(F.relu(self.layer(x)))

    model = Twice().double()
    found = path_kernel(model, inputs=torch.zeros(1, 2))
    assert found.paths.value == 8
    assert found.jacobian is not None
    weight = model.layer.weight.detach()
    for row, path in enumerate(found.rows):
        leaf = weight.clone().flatten().requires_grad_()
        (value,) = torch.autograd.grad(math.prod(leaf[j] for _, j in path.weights), leaf)
        wanted = [float(value[j]) for _, j in found.columns]
        torch.testing.assert_close(found.jacobian[row], torch.tensor(wanted, dtype=torch.float64))
    leading = path_kernel(model, inputs=torch.zeros(1, 2), leading=4)
    torch.testing.assert_close(leading.eigenvalues, found.eigenvalues[:4])


def test_parallel_routes_without_weights_are_paths_of_their_own() -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.second(x + 0.5 * x)

    model = Doubled().double()
    found = path_kernel(model, inputs=torch.zeros(1, 2))
    assert found.paths.value == 8
    assert found.matrix is not None
    assert [path.coefficient for path in found.rows] == [0.75] * 8
    trace = path_kernel_trace(model, inputs=torch.zeros(1, 2)).value
    assert float(found.matrix.trace()) == pytest.approx(trace)


def test_constants_far_from_one_keep_their_size() -> None:
    class Faint(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(1e-9 * self.first(x)) * 3

    found = path_kernel(Faint(), inputs=torch.zeros(1, 2))
    assert [path.coefficient for path in found.rows] == pytest.approx([3e-9] * 4)


@pytest.mark.timeout(60)
def test_dead_ends_are_not_walked() -> None:
    """One thread of single weights beside layers of nine units that end nowhere: 9^12 ways into the dead end."""
    layers = [nn.Linear(10, 10, bias=False) for _ in range(14)]
    mask = torch.ones(10, 10, dtype=torch.bool)
    mask[0, 1:] = mask[1:, 0] = False
    masks = {f"{at}.weight": mask.clone() for at in range(14)}
    masks["0.weight"][1:, 0] = True
    masks["0.weight"][:, 1:] = False
    masks["13.weight"][:, 1:] = False
    found = path_kernel(nn.Sequential(*layers), Masks(masks), inputs=torch.zeros(1, 10))
    assert len(found.rows) == 1
    with pytest.raises(ValueError, match="leading must be from 1 to 14, the size"):  # the weights on the thread
        path_kernel(nn.Sequential(*layers), Masks(masks), inputs=torch.zeros(1, 10), leading=15)


def test_weights_that_are_not_prunable_and_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(1, 2, bias=False)
            self.scale = nn.Parameter(torch.tensor([2.0, -3.0]))

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (self.a(x) + self.b(y)) * self.scale

    model = Two().double()
    found = path_kernel(model, inputs=(torch.zeros(1, 2), torch.zeros(1, 1)))
    assert {path.start for path in found.rows} == {0, 1, 2}
    assert {path.weights[-1] for path in found.rows} == {("scale", 0), ("scale", 1)}
    leading = path_kernel(model, inputs=(torch.zeros(1, 2), torch.zeros(1, 1)), leading=2)
    torch.testing.assert_close(leading.eigenvalues, found.eigenvalues[:2])


def test_too_many_paths_are_refused_by_number() -> None:
    model, x = create("lenet-300-100", input_shape=(1, 28, 28)), torch.zeros(1, 1, 28, 28)
    with pytest.raises(ValueError, match=r"has 235,200,000 paths, .* up to 4,096.*path_kernel\(\.\.\., leading=10\)"):
        path_kernel(model, inputs=x)
    deep, image = create("resnet-20", input_shape=(3, 32, 32)), torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match=r"has about 10\^\d+\.\d paths"):
        path_kernel(deep, inputs=image)


def test_few_paths_through_large_layers_are_refused_too() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(8 * 48 * 48, 1, bias=False)
    )
    masks = {name: torch.zeros_like(value, dtype=torch.bool) for name, value in model.named_parameters()}
    masks["0.weight"][0, 0, 1, 1] = True
    masks["2.weight"][0, 7] = True
    with pytest.raises(ValueError, match=r"paths are few, but the layers too large to list them .* leading=10"):
        path_kernel(model, Masks(masks), inputs=torch.zeros(1, 1, 48, 48))
    assert path_kernel(model, Masks(masks), inputs=torch.zeros(1, 1, 48, 48), leading=1).paths.value == 1


def test_no_path_names_the_empty_layer() -> None:
    given = case("mlp")
    masks = {name: mask.clone() for name, mask in given.masks(1.0).items()}
    masks["2.weight"][:] = False
    with pytest.raises(ValueError, match=r"no path leads .*without a single kept weight: 2\.weight\)"):
        path_kernel(given.model, Masks(masks), inputs=given.x, leading=1)
    masks["2.weight"][0, 0] = True
    masks["4.weight"][:, 0] = False
    with pytest.raises(ValueError, match="every layer keeps weights, but they do not connect"):
        path_kernel(given.model, Masks(masks), inputs=given.x)


def test_operations_that_cannot_be_taken_apart_are_refused() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend = nn.MultiheadAttention(2, 1, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attend(x, x, x)[0]

    class Composed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.b.weight.abs() @ self.a.weight.abs())

    with pytest.raises(PathError, match=r"cannot be taken apart \(torch's own attention\?\).*leading=10"):
        path_kernel(Own(), inputs=torch.zeros(1, 2, 2))
    assert len(path_kernel(Own(), inputs=torch.zeros(1, 2, 2), leading=2).eigenvalues) == 2
    with pytest.raises(PathError, match=r"cannot be taken apart \(a weight computed from others\?\)"):
        path_kernel(Composed(), inputs=torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("leading", "error", "match"),
    [
        (0, ValueError, "leading must be from 1 to 36, .* got 0"),
        (37, ValueError, "leading must be from 1 to 36"),
        (2.0, TypeError, r"whole number of eigenvalues, not 2\.0"),
        (True, TypeError, "not True"),
    ],
)
def test_impossible_numbers_of_eigenvalues(leading: int, error: type[Exception], match: str) -> None:
    given = case("mlp")
    with pytest.raises(error, match=match):
        path_kernel(given.model, inputs=given.x, leading=leading)


def test_leading_eigenvalues_need_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.sparse.linalg", None)
    model = nn.Sequential(nn.Linear(9, 9, bias=False))
    with pytest.raises(ImportError, match=r"pip install 'foreprune\[report\]'"):
        path_kernel(model, inputs=torch.zeros(1, 9), leading=1)


def test_eigenvalues_beyond_float64_come_as_log10() -> None:
    layers = [nn.Linear(3, 3, bias=False) for _ in range(200)]
    with torch.no_grad():
        for layer in layers:
            layer.weight.fill_(100.0)
    found = path_kernel(nn.Sequential(*layers), inputs=torch.zeros(1, 3), leading=1)
    assert found.eigenvalues.tolist() == [math.inf]
    # all paths alike: u^T Pi u with u uniform is (sum over weights of (paths through it)^2) / paths * (v/theta)^2
    wanted = math.log10(200) + 201 * math.log10(3) - math.log10(9) + 199 * 4
    assert float(found.log10_eigenvalues[0]) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.slow
def test_a_network_of_the_papers() -> None:
    model, x = create("resnet-20", input_shape=(3, 32, 32)), torch.zeros(1, 3, 32, 32)
    found = path_kernel(model, inputs=x, leading=2)
    trace = path_kernel_trace(model, inputs=x)
    assert trace.value is not None
    assert 0 < float(found.eigenvalues[1]) <= float(found.eigenvalues[0]) < trace.value
