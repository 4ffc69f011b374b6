"""What has no meaning for paths is refused, by name of operation and module; nothing is dropped in silence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from graph.sums.forwards import Network, assert_same_scores, scores
from torch import Tensor, nn
from torch.nn import functional as F

import foreprune
from foreprune import PathError
from foreprune.core.net import Net
from foreprune.core.task import Inputs
from foreprune.graph import PathGraph

FLAT = torch.rand(3, 4)
TOKENS = torch.rand(2, 5, 4)


class Own(torch.autograd.Function):
    """Swish with a derivative of its own, as memory-saving implementations have."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(x)
        return gradient * gate * (1 + x * (1 - gate))


class Outside(torch.autograd.Function):
    """Computed by NumPy: no torch function sees it happen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.from_numpy(np.maximum(x.detach().numpy(), 0))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def parts() -> dict[str, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {"a": nn.Linear(4, 6), "b": nn.Linear(4, 6), "c": nn.Linear(4, 4), "head": nn.Linear(6, 2)}


def refused(function: Any, message: str, *inputs: Tensor, **more: nn.Module) -> None:
    network = Network(function, **parts(), **more)
    with pytest.raises(PathError, match=message) as caught:
        scores(network, *(inputs or (FLAT,)))
    assert "'snip'" in str(caught.value)
    assert isinstance(caught.value, ValueError)


SCRIPTED = """
def gate(x):
    # type: (Tensor) -> Tensor
    return torch.sigmoid(x)
