"""Small transformers as libraries write them: separate projections, one for all three, and GPT-2's of columns."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HEADS, LAYERS, CLASSES = 12, 2, 2, 3


def attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False) -> Tensor:
    b, n, c = q.shape
    q, k, v = (x.view(b, n, HEADS, c // HEADS).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).reshape(b, n, c)


class SeparateAttention(nn.Module):
    """As BERT's, with the scores written out."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = (
            layer(x).view(b, n, HEADS, c // HEADS).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(c // HEADS), dim=-1)
        found: Tensor = self.output((weights @ v).transpose(1, 2).reshape(b, n, c))
        return found


class FusedAttention(nn.Module):
    """As timm's."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.proj(attend(*self.qkv(x).chunk(3, dim=-1)))
        return found


class HeadwiseAttention(nn.Module):
    """Fused too, but q, k and v of one head lie beside each other, and its name does not tell."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.mixed(x).view(b, n, HEADS, 3 * c // HEADS).transpose(1, 2).chunk(3, dim=-1)
        found: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))
        return found


class Conv1D(nn.Module):
    """As transformers': weights are (in, out)."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.nf = outputs
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.normal_(self.weight, std=0.2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], self.nf)


class ColumnAttention(nn.Module):
    """As GPT-2's, causal."""

    def __init__(self) -> None:
        super().__init__()
        self.c_attn, self.c_proj = Conv1D(3 * WIDTH, WIDTH), Conv1D(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.c_proj(attend(*self.c_attn(x).split(WIDTH, dim=2), causal=True))
        return found


class UnnamedColumns(nn.Module):
    """The same under a name that does not tell."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed, self.proj = Conv1D(3 * WIDTH, WIDTH), Conv1D(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.proj(attend(*self.mixed(x).split(WIDTH, dim=2)))
        return found


class Block(nn.Module):
    def __init__(self, attention: type[nn.Module]) -> None:
        super().__init__()
        self.attn, self.first, self.second = attention(), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.first(x))
        found: Tensor = x + self.down(F.gelu(self.up(self.second(x))))
        return found


class Transformer(nn.Module):
    """Tokens or patches in, the mean over places out."""

    def __init__(self, attention: type[nn.Module], *, tokens: bool) -> None:
        super().__init__()
        self.embed: nn.Module = nn.Embedding(11, WIDTH) if tokens else nn.Conv2d(2, WIDTH, 4, stride=4)
        self.tokens = tokens
        self.places = nn.Parameter(0.02 * torch.randn(1, 4, WIDTH))
        self.blocks = nn.Sequential(*(Block(attention) for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = (x if self.tokens else x.flatten(2).transpose(1, 2)) + self.places
        found: Tensor = self.head(self.norm(self.blocks(x)).mean(1))
        return found


KINDS = {
    "bert": (SeparateAttention, True, ("query.weight", "key.weight")),
    "vit": (FusedAttention, False, ("qkv.weight[q]", "qkv.weight[k]")),
    "gpt2": (ColumnAttention, True, ("c_attn.weight[q]", "c_attn.weight[k]")),
}


def transformer(kind: str) -> tuple[nn.Module, Tensor, tuple[str, ...]]:
    """The network, inputs for it, and the names of its queries' and keys' blocks."""
    attention, tokens, parts = KINDS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Transformer(attention, tokens=tokens)
        x = torch.randint(11, (6, 4)) if tokens else torch.rand(6, 2, 8, 8)
    return model, x, tuple(f"blocks.{layer}.attn.{name}" for layer in range(LAYERS) for name in parts)
