"""What modern networks are written with: each way is the sum over paths of a plain one, or of an enumeration."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from graph.sums.forwards import Network, assert_same_scores, scores
from torch import Tensor, nn
from torch.nn import functional as F

import foreprune
from foreprune import PathError
from foreprune.analysis.effective import effective_masks
from foreprune.analysis.path_kernel import path_kernel
from foreprune.analysis.path_sums import path_count, path_kernel_trace, path_norm
from foreprune.core.net import Net
from foreprune.core.task import as_inputs
from foreprune.graph import record_units

FLAT, TOKENS = torch.rand(3, 4), torch.rand(2, 5, 4)
N = 5


@pytest.fixture(autouse=True)
def _seed() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def parts() -> dict[str, nn.Module]:
    return {"a": nn.Linear(4, 6), "b": nn.Linear(4, 6), "head": nn.Linear(6, 2)}


def everywhere(network: nn.Module, *inputs: Tensor) -> None:
    """No reading of the paths refuses it, and weights of path sums, counts and kernels agree with one another."""
    count = path_count(network, inputs=inputs)
    whole = path_kernel(network, inputs=inputs)
    assert count.value == len(whole.rows)
    trace = path_kernel_trace(network, inputs=inputs).value
    assert whole.matrix is not None
    assert float(whole.matrix.trace()) == pytest.approx(trace)
    effective_masks(network, inputs=inputs)
    record_units(Net.of(network), as_inputs(inputs))


COMPOSED = {
    "addcmul": (lambda m, a, b: torch.addcmul(m.shift, m.scale, a), lambda m, a, b: a * m.scale + m.shift),
    "addcmul-value": (lambda m, a, b: torch.addcmul(b, m.scale, a, value=-3), lambda m, a, b: b + 3 * (a * m.scale)),
    "addcmul-in-place": (lambda m, a, b: a.addcmul_(m.scale, b), lambda m, a, b: a + b * m.scale),
    "addcmul-gate": (lambda m, a, b: torch.addcmul(a, b, torch.sigmoid(a)), lambda m, a, b: a + b),
    "addcdiv": (lambda m, a, b: torch.addcdiv(a, b, m.scale, value=2), lambda m, a, b: a + 2 * (b / m.scale)),
    "lerp": (lambda m, a, b: torch.lerp(a, b, 0.25), lambda m, a, b: 0.75 * a + 0.25 * b),
    "lerp-tensor": (lambda m, a, b: a.lerp(b, m.share), lambda m, a, b: a * (1 - m.share) + b * m.share),
    "lerp-in-place": (lambda m, a, b: a.lerp_(b, 0.5), lambda m, a, b: 0.5 * a + 0.5 * b),
    "addmm": (
        lambda m, a, b: torch.addmm(b, a, m.square, alpha=2, beta=3),
        lambda m, a, b: 3 * b + 2 * (a @ m.square),
    ),
    "baddbmm": (
        lambda m, a, b: torch.baddbmm(b[None], a[None], m.square[None], beta=0.5)[0],
        lambda m, a, b: 0.5 * b + a @ m.square,
    ),
    "addmv": (lambda m, a, b: torch.addmv(a[0], m.square, b[0])[None], lambda m, a, b: a[:1] + b[:1] @ m.square.T),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_operations_that_stand_for_several(name: str) -> None:
    one, other = COMPOSED[name]
    more = {"scale": torch.rand(6) + 0.5, "shift": torch.rand(6), "share": torch.rand(6), "square": torch.rand(6, 6)}
    learned = {key: nn.Parameter(value) if key != "share" else value for key, value in more.items()}
    for given in (more, learned):
        assert_same_scores(
            lambda m, x: m.head(one(m, m.a(x), m.b(x))),
            lambda m, x: m.head(other(m, m.a(x), m.b(x))),
            FLAT,
            **parts(),
            **given,
        )
    given = more if name == "addcdiv" else learned  # nothing grows with a weight that divides
    everywhere(Network(lambda m, x: m.head(one(m, m.a(x), m.b(x))), **parts(), **given).double(), FLAT.double())


def attention_parts() -> dict[str, Any]:
    closed = torch.ones(N, N).triu(1) > 0
    return {
        "q": nn.Linear(4, 4),
        "k": nn.Linear(4, 4),
        "v": nn.Linear(4, 4),
        "o": nn.Linear(4, 2),
        "bias": nn.Parameter(torch.randn(N, N)),
        "table": nn.Embedding(2 * N - 1, 1),
        "closed": torch.zeros(N, N).masked_fill(closed, -100.0),
        "distance": (torch.arange(N)[:, None] - torch.arange(N)) + N - 1,
        "mlp": nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1)),
        "coordinates": torch.linspace(-1, 1, N * N).view(N, N, 1),
        "relative": nn.Parameter(torch.randn(2 * N - 1, 4)),
    }


def plain_bias(m: Any) -> Tensor:
    bias: Tensor = m.bias
    return bias


def table_bias(m: Any) -> Tensor:
    return m.table(m.distance)[..., 0]


def mlp_bias(m: Any) -> Tensor:
    """On a constant that comes in the precision of nothing else."""
    bias: Tensor = m.mlp(m.coordinates.float())[..., 0]
    return bias


def masked_bias(m: Any) -> Tensor:
    return table_bias(m) + m.closed


BIASES = (plain_bias, table_bias, mlp_bias, masked_bias)


def fused(m: Any, x: Tensor, bias: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(m.q(x), m.k(x), m.v(x), attn_mask=bias)


def by_hand(m: Any, x: Tensor, bias: Tensor) -> Tensor:
    return ((m.q(x) @ m.k(x).mT) / 2 + bias).softmax(-1) @ m.v(x)


def in_place(m: Any, x: Tensor, bias: Tensor) -> Tensor:
    scores_ = m.q(x) @ m.k(x).mT
    scores_ += bias
    return F.softmax(scores_, dim=-1) @ m.v(x)


def added_product(m: Any, x: Tensor, bias: Tensor) -> Tensor:
    q, k = m.q(x), m.k(x)
    return torch.baddbmm(bias.expand(len(x), N, N), q, k.mT, alpha=0.5).softmax(-1) @ m.v(x)


@pytest.mark.parametrize("bias", BIASES, ids=lambda bias: bias.__name__)
@pytest.mark.parametrize("way", [fused, by_hand, in_place, added_product], ids=lambda way: way.__name__)
def test_a_learned_bias_of_attention_drops_out_and_masks_stay(way: Any, bias: Any) -> None:
    weight = torch.arange(1.0, N + 1)[None, :, None].double()

    def forward(m: Any, x: Tensor) -> Tensor:
        return (m.o(x + way(m, x, bias(m))) * weight).sum(1)

    def reference(m: Any, x: Tensor) -> Tensor:
        allowed = torch.ones(N, N, dtype=x.dtype)
        allowed = allowed.tril() if bias is masked_bias else allowed
        return (m.o(x + (allowed / allowed.sum(1, keepdim=True)) @ m.v(x)) * weight).sum(1)

    assert_same_scores(forward, reference, TOKENS, **attention_parts())
    everywhere(Network(forward, **attention_parts()).double(), TOKENS.double())


def test_a_learned_bias_of_the_attention_of_torch() -> None:
    attend = nn.MultiheadAttention(4, 2, batch_first=True)
    for closed in (False, True):
        mask = torch.zeros(N, N).masked_fill(torch.ones(N, N).triu(1) > 0, -math.inf if closed else 0.0)
        assert_same_scores(
            lambda m, x: m.o(m.attend(x, x, x, attn_mask=m.bias + m.mask)[0]),
            lambda m, x: m.o(m.attend(x, x, x, attn_mask=m.mask)[0]),
            TOKENS,
            attend=attend,
            mask=mask,
            **{name: part for name, part in attention_parts().items() if name in ("o", "bias")},
        )


def test_relative_positions_that_queries_and_keys_meet() -> None:
    """As in DeBERTa, XLNet and bottleneck transformers: scores against positions are gathered and added."""
    weight = torch.arange(1.0, N + 1)[None, :, None].double()

    def forward(m: Any, x: Tensor) -> Tensor:
        q, k = m.q(x), m.k(x)
        index = m.distance.expand(len(x), N, N)
        content = q @ k.mT
        for vector in (q, k):
            content = content + torch.gather(vector @ m.relative.T, -1, index)
        content = content + torch.einsum("bid,jd->bij", q, m.k(m.relative[:N]) - 1)
        return (m.o(x + content.softmax(-1) @ m.v(x)) * weight).sum(1)

    def reference(m: Any, x: Tensor) -> Tensor:
        return (m.o(x + m.v(x).mean(1, keepdim=True)) * weight).sum(1)

    assert_same_scores(forward, reference, TOKENS, **attention_parts())
    everywhere(Network(forward, **attention_parts()).double(), TOKENS.double())


def test_relative_positions_without_a_softmax_are_refused() -> None:
    for forward, message in (
        (lambda m, x: m.o(m.q(x) @ (m.relative[:4] - 1).T), "uses a weight that is recentered or re-signed"),
        (lambda m, x: m.q(x) @ (m.relative[:4] - 9).T, "uses a weight that is recentered or re-signed"),
        (lambda m, x: m.o((m.q(x) @ m.k(x).mT + x[..., :1])[..., :4]), "uses a product of two sums over paths"),
    ):
        network = Network(forward, **attention_parts())
        with pytest.raises(PathError, match=message):
            foreprune.score(network, "synflow", inputs=TOKENS, prunable=lambda name, parameter: parameter.dim() > 1)


def softmax_of_activations() -> dict[str, tuple[Any, Any]]:
    def scaled(m: Any, x: Tensor) -> Tensor:
        """Outlook attention: weights come from one token, and are reshaped before and after the softmax."""
        weights = m.w(x).view(len(x), N, 1, N).softmax(-1)
        return (weights.squeeze(2) @ m.v(x))[:, :, :]

    def pooled(m: Any, x: Tensor) -> Tensor:
        return m.w(x)[..., :1].transpose(1, 2).softmax(-1) @ m.v(x)

    def graph(m: Any, x: Tensor) -> Tensor:
        """Graph attention: scores of pairs are sums, and what is no edge is filled with something low."""
        x = m.v(x)
        pairs = F.leaky_relu(x[..., :1] + x[..., 1:2].transpose(1, 2))
        return torch.where(m.closed == 0, pairs, -9e15 * torch.ones_like(pairs)).softmax(-1) @ x

    def filled(m: Any, x: Tensor) -> Tensor:
        return m.w(x).masked_fill(m.closed < 0, -math.inf).softmax(-1) @ m.v(x)

    def linear(m: Any, x: Tensor) -> Tensor:
        """Efficient attention: two softmaxes."""
        return m.q(x).softmax(-1) @ (m.k(x).softmax(1).mT @ m.v(x))

    def causal(m: Any, x: Tensor) -> Tensor:
        allowed = torch.ones(N, N, dtype=x.dtype).tril()
        return (allowed / allowed.sum(1, keepdim=True)) @ m.v(x)

    def mean(m: Any, x: Tensor) -> Tensor:
        return m.v(x).mean(1, keepdim=True).expand(-1, N, -1)

    return {
        "outlook": (scaled, mean),
        "pooling": (pooled, lambda m, x: m.v(x).mean(1, keepdim=True)),
        "graph": (graph, causal),
        "filled": (filled, causal),
        "efficient": (linear, mean),
    }


@pytest.mark.parametrize("name", softmax_of_activations())
def test_a_softmax_of_activations_is_uniform_attention(name: str) -> None:
    one, other = softmax_of_activations()[name]
    weight = torch.arange(1.0, N + 1)[None, :, None].double()
    given = {**attention_parts(), "w": nn.Linear(4, N)}

    def network(way: Any) -> Any:
        return lambda m, x: (m.o(way(m, x)) * weight).sum(1)

    assert_same_scores(network(one), network(other), TOKENS, **given)
    everywhere(Network(network(one), **given).double(), TOKENS.double())


def test_a_filled_maximum_over_tokens_is_no_attention() -> None:
    """What is filled with something low before a maximum was closed, not scored."""
    closed = torch.tensor([False, True, True, False, True])
    assert_same_scores(
        lambda m, x: m.head(m.a(x).masked_fill(m.closed[:, None], -math.inf).amax(1)),
        lambda m, x: m.head(m.a(x)[:, [0, 3]].amax(1)),
        TOKENS,
        **parts(),
        closed=closed,
    )


def two_towers(m: Any, x: Tensor, y: Tensor) -> Tensor:
    left, right = m.a(x), m.c(F.relu(m.b(y)))
    left, right = left / left.norm(dim=-1, keepdim=True), right / right.norm(dim=-1, keepdim=True)
    return (left @ right.t() * m.temperature.exp() + m.shift).t()


def towers() -> Network:
    torch.manual_seed(1)
    return Network(
        two_towers,
        a=nn.Linear(3, 2),
        b=nn.Linear(2, 3),
        c=nn.Linear(3, 2),
        temperature=nn.Parameter(torch.ones(())),
        shift=nn.Parameter(torch.ones(())),
    ).double()


def test_two_towers_that_meet_in_a_product() -> None:
    """CLIP: a path is a pair of paths that end in the same entry of the two embeddings."""
    network, x, y = towers(), torch.ones(2, 3).double(), torch.ones(2, 2).double()
    a, b, c = (getattr(network, name).weight.detach().abs() for name in "abc")
    wanted = {"a.weight": torch.zeros_like(a), "b.weight": torch.zeros_like(b), "c.weight": torch.zeros_like(c)}
    pairs = 0
    for i, e, h, j in itertools.product(range(3), range(2), range(3), range(2)):
        value = a[e, i] * c[e, h] * b[h, j]
        wanted["a.weight"][e, i] += value
        wanted["b.weight"][h, j] += value
        wanted["c.weight"][e, h] += value
        pairs += 1
    found = scores(network, x, y)
    factor = float(found["a.weight"].sum() / wanted["a.weight"].sum())
    for name, score in found.items():
        torch.testing.assert_close(score, wanted[name] * factor)
    assert path_count(network, inputs=(x, y)).value == pairs
    assert path_norm(network, inputs=(x, y)).value == pytest.approx(float(wanted["a.weight"].sum()))
    assert effective_masks(network, inputs=(x, y)).density == 1
    walked = foreprune.prune(network, "phew", density=1.0, inputs=(x, y))
    assert walked.kept == walked.total
    assert len(path_kernel(network, inputs=(x, y), leading=2).eigenvalues) == 2
    with pytest.raises(PathError, match="cannot be listed one by one"):
        path_kernel(network, inputs=(x, y))
    with pytest.raises(ValueError, match="px needs a network whose outputs belong to samples"):
        foreprune.prune(network, "px", density=0.5, data=((x, y), torch.zeros(2)))


def test_a_product_of_scores_is_no_output() -> None:
    network = Network(lambda m, x: m.a(x) @ m.b(x).mT @ m.a(x), **parts())
    with pytest.raises(PathError, match=r"the output does not depend on the inputs.*a product of two sums"):
        scores(network, TOKENS)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::foreprune.core.normalized.KeptForNorm")
@pytest.mark.parametrize("normalize", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_weight_normalization_is_a_scale(normalize: Any, dim: int) -> None:
    """As in wav2vec 2.0: g / |v| is a constant, and v has the scores of the normalized weight."""
    torch.manual_seed(0)
    layer = nn.Conv1d(2, 3, 3, padding=1)
    network = nn.Sequential(normalize(layer, dim=dim), nn.ReLU(), nn.Conv1d(3, 2, 3)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(torch.rand_like(parameter) + 0.5)
    weight = network[0].weight.detach() if hasattr(network[0], "parametrizations") else None
    if weight is None:
        network(torch.zeros(1, 2, 7).double())
        weight = network[0].weight.detach()
    plain = nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv1d(3, 2, 3)).double()
    with torch.no_grad():
        plain[0].weight.copy_(weight)
        plain[2].weight.copy_(network[2].weight)
    x = torch.zeros(1, 2, 7).double()
    direction = next(name for name, value in network.named_parameters() if value.shape == (3, 2, 3))
    names = [direction, "2.weight"]
    for method, form in (("synflow", {}), ("synflow-l2", {"form": "theta2"})):
        found = foreprune.score(network, method, inputs=x, prunable=lambda name, _: name in names, **form)
        wanted = foreprune.score(plain, method, inputs=x, **form)
        one, other = found[direction] / found["2.weight"].sum(), wanted["0.weight"] / wanted["2.weight"].sum()
        torch.testing.assert_close(one, other)
    assert path_norm(network, inputs=x).value == pytest.approx(path_norm(plain, inputs=x).value)
    assert path_count(network, inputs=x) == path_count(plain, inputs=x)
    assert path_kernel_trace(network, inputs=x).value is not None
    masks = foreprune.prune(network, "phew", density=0.5, inputs=x, prunable=lambda name, _: name in names)
    assert masks.kept >= masks.total // 2


def test_copies_and_sums_over_edges() -> None:
    """`copy_`, and messages along the edges of a graph: sums over neighbors, as a product with the adjacency."""
    source, target = torch.tensor([0, 1, 2, 3, 4, 4]), torch.tensor([1, 2, 3, 4, 0, 1])
    adjacency = torch.zeros(N, N).index_put((target, source), torch.ones(6))

    def copied(m: Any, x: Tensor) -> Tensor:
        h = torch.empty(x.shape[0], N, 6, dtype=x.dtype)
        h.copy_(m.a(x))
        return m.head(h)

    assert_same_scores(copied, lambda m, x: m.head(m.a(x)), TOKENS, **parts())
    reference = lambda m, x: m.head(m.adjacency @ F.relu(m.a(x)))  # noqa: E731
    index = target[:, None].expand(6, 6)
    for way in (
        lambda h: torch.zeros(h.shape[0], N, 6).index_add(1, target, h[:, source]),
        lambda h: torch.zeros(h.shape[0], N, 6, dtype=h.dtype).index_add_(1, target, h[:, source]),
        lambda h: torch.zeros_like(h).scatter_add_(1, index.expand(h.shape[0], 6, 6), h[:, source]),
    ):
        forward = lambda m, x: m.head(way(F.relu(m.a(x))))  # noqa: E731, B023
        assert_same_scores(forward, reference, TOKENS, **parts(), adjacency=adjacency)
        everywhere(Network(forward, **parts(), adjacency=adjacency).double(), TOKENS.double())


def test_routers_and_scans_are_refused_in_words() -> None:
    def router(m: Any, x: Tensor) -> Tensor:
        weights, chosen = m.a(x).softmax(-1).topk(2)
        return m.head(torch.zeros(len(x), 6).scatter(1, chosen, weights))

    def scan(m: Any, x: Tensor) -> Tensor:
        return m.head(torch.exp(-m.a(x)) * m.a(x) + m.a(x) * m.b(x))

    for forward, message in (
        (router, r"topk in module .* has no meaning for paths: it picks by value, as routers of experts do.*'snip'"),
        (scan, r"multiplies two sums over paths, which has no meaning for paths \(state-space scans and .*'snip'"),
    ):
        with pytest.raises(PathError, match=message):
            scores(Network(forward, **parts()), FLAT)


# --- networks of graphs, whose inputs have no batch axis --------------------------------------------------------------

NODES, EDGES = torch.rand(N, 4), torch.tensor([[0, 1, 2, 3, 4, 4], [1, 2, 3, 4, 0, 1]])


def adjacency() -> Tensor:
    return torch.zeros(N, N).index_put((EDGES[1], EDGES[0]), torch.tensor([1.0, -0.5, 1.0, 2.0, 1.0, 1.0]))


def gcn(m: Any, x: Tensor, a: Tensor) -> Tensor:
    output: Tensor = m.head(a @ F.relu(a @ m.a(x)))
    return output


def messages(m: Any, x: Tensor, edges: Tensor) -> Tensor:
    """As message passing is written over lists of edges."""
    source, target = edges
    for layer in (m.a, m.b):
        h = layer(x)
        x = torch.cat([torch.zeros_like(h).index_add_(0, target, h[source])[:, :4], h[:, :0]], 1)
    output: Tensor = m.head(torch.cat([x, x[:, :2]], 1))
    return output


def test_a_graph_convolution_is_a_product_with_the_size_of_the_adjacency() -> None:
    """A path goes from an entry of a node to an entry of another, along edges, with their |weight|."""
    a, x = adjacency().double(), NODES.double()
    network = Network(gcn, **{name: part for name, part in parts().items() if name != "b"}).double()
    weights = {"a.weight": network.a.weight.detach().abs(), "head.weight": network.head.weight.detach().abs()}
    first, last = weights["a.weight"].requires_grad_(), weights["head.weight"].requires_grad_()
    total = (a.abs() @ a.abs() @ torch.ones_like(x) @ first.T @ last.T).sum()
    total.backward()
    for given in ((x, a), (x, a.to_sparse())):
        found = scores(network, *given)
        factor = float(found["head.weight"].sum() / total.detach())
        for name, weight in weights.items():
            torch.testing.assert_close(found[name], (weight * weight.grad).detach() * factor)
        assert path_norm(network, inputs=given).value == pytest.approx(float(total.detach()))
        assert path_count(network, inputs=given).value == int(((a != 0).double() @ (a != 0).double()).sum()) * 4 * 6 * 2
        assert path_kernel_trace(network, inputs=given).value is not None
        assert foreprune.prune(network, "phew", density=0.5, inputs=given).kept >= 18
    everywhere(network, x, a)
    stored = Network(lambda m, nodes: gcn(m, nodes, m.edges), a=network.a, head=network.head, edges=a).double()
    torch.testing.assert_close(scores(stored, x), scores(network, x, a))


def test_messages_along_a_list_of_edges() -> None:
    network = Network(messages, **parts()).double()
    network.b = nn.Linear(4, 6).double()
    found = scores(network, NODES.double(), EDGES)
    reference = Network(
        lambda m, x, a: m.head(torch.cat([h := a @ m.b((a @ m.a(x))[:, :4]), h], 1)[:, [0, 1, 2, 3, 0, 1]]), **parts()
    ).double()
    reference.load_state_dict(network.state_dict())
    ones = (adjacency() != 0).double()
    wanted = scores(reference, NODES.double(), ones)
    for name in found:
        one, other = found[name] / found["head.weight"].sum(), wanted[name] / wanted["head.weight"].sum()
        torch.testing.assert_close(one, other)
    assert foreprune.prune(network, "phew", density=0.5, inputs=(NODES.double(), EDGES), gates="score").kept >= 1


def test_inputs_that_no_forward_takes_raise_what_it_raises() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        scores(Network(lambda m, x: m.head(m.a(x)), **parts()), torch.rand(3, 9))


def test_attention_biases_that_a_module_caches_are_its_own() -> None:
    """As in LeViT: what a scoring pass computes must not stay, nor what was there before be met."""

    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.randn(N))
            self.bias_cache: dict[str, Tensor] = {}
            self.v = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            if "cpu" not in self.bias_cache:
                self.bias_cache["cpu"] = self.bias[torch.arange(N)]
            weights = F.scaled_dot_product_attention(x, x, self.v(x), attn_mask=self.bias_cache["cpu"].expand(N, N))
            return weights.mean(1)

    network = Cached().eval()
    network(TOKENS)
    kept = network.bias_cache["cpu"]
    for method in ("synflow", "snip"):
        foreprune.score(
            network, method, inputs=TOKENS, **({"data": (TOKENS, torch.zeros(2).long())} if method == "snip" else {})
        )
        assert list(network.bias_cache) == ["cpu"]
        assert network.bias_cache["cpu"] is kept
    foreprune.score(network, "px", data=TOKENS)
    network.bias_cache.clear()
    foreprune.score(network, "synflow", inputs=TOKENS)
    assert not network.bias_cache