"""


@pytest.mark.filterwarnings("ignore")  # scripting is deprecated; models that use it are not gone
def scripted() -> Any:
    return torch.jit.CompilationUnit(SCRIPTED).gate


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.head(m.a(x) + Own.apply(m.b(x))),
        lambda m, x: m.head(Own.apply(m.a(x))),
        lambda m, x: m.head(torch.cat([m.a(x)[:, :3], Own.apply(m.b(x))[:, :3]], 1)),
        lambda m, x: m.head(m.a(Own.apply(x)) + m.b(x)),
        lambda m, x: m.head(m.a(x + Own.apply(x))),
    ],
)
def test_custom_autograd_functions_of_torch_functions(function: Any) -> None:
    refused(function, "the custom autograd function 'Own' has a derivative of its own, which has no meaning for paths")


JOINED = "joins the paths with a tensor that was computed from the inputs, but not by torch functions"


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda m, x: m.head(m.a(x) + Outside.apply(m.b(x))), "torch.Tensor.add in module"),
        (lambda m, x: m.head(m.a(x) * Outside.apply(m.b(x))), "torch.Tensor.mul in module"),
        (lambda m, x: m.head(m.a(x) / Outside.apply(m.b(x))), "torch.Tensor.div in module"),
        (lambda m, x: m.head(m.a(x).mul_(Outside.apply(m.b(x)))), "torch.Tensor.mul_ in module"),
        (lambda m, x: m.head(m.a(x).add_(Outside.apply(m.b(x)))), "torch.Tensor.add_ in module"),
        (lambda m, x: m.head(torch.stack([m.a(x), Outside.apply(m.b(x))]).sum(0)), "torch.stack in module"),
        (lambda m, x: m.head(torch.where(x[:, :1] > 0, m.a(x), Outside.apply(m.b(x)))), "torch.where in module"),
        (lambda m, x: m.head(m.a(m.c(x) + Outside.apply(x))), "torch.Tensor.add in module"),
        (lambda m, x: F.linear(m.a(x), Outside.apply(m.b(x))), "torch.nn.functional.linear in module"),
        (lambda m, x: m.a(x) @ Outside.apply(m.b(x)).T, "torch.Tensor.matmul in module"),
    ],
)
def test_branches_computed_outside_torch_functions(function: Any, operation: str) -> None:
    refused(function, f"{operation}.*{JOINED}")


def test_a_gate_that_is_scripted() -> None:
    gate = scripted()
    refused(lambda m, x: m.head(m.a(x) * gate(m.b(x))), f"torch.Tensor.mul in module.*{JOINED}")
    refused(lambda m, x: m.head(gate(m.a(x))), "the output does not depend on the inputs through operations that paths")


def test_the_whole_network_outside_torch_functions() -> None:
    refused(lambda m, x: m.head(Outside.apply(m.a(x))), "the output does not depend on the inputs")
    refused(lambda m, x: m.head(torch.ones(1, 6)), "the output does not depend on the inputs")
    refused(lambda m, x: m.a(x) @ m.b(x).T @ m.a(x), "the output does not depend on the inputs.*a product of two sums")


def test_integer_features_are_not_followed() -> None:
    refused(
        lambda m, ids: m.a(F.one_hot(ids, 4).float()),
        "from constants or integers only",
        torch.ones(1, 3, dtype=torch.long),
    )


@pytest.mark.parametrize(
    "product",
    [
        lambda a, b: a * b,
        lambda a, b: a.mul(b),
        lambda a, b: a.mul_(b),
        lambda a, b: torch.multiply(F.relu(a), F.relu(b)),
        lambda a, b: torch.sigmoid(a) * torch.tanh(b),
        lambda a, b: a * a,
    ],
)
def test_products_of_two_sums_name_the_operation_and_the_module(product: Any) -> None:
    class Product(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            result: Tensor = product(a, b)
            return result

    refused(
        lambda m, x: m.head(m.inner(m.a(x), m.b(x))),
        r"torch.*mul.* in module 'inner' \(Product\) multiplies two sums over paths, which has no meaning for paths",
        inner=Product(),
    )


NO_SOFTMAX = (
    r"torch.nn.functional.linear in module 'o' \(Linear\) uses a product of two sums over paths \(attention scores"
)


@pytest.mark.parametrize(
    "attend",
    [
        lambda q, k, v: (q @ k.mT) @ v,
        lambda q, k, v: F.relu(q @ k.mT) @ v,
        lambda q, k, v: torch.sigmoid(q @ k.mT / 2) @ v,
        lambda q, k, v: torch.einsum("bid,bjd->bij", [q, k])[..., :4],
        lambda q, k, v: torch.bmm(q, k.mT)[..., :4] * 3,
        lambda q, k, v: torch.einsum("bid,bje,bje->bid", q, k, v),
    ],
)
def test_attention_without_a_softmax_is_no_branch_of_zeros(attend: Any) -> None:
    refused(
        lambda m, x: m.h((x + m.o(attend(m.c(x), m.k(x), m.v(x)))).mean(1)),
        NO_SOFTMAX,
        TOKENS,
        k=nn.Linear(4, 4),
        v=nn.Linear(4, 4),
        o=nn.Linear(4, 4),
        h=nn.Linear(4, 2),
    )


def test_scores_added_to_activations() -> None:
    refused(
        lambda m, x: m.head((x + x @ x.mT @ x).mean(1)),
        "torch.Tensor.add in module.*adds attention scores to activations",
        TOKENS,
    )


def test_weights_that_are_recentered_or_computed_from_inputs() -> None:
    refused(
        lambda m, x: F.linear(F.relu(m.a(x)), m.head.weight - m.head.weight.mean(1, keepdim=True)),
        r"torch.nn.functional.linear in module '\(the model itself\)' \(Network\) uses a weight that is recen",
    )
    refused(lambda m, x: F.linear(x, m.c(x[:, :4])), "linear.*computes its weight from the inputs")

    class Standardized(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x, weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5))

    network = nn.Sequential(Standardized(2, 3, 3), nn.Flatten(), nn.Linear(27, 2))
    with pytest.raises(PathError, match=r"conv2d in module '0' \(Standardized\) uses a weight that is recentered"):
        scores(network, torch.rand(1, 2, 5, 5))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: F.linear(F.normalize(m.a(x)), F.normalize(m.head.weight)),
        lambda m, x: F.linear(m.a(x), m.head.weight / m.head.weight.norm()),
        lambda m, x: F.linear(m.a(x), m.head.weight.softmax(1)),
    ],
)
def test_weights_that_are_normalized_before_use(function: Any) -> None:
    """Then w dR/dw adds up to zero: such scores would prune half of the layer for no reason."""
    refused(function, "the sum over paths falls where 'head.weight' grows, .*cosine classifier")


@pytest.mark.parametrize(("kind", "operation"), [(nn.LSTM, "lstm"), (nn.GRU, "gru"), (nn.RNN, "rnn_tanh")])
def test_recurrent_layers(kind: type[nn.Module], operation: str) -> None:
    refused(
        lambda m, x: m.head(m.cells(x)[0].mean(1)),
        rf"torch.{operation} in module 'cells' \({kind.__name__}\) has no meaning for paths",
        TOKENS,
        cells=kind(4, 6, batch_first=True),
    )


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda m, x: m.head(torch.fft.fft(m.a(x)).real), r"torch.fft.fft"),
        (lambda m, x: m.head(m.a(x).sort(dim=1)[0]), "torch.Tensor.sort"),
        (lambda m, x: m.head(torch.minimum(m.a(x), m.b(x))), "torch.minimum"),
        (lambda m, x: m.head(torch.cross(m.a(x)[:, :3], m.b(x)[:, :3], dim=1).repeat(1, 2)), "torch.cross"),
        (lambda m, x: F.bilinear(m.a(x), m.b(x), torch.ones(2, 6, 6)), "bilinear"),
    ],
)
def test_unknown_operations(function: Any, operation: str) -> None:
    refused(function, f"{operation} in module .* has no meaning for paths")


def test_attending_to_constants() -> None:
    refused(
        lambda m, x: m.head(F.scaled_dot_product_attention(m.a(x), m.a(x), torch.ones(2, 5, 6)).mean(1)),
        "scaled_dot_product_attention in module .* attends to constant values",
        TOKENS,
    )
    refused(
        lambda m, x: m.h(m.attention(x, torch.ones(1, 3, 4), torch.ones(1, 3, 4))[0].mean(1)),
        r"multi_head_attention_forward in module 'attention' \(MultiheadAttention\) attends to constant values",
        TOKENS,
        attention=nn.MultiheadAttention(4, 2, batch_first=True),
        h=nn.Linear(4, 2),
    )


def test_values_that_decide_nothing_about_paths_are_allowed() -> None:
    """Sizes, comparisons, indices and numbers taken out of tensors are not activations."""

    def curious(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        assert h.shape == (x.size(0), 6)
        assert h.dim() == 2
        assert float(h.detach().max()) >= 0
        assert h.max().item() >= 0
        assert not torch.isnan(h).any()
        h.argmax(dim=1)
        if bool((h > -1).all()):
            h = h[:, torch.arange(5, -1, -1)].flip(1)
        output: Tensor = m.head(h)
        return output

    assert_same_scores(curious, lambda m, x: m.head(m.a(x)), FLAT, **parts())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(bad: float) -> None:
    network = Network(lambda m, x: m.head(m.a(x)), **parts())
    with torch.no_grad():
        network.a.weight[0, 0] = bad
    with pytest.raises(ValueError, match="the sum over paths is not finite: look for NaN or infinite weights"):
        scores(network, FLAT)


def test_mean_images_that_cannot_be() -> None:
    network = Network(lambda m, x: m.head(m.a(x)), **parts())
    two = Network(lambda m, x, y: m.head(m.a(x) + m.b(y)), **parts())
    for image, message in (
        (torch.ones(5), r"the mean image must have the shape of one input, \(4,\), not \(5,\)"),
        (-torch.ones(4), r"the mean image has negative entries \(smallest -1\).*raw pixels in \[0, 1\]"),
        (torch.full((4,), float("nan")), "mean_image must be a tensor of finite numbers"),
        ([1.0] * 4, "mean_image must be a tensor of finite numbers, of the shape of one input"),
    ):
        with pytest.raises(ValueError, match=message):
            foreprune.score(network, "synflow-dist", inputs=FLAT, mean_image=image)
    with pytest.raises(ValueError, match="a mean image needs a network with exactly one input tensor"):
        foreprune.score(two, "synflow-dist", inputs=(FLAT, FLAT), mean_image=torch.ones(4))
    with pytest.raises(ValueError, match=r"'synflow-.*' needs the mean image of the data: pass mean_image="):
        foreprune.score(network, "synflow-dist", inputs=FLAT)
    with pytest.raises(ValueError, match="the mean image has negative entries"):
        foreprune.score(network, "synflow-dist", data=(FLAT - 1, torch.zeros(3)))
    tokens = Network(lambda m, ids: m.a(m.table(ids)), table=nn.Embedding(3, 4), **parts())
    ids = torch.ones(1, 2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"a mean image needs floating inputs, and this network's are torch.int64"):
        foreprune.score(tokens, "synflow-l2-dist", inputs=ids, mean_image=torch.ones(2))


@pytest.mark.filterwarnings("ignore::foreprune.LayerCollapse")
def test_methods_that_follow_the_real_network_take_what_paths_cannot() -> None:
    network = Network(lambda m, x: m.head(Own.apply(m.a(x)) * m.b(x)), **parts())
    masks = foreprune.prune(network, "snip", density=0.5, data=(FLAT, torch.tensor([0, 1, 0])))
    assert masks.kept == round(0.5 * masks.total)


def test_a_failed_run_leaves_no_function_mode_behind() -> None:
    refused(lambda m, x: m.head(m.a(x) * m.b(x)), "multiplies two sums")
    assert torch.overrides._get_current_function_mode_stack() == []
    net = Net.of(nn.Linear(2, 2))
    found = PathGraph(net, Inputs((torch.zeros(1, 2),))).sum(net.weights)
    assert not hasattr(net.module.weight, "_foreprune_flow")
    assert not found.value.requires_grad
