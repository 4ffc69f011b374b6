"""The tangent kernel against an explicit loop over the Jacobian, in float64."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
import torch
from contract.nets import NETS, example
from torch import Tensor, nn
from torch.nn import functional as F

from foreprune.analysis.tangent import Tangent
from foreprune.analysis.tangent_kernel import ntk
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.seeds import generator_for

SAMPLES = 5


def network(name: str) -> tuple[nn.Module, Tensor]:
    given = example(name)
    return given.model.eval(), given.x[:SAMPLES]


def random_masks(model: nn.Module, density: float = 0.6) -> Masks:
    generator = torch.Generator().manual_seed(1)
    weights = Net.of(model).weights
    return Masks({name: torch.rand(weight.shape, generator=generator) < density for name, weight in weights.items()})


def jacobian(model: nn.Module, x: Tensor, masks: Masks | None = None, names: Any = None) -> Tensor:
    """One row for each output of each sample, by one backward pass each, on a copy that really is pruned."""
    model = copy.deepcopy(model)
    if masks is not None:
        masks.apply_(model)
    parameters = {name: value for name, value in model.named_parameters() if names is None or name in names}
    rows = []
    for value in model(x).flatten():
        grads = torch.autograd.grad(
            value, list(parameters.values()), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        rows.append(
            torch.cat(
                [
                    (grad * masks[name] if masks is not None and name in masks else grad).flatten()
                    for name, grad in zip(parameters, grads, strict=True)
                ]
            )
        )
    return torch.stack(rows)


@pytest.mark.parametrize("name", NETS)
def test_the_matrix_is_that_of_an_explicit_jacobian(name: str) -> None:
    model, x = network(name)
    for masks in (None, random_masks(model)):
        rows = jacobian(model, x, masks)
        found = ntk(model, masks, inputs=x)
        assert found.shape == (SAMPLES * 3, SAMPLES * 3)
        torch.testing.assert_close(found, rows @ rows.T, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", ["residual", "encoder"])
def test_prunable_weights_only(name: str) -> None:
    model, x = network(name)
    masks = random_masks(model)
    rows = jacobian(model, x, masks, names=set(masks))
    found = ntk(model, masks, inputs=x, parameters="prunable")
    torch.testing.assert_close(found, rows @ rows.T, rtol=1e-10, atol=1e-11)
    assert float(found.trace()) < 0.99 * float(ntk(model, masks, inputs=x).trace())


def test_frozen_parameters_are_left_out() -> None:
    model, x = network("mlp")
    model[0].weight.requires_grad_(False)
    free = {name for name, value in model.named_parameters() if value.requires_grad}
    model_free = copy.deepcopy(model).requires_grad_()
    rows = jacobian(model_free, x, names=free)
    torch.testing.assert_close(ntk(model, inputs=x), rows @ rows.T)
    with pytest.raises(ValueError, match='no parameter has requires_grad; use parameters="prunable"'):
        ntk(model.requires_grad_(False), inputs=x)


@pytest.mark.parametrize("chunk", [1, 2, 4, 7, 100])
@pytest.mark.parametrize("outputs", ["each", "sum"])
def test_chunks_do_not_change_the_result(chunk: int, outputs: Any) -> None:
    model, x = network("residual")
    torch.testing.assert_close(
        ntk(model, inputs=x, outputs=outputs, chunk=chunk), ntk(model, inputs=x, outputs=outputs)
    )
    trace = ntk(model, inputs=x, reduce="trace")
    assert ntk(model, inputs=x, reduce="trace", chunk=chunk) == pytest.approx(trace, rel=1e-12)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
@pytest.mark.parametrize("arguments", [{}, {"outputs": "sum"}, {"reduce": "trace"}])
def test_no_more_than_a_chunk_of_rows_is_computed_at_a_time(
    chunk: int, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = network("mlp")
    original, sizes = Tangent._rows, []

    def counted(self: Tangent, units: Any) -> Any:
        rows = original(self, units)
        sizes.append(len(next(iter(rows.values()))))
        return rows

    monkeypatch.setattr(Tangent, "_rows", counted)
    ntk(model, inputs=x, chunk=chunk, **arguments)
    assert 1 <= max(sizes) <= chunk


def test_summed_outputs_are_the_trace_over_equal_outputs() -> None:
    model, x = network("conv")
    each = ntk(model, inputs=x).view(SAMPLES, 3, SAMPLES, 3)
    torch.testing.assert_close(ntk(model, inputs=x, outputs="sum"), torch.einsum("ikjk->ij", each))


def test_the_trace() -> None:
    model, x = network("residual")
    masks = random_masks(model)
    wanted = float(ntk(model, masks, inputs=x).trace())
    assert ntk(model, masks, inputs=x, reduce="trace") == pytest.approx(wanted, rel=1e-12)
    assert ntk(model, masks, inputs=x, reduce="trace", outputs="sum") == pytest.approx(wanted, rel=1e-12)


def test_hutchinsons_estimate_is_unbiased_and_seeded() -> None:
    model, x = network("mlp")
    wanted = ntk(model, inputs=x, reduce="trace")
    one = ntk(model, inputs=x, reduce="trace", probes=1, seed=3)
    assert one == ntk(model, inputs=x, reduce="trace", probes=1, seed=3, chunk=2)
    assert one != ntk(model, inputs=x, reduce="trace", probes=1, seed=4)
    matrix = ntk(model, inputs=x)
    off = matrix - matrix.diag().diag()
    deviation = float((2 * off.square().sum()).sqrt())  # of one probe
    assert abs(one - wanted) < 4 * deviation
    many = ntk(model, inputs=x, reduce="trace", probes=400)
    assert abs(many - wanted) < 4 * deviation / 20
    # a probe is v^T Theta v
    signs = torch.randint(0, 2, (SAMPLES, 3), generator=generator_for("probes", 3)) * 2.0 - 1
    assert one == pytest.approx(float(signs.flatten().double() @ matrix @ signs.flatten().double()))


@pytest.mark.parametrize("name", ["residual", "attention"])
@pytest.mark.parametrize("outputs", ["each", "sum"])
def test_the_spectrum(name: str, outputs: Any) -> None:
    model, x = network(name)
    matrix = ntk(model, inputs=x, outputs=outputs)
    found = ntk(model, inputs=x, reduce="spectrum", outputs=outputs)
    wanted = torch.linalg.eigvalsh(matrix).flip(0)
    torch.testing.assert_close(found.eigenvalues, wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        matrix @ found.eigenvectors, found.eigenvectors * found.eigenvalues, rtol=1e-8, atol=1e-8
    )
    assert found.condition_number == pytest.approx(float(wanted[0] / wanted[-1]), rel=1e-4)
    leading = ntk(model, inputs=x, reduce="spectrum", outputs=outputs, leading=2, chunk=3)
    torch.testing.assert_close(leading.eigenvalues, found.eigenvalues[:2], rtol=1e-9, atol=0)
    assert leading.condition_number is None
    torch.testing.assert_close(
        matrix @ leading.eigenvectors, leading.eigenvectors * leading.eigenvalues, rtol=1e-7, atol=1e-7
    )


def test_leading_eigenvalues_by_iteration() -> None:
    given = example("mlp", samples=60)
    found = ntk(given.model, inputs=given.x, reduce="spectrum", leading=3, chunk=25)
    whole = ntk(given.model, inputs=given.x, reduce="spectrum")
    torch.testing.assert_close(found.eigenvalues, whole.eigenvalues[:3], rtol=1e-9, atol=0)


def test_leading_eigenvalues_in_float32() -> None:
    given = example("conv", samples=60)
    model, x = given.model.eval().float(), given.x.float()
    found = ntk(model, inputs=x, reduce="spectrum", leading=2)
    whole = ntk(model, inputs=x, reduce="spectrum")
    torch.testing.assert_close(found.eigenvalues, whole.eigenvalues[:2], rtol=1e-5, atol=0)
    assert ntk(model, inputs=x).dtype == torch.float32


def test_a_singular_kernel_has_no_finite_condition() -> None:
    model, x = network("mlp")
    found = ntk(model, inputs=torch.cat([x, x]), reduce="spectrum")
    assert found.condition_number == float("inf")
    assert float(found.eigenvalues.min()) == 0.0


def test_recurrent_networks_work() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(2, 3, batch_first=True), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x)[0][:, -1])

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = Recurrent(), torch.randn(40, 4, 2)
    rows = jacobian(model, x)
    torch.testing.assert_close(ntk(model, inputs=x), rows @ rows.T, rtol=1e-4, atol=1e-5)
    wanted = torch.linalg.eigvalsh((rows @ rows.T).double()).flip(0)
    found = ntk(model, inputs=x, reduce="spectrum", leading=2).eigenvalues
    torch.testing.assert_close(found, wanted[:2], rtol=1e-4, atol=0)


def test_several_inputs_and_outputs_that_are_not_one_tensor() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 3), nn.Linear(1, 3)

        def forward(self, x: Tensor, *, y: Tensor) -> dict[str, Tensor]:
            x *= 2  # a forward that changes its inputs
            return {"logits": torch.tanh(self.a(x) + self.b(y))}

    model = Named().double()
    x, y = torch.randn(4, 2).double(), torch.randn(4, 1).double()
    before = x.clone()
    found = ntk(model, inputs={"x": x, "y": y})
    assert torch.equal(x, before)
    rows = []
    for value in model(x.clone(), y=y)["logits"].flatten():
        grads = torch.autograd.grad(value, list(model.parameters()), retain_graph=True)
        rows.append(torch.cat([grad.flatten() for grad in grads]))
    wanted = torch.stack(rows)
    torch.testing.assert_close(found, wanted @ wanted.T)


def test_forwards_that_decide_by_values_work() -> None:
    class Deciding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            return y if float(y.detach().sum()) > 0 else 2 * y

    model, x = Deciding().double(), torch.randn(3, 2).double()
    rows = torch.cat([jacobian(model, one[None]) for one in x])
    torch.testing.assert_close(ntk(model, inputs=x), rows @ rows.T)


def test_attention_and_derivatives_from_within_other_modes() -> None:
    model, x = network("attention")
    wanted = ntk(model, inputs=x)
    with torch.no_grad():
        assert torch.equal(ntk(model, inputs=x), wanted)
    with torch.inference_mode():
        assert torch.equal(ntk(model, inputs=x).clone(), wanted)


def test_batch_normalization_in_training_mode_says_to_use_eval() -> None:
    model, x = network("residual")
    model.train()
    with pytest.raises(ValueError, match=r"'norm' is in training mode, .* call model\.eval\(\) first"):
        ntk(model, inputs=x)
    free = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval()
    with pytest.raises(ValueError, match=r"'1' has no running statistics.*track_running_stats=True"):
        ntk(free, inputs=torch.zeros(2, 2))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"reduce": "det"}, 'reduce must be "full", "trace" or "spectrum", not \'det\''),
        ({"outputs": "mean"}, 'outputs must be "each"'),
        ({"parameters": "some"}, 'parameters must be "trainable"'),
        ({"leading": 3}, "leading= .* belongs to reduce=\"spectrum\", not 'full'"),
        ({"reduce": "spectrum", "probes": 3}, "probes= .* belongs to reduce=\"trace\", not 'spectrum'"),
        ({"chunk": 0}, "chunk must be a whole number of at least 1, not 0"),
        ({"reduce": "trace", "probes": 1.5}, r"probes must be a whole number of at least 1, not 1\.5"),
        ({"reduce": "spectrum", "leading": 99}, "leading must be from 1 to 15, the size of the tangent kernel; got 99"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], match: str) -> None:
    model, x = network("mlp")
    with pytest.raises(ValueError, match=match):
        ntk(model, inputs=x, **arguments)


def test_outputs_without_a_batch_are_refused() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.layer(x)).mean()

    with pytest.raises(ValueError, match=r"output of shape \(\) for 3 samples; .* batch axis first"):
        ntk(Pooled(), inputs=torch.zeros(3, 2))
    with pytest.raises(TypeError, match="a tensor with a batch axis"):
        ntk(Pooled(), inputs=torch.tensor(1.0))


def test_leading_eigenvalues_need_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.sparse.linalg", None)
    given = example("mlp", samples=60)
    with pytest.raises(ImportError, match=r"pip install 'foreprune\[report\]'"):
        ntk(given.model, inputs=given.x, reduce="spectrum", leading=1)
