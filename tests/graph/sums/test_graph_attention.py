"""Attention is uniform over what the mask lets through; all ways to write it agree with one another."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from graph.sums.forwards import Network, assert_same_scores, scores
from torch import Tensor, nn
from torch.nn import functional as F

N, C, H = 5, 8, 2
TOKENS = torch.rand(2, N, 4)
CAUSAL = torch.ones(N, N, dtype=torch.bool).tril()


@pytest.fixture(autouse=True)
def _seed() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def parts() -> dict[str, nn.Module | Tensor]:
    attention = nn.MultiheadAttention(C, H, batch_first=True)
    for bias in (attention.in_proj_bias, attention.out_proj.bias):  # torch draws them as zeros
        nn.init.normal_(bias)
    return {
        "embed": nn.Linear(4, C),
        "attention": attention,
        "head": nn.Linear(C, 3),
        "bias": torch.zeros(N, N).masked_fill(~CAUSAL, -math.inf),
    }


def qkv(m: Any, x: Tensor) -> Tensor:
    """(3, batch, head, token, channel) from the module's packed projection."""
    b, n, _ = x.shape
    packed = F.linear(x, m.attention.in_proj_weight, m.attention.in_proj_bias)
    return packed.reshape(b, n, 3, H, C // H).permute(2, 0, 3, 1, 4)


def merged(m: Any, heads: Tensor) -> Tensor:
    output: Tensor = m.attention.out_proj(heads.transpose(1, 2).reshape(heads.shape[0], -1, C))
    return output


def weighted_read(m: Any, x: Tensor) -> Tensor:
    """A read-out that tells tokens apart."""
    weights = torch.arange(1, N + 1, dtype=x.dtype)[None, :, None]
    output: Tensor = m.head((x * weights).sum(1))
    return output


def by_module(m: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
    return m.attention(x, x, x, attn_mask=mask, need_weights=False)[0]


def by_module_with_weights(m: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
    return m.attention(x, x, x, attn_mask=mask, need_weights=True)[0]


def by_function(m: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
    q, k, v = qkv(m, x)
    return merged(m, F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else ~mask))


def by_hand(m: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
    q, k, v = qkv(m, x).unbind(0)
    scores_ = q @ k.transpose(-2, -1) / math.sqrt(C // H)
    if mask is not None:
        scores_ = scores_.masked_fill(mask, -math.inf)
    return merged(m, scores_.softmax(dim=-1) @ v)


def by_einsum(m: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
    q, k, v = qkv(m, x).unbind(0)
    scores_ = torch.einsum("bhid,bhjd->bhij", [q * (C // H) ** -0.5, k])
    if mask is not None:
        scores_ = scores_ + torch.zeros(N, N, dtype=x.dtype).masked_fill(mask, -1e30)
    return merged(m, torch.einsum("bhij,bhjd->bhid", F.dropout(F.softmax(scores_, dim=-1), 0.0), v))


def uniform(m: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """What it amounts to: averages of values, no queries or keys."""
    v = qkv(m, x)[2]
    allowed = torch.ones(N, N, dtype=x.dtype) if mask is None else (~mask).to(x.dtype)
    return merged(m, (allowed / allowed.sum(1, keepdim=True)) @ v)


WAYS = (by_module, by_module_with_weights, by_function, by_hand, by_einsum)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_ways_to_write_attention_agree(way: Any, masked: bool) -> None:
    mask = ~CAUSAL if masked else None

    def network(attend: Any) -> Any:
        def forward(m: Any, x: Tensor) -> Tensor:
            x = m.embed(x)
            return weighted_read(m, x + attend(m, x, mask))

        return forward

    found = assert_same_scores(network(way), network(uniform), TOKENS, **parts())
    queries_and_keys, values = found["attention.in_proj_weight"].split([2 * C, C])
    assert not queries_and_keys.any()
    assert values.all()
    assert found["attention.out_proj.weight"].all()


MASKING = {
    "added-before-scaling": lambda s, m: (s + m.bias) * 0.5,
    "added-after-scaling": lambda s, m: s * 0.5 + m.bias,
    "divided-after-masking": lambda s, m: (s + m.bias) / 2.0,
    "added-in-place": lambda s, m: s.add_(m.bias),
    "multiplied-in-place": lambda s, m: (s + m.bias).mul_(0.5),
    "masked-fill": lambda s, m: s.masked_fill(~CAUSAL, float("-inf")),
    "masked-fill-in-place": lambda s, m: s.masked_fill_(~CAUSAL, float("-inf")),
    "where": lambda s, m: torch.where(CAUSAL, s, torch.tensor(-math.inf, dtype=s.dtype)),
    "subtracted": lambda s, m: s - 1e30 * (~CAUSAL).to(s.dtype),
    "from-right": lambda s, m: m.bias + s,
    "index": lambda s, m: _index(s),
    "statements": lambda s, m: _statements(s, m.bias),
    "capped": lambda s, m: 30 * torch.tanh(s / 30) + m.bias,
    "relative-positions": lambda s, m: s + torch.arange(N, dtype=s.dtype) * 0.1 * 0 + m.bias,
    "learned-temperature": lambda s, m: s * m.temperature.exp() + m.bias,
}


def _index(s: Tensor) -> Tensor:
    s[..., ~CAUSAL] = -math.inf
    return s


def _statements(s: Tensor, bias: Tensor) -> Tensor:
    """What an operation in place returns is not used; the tensor it changed is."""
    s.mul_(0.5)
    s.add_(bias)
    s.masked_fill_(~CAUSAL, -1e30)
    return s


@pytest.mark.parametrize("masking", MASKING)
def test_ways_to_mask_attention_agree(masking: str) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.embed(x)
        q, k, v = qkv(m, x).unbind(0)
        return weighted_read(m, x + merged(m, MASKING[masking](q @ k.mT, m).softmax(-1) @ v))

    def reference(m: Any, x: Tensor) -> Tensor:
        x = m.embed(x)
        return weighted_read(m, x + uniform(m, x, ~CAUSAL))

    assert_same_scores(forward, reference, TOKENS, **parts(), temperature=nn.Parameter(torch.ones(())))


def test_is_causal_grouped_queries_and_dropout_of_the_fused_attention() -> None:
    def fused(**kwargs: Any) -> Any:
        def forward(m: Any, x: Tensor) -> Tensor:
            x = m.embed(x)
            q, k, v = qkv(m, x)
            return weighted_read(m, x + merged(m, F.scaled_dot_product_attention(q, k, v, **kwargs)))

        return forward

    def reference(m: Any, x: Tensor) -> Tensor:
        x = m.embed(x)
        return weighted_read(m, x + uniform(m, x, ~CAUSAL))

    assert_same_scores(fused(is_causal=True), reference, TOKENS, **parts())
    assert_same_scores(fused(is_causal=True, dropout_p=0.5, scale=3.0), reference, TOKENS, **parts())
    assert_same_scores(fused(attn_mask=CAUSAL, dropout_p=0.9), reference, TOKENS, **parts())

    def positional(m: Any, x: Tensor) -> Tensor:
        x = m.embed(x)
        q, k, v = qkv(m, x)
        return weighted_read(m, x + merged(m, F.scaled_dot_product_attention(q, k, v, CAUSAL, 0.9)))

    assert_same_scores(positional, reference, TOKENS, **parts())


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_transformer_layer_of_torch(norm_first: bool, training: bool) -> None:
    """In evaluation mode torch takes a fused path of its own, which must not be taken here."""

    def written(m: Any, x: Tensor) -> Tensor:
        x = m.embed(x)
        layer = m.layer
        x = x + layer.self_attn(x, x, x, need_weights=False)[0]
        return weighted_read(m, x + layer.linear2(F.relu(layer.linear1(x))))

    layer = nn.TransformerEncoderLayer(C, H, 12, dropout=0.4, batch_first=True, norm_first=norm_first).train(training)
    assert_same_scores(
        lambda m, x: weighted_read(m, m.layer(m.embed(x))),
        written,
        TOKENS,
        embed=nn.Linear(4, C),
        layer=layer,
        head=nn.Linear(C, 3),
    )


def test_cross_attention_with_separate_projections() -> None:
    network = Network(
        lambda m, x, memory: m.head(m.attention(m.embed(x), memory, memory)[0].mean(1)),
        embed=nn.Linear(4, C),
        attention=nn.MultiheadAttention(C, H, kdim=6, vdim=6, batch_first=True),
        head=nn.Linear(C, 3),
    ).double()
    found = scores(network, TOKENS.double(), torch.rand(2, 7, 6).double())
    assert not found["embed.weight"].any()
    assert not found["attention.q_proj_weight"].any()
    assert not found["attention.k_proj_weight"].any()
    total = float(found["head.weight"].sum())
    assert total > 0
    assert float(found["attention.v_proj_weight"].sum()) == pytest.approx(total)


def test_learned_extra_keys_and_values_are_constants() -> None:
    """`add_bias_kv` appends a learned token: no path begins there, and attention is uniform over the real ones."""

    def through(m: Any, x: Tensor) -> Tensor:
        x = m.embed(x)
        return weighted_read(m, x + m.extended(x, x, x)[0])

    modules = parts()
    plain, extended = modules["attention"], nn.MultiheadAttention(C, H, batch_first=True, add_bias_kv=True)
    extended.in_proj_weight, extended.out_proj = plain.in_proj_weight, plain.out_proj
    assert_same_scores(
        through,
        lambda m, x: weighted_read(m, m.embed(x) + by_module(m, m.embed(x))),
        TOKENS,
        **modules,
        extended=extended,
    )


def test_sequence_first_and_padding() -> None:
    padding = torch.tensor([[False] * 3 + [True] * 2])

    def module(m: Any, x: Tensor) -> Tensor:
        x = m.embed(x).transpose(0, 1)
        return m.head(m.attention(x, x, x, key_padding_mask=padding)[0].mean(0))

    def reference(m: Any, x: Tensor) -> Tensor:
        v = F.linear(m.embed(x)[:, :3], m.attention.in_proj_weight[2 * C :]).mean(1)
        return m.head(m.attention.out_proj(v))

    assert_same_scores(
        module, reference, TOKENS, embed=nn.Linear(4, C), attention=nn.MultiheadAttention(C, H), head=nn.Linear(C, 3)
    )


def test_a_masked_language_model_with_masks_computed_from_the_inputs() -> None:
    """Three idioms of model libraries for turning an attention mask of ones and zeros into a bias."""

    def forward(idiom: Any) -> Any:
        def run(m: Any, ids: Tensor, attention_mask: Tensor) -> Tensor:
            x = m.table(ids) + m.positions(attention_mask.cumsum(1) - 1)
            q, k, v = qkv(m, x).unbind(0)
            return weighted_read(m, x + merged(m, idiom(q @ k.mT, attention_mask[:, None, None, :]).softmax(-1) @ v))

        return run

    idioms = (
        lambda s, mask: s + (1 - mask) * -10000.0,
        lambda s, mask: s + (1.0 - mask.to(s.dtype)) * torch.finfo(s.dtype).min,
        lambda s, mask: s.masked_fill(mask == 0, -math.inf),
        lambda s, mask: torch.where(mask.bool(), s, torch.full_like(s, -math.inf)),
        lambda s, mask: s + torch.where(mask.bool(), 0.0, -math.inf),
    )
    modules = {name: part for name, part in parts().items() if name != "embed"}
    tables = {"table": nn.Embedding(9, C), "positions": nn.Embedding(9, C)}
    ids, mask = torch.ones(1, N, dtype=torch.long), torch.tensor([[1, 1, 1, 1, 0]])
    for idiom in idioms[1:]:
        assert_same_scores(forward(idioms[0]), forward(idiom), ids, mask, **modules, **tables)
