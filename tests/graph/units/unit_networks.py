"""Small networks, each with one thing that the recorder of units must get right. Images are so large, and kernels so
small, that every path of units is a path of pixels too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from graph.sums.forwards import Network, conv
from torch import Tensor, nn
from torch.nn import functional as F

FLAT, IMAGE, SIGNAL, TOKENS = torch.rand(3, 4), torch.rand(2, 2, 8, 8), torch.rand(2, 2, 9), torch.rand(2, 5, 4)
Case = tuple[nn.Module, tuple[Any, ...]]
CASES: dict[str, Callable[[], Case]] = {}


def case(build: Callable[[], Case]) -> Callable[[], Case]:
    CASES[build.__name__.replace("_", " ")] = build
    return build


def image(function: Callable[..., Any], **parts: Any) -> Case:
    return Network(function, **parts), (IMAGE,)


def flat(function: Callable[..., Any], **parts: Any) -> Case:
    return Network(function, **parts), (FLAT,)


def tokens(function: Callable[..., Any], **parts: Any) -> Case:
    return Network(function, **parts), (TOKENS,)


@case
def chain() -> Case:
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3, bias=False), nn.Tanh(), nn.Linear(3, 2)), (FLAT,)


@case
def convolutions_and_flatten() -> Case:
    layers = [conv(2, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Upsample(4), nn.AvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(), nn.Linear(12, 2)), (IMAGE,)


@case
def identity_skip_in_place() -> Case:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        out = self.norm(self.inner(x))
        out += x
        return self.head(F.relu(out).mean((2, 3)))

    return image(forward, stem=conv(2, 3), inner=conv(3, 3), norm=nn.BatchNorm2d(3), head=nn.Linear(3, 2))


@case
def projection_skip() -> Case:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.inner(x) + self.project(x), 1).flatten(1))

    return image(forward, inner=conv(2, 3, stride=2), project=nn.Conv2d(2, 3, 1, stride=2), head=nn.Linear(3, 2))


@case
def bottlenecks() -> Case:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in (self.first, self.second):
            x = F.relu(block(x) + x)
        return x.mean((2, 3))

    def block() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), conv(2, 2), nn.ReLU(), nn.Conv2d(2, 3, 1))

    return image(forward, stem=nn.Conv2d(2, 3, 1), first=block(), second=block())


@case
def concatenation() -> Case:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = torch.cat([x, F.relu(self.first(x))], 1)
        x = torch.cat((F.relu(self.second(x)), x), dim=-3)
        return self.head(x.mean((2, 3)))

    return image(forward, first=conv(2, 2), second=conv(4, 2), head=nn.Linear(6, 2))


@case
def concatenation_twice_of_the_same() -> Case:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(torch.cat([x, torch.zeros_like(x[:, :1]), x.flip(1)], 1)).sum((-1, -2))

    return image(forward, first=conv(2, 2), second=conv(5, 2))


@case
def grouped_and_depthwise() -> Case:
    layers = [nn.Conv2d(2, 4, 1), conv(4, 4, groups=4), nn.SiLU(), conv(4, 6, groups=2), nn.AvgPool2d(8), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(6, 2)), (IMAGE,)


@case
def transposed_convolutions() -> Case:
    layers = [conv(2, 4, stride=2), nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), nn.ConvTranspose2d(6, 2, 3)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), (IMAGE,)


@case
def kernels_that_are_not_square() -> Case:
    layers = [nn.Conv2d(2, 2, (1, 3), padding=(0, 1)), nn.Conv2d(2, 3, (3, 2), padding=1, dilation=(2, 1))]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 2, 1)), (IMAGE,)


@case
def one_dimension() -> Case:
    layers = [nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), nn.ReLU(), nn.AvgPool1d(3), nn.Conv1d(3, 2, 2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 2)), (SIGNAL,)


@case
def three_dimensions() -> Case:
    return nn.Sequential(nn.Conv3d(2, 2, 2), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(2, 2)), (
        torch.rand(1, 2, 3, 3, 3),
    )


@case
def twice_the_same() -> Case:
    return flat(lambda self, x: self.b(self.a(x) + self.a(x) + x + x), a=nn.Linear(4, 4), b=nn.Linear(4, 2))


@case
def sums_of_stacks() -> Case:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = torch.stack([self.a(x), self.b(x), self.a(x)]).sum(0) + x
        return self.c(torch.stack([x, x], 1).mean(1)).sum(1, keepdim=True)

    return flat(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 4), c=nn.Linear(4, 2))


@case
def channel_shuffle() -> Case:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.a(x)
        x = x.view(x.size(0), 2, 3, 8, 8).transpose(1, 2).flatten(1, 2)
        x = F.channel_shuffle(self.b(x), 3)[:, [4, 1, 0, 3, 2, 5]]
        return self.c(x).mean((2, 3))

    return image(forward, a=nn.Conv2d(2, 6, 1), b=conv(6, 6, 1, groups=2), c=conv(6, 4, 1, groups=2))


@case
def tied_layers() -> Case:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.out(F.linear(F.relu(self.a(F.relu(self.a(x)))), self.a.weight.t()))

    return flat(forward, a=nn.Linear(4, 4), out=nn.Linear(4, 2))


class Conv1D(nn.Module):
    """Written as in GPT-2, with the weight transposed; recognized as prunable by its name."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        out = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return out.view(*x.shape[:-1], self.nf)


@case
def addmm() -> Case:
    return tokens(lambda self, x: self.b(F.gelu(self.a(x)))[:, -1], a=Conv1D(3, 4), b=Conv1D(2, 3))


@case
def layer_scale() -> Case:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = x + self.scale * self.b(F.gelu(self.a(x)))
        return self.head(x * 0.5 / self.scale.abs().clamp(min=1))

    scale = nn.Parameter(torch.full((4,), 1e-6))
    return flat(forward, a=nn.Linear(4, 3), b=nn.Linear(3, 4), scale=scale, head=nn.Linear(4, 2))


@case
def fixed_factors() -> Case:
    """Nothing passes a factor that is fixed at zero."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.b(self.a(x) * self.mask)

    return flat(forward, a=nn.Linear(4, 3), b=nn.Linear(3, 2), mask=torch.tensor([1.0, 0.0, -2.0]))


@case
def two_inputs() -> Case:
    def forward(self: Any, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        hidden = F.relu(self.a(x).mean((2, 3)) + self.b(y))
        return {"hidden": hidden, "logits": self.c(hidden)}

    return Network(forward, a=conv(2, 3), b=nn.Linear(4, 3), c=nn.Linear(3, 2)), (IMAGE, torch.rand(2, 4))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) / q.size(-1) ** 0.5
    scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    return (scores - scores.amax(-1, keepdim=True)).softmax(-1) @ v


def heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (2, -1)).transpose(-3, -2)


@case
def attention_by_hand() -> Case:
    def forward(self: Any, x: Tensor) -> Tensor:
        q, k, v = (heads(part) for part in self.qkv(self.norm(x)).chunk(3, -1))
        return self.head((x + self.out(attend(q, k, v).transpose(1, 2).flatten(2))).mean(1))

    parts = {"qkv": nn.Linear(4, 12), "norm": nn.LayerNorm(4), "out": nn.Linear(4, 4), "head": nn.Linear(4, 2)}
    return tokens(forward, **parts)


@case
def vision_transformer() -> Case:
    """Patches, a class token and two blocks: the class token has paths of its own."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.size(0), -1, -1), x], 1) + self.position
        for number in (0, 1):
            q, k, v = (heads(part) for part in self.qkv[number](x).chunk(3, -1))
            x = x + self.out[number](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
            x = x + self.up[number](F.gelu(self.down[number](x)))
        return self.head(x[:, 0])

    def twice(*sizes: int) -> nn.ModuleList:
        return nn.ModuleList(nn.Linear(*sizes) for _ in range(2))

    return image(
        forward,
        patches=nn.Conv2d(2, 4, 4, stride=4),
        token=nn.Parameter(torch.ones(1, 1, 4)),
        position=nn.Parameter(torch.ones(1, 5, 4)),
        qkv=twice(4, 12),
        out=twice(4, 4),
        down=twice(4, 2),
        up=twice(2, 4),
        head=nn.Linear(4, 2),
    )


@case
def encoder_layer() -> Case:
    layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=3, batch_first=True)
    return tokens(lambda self, x: self.head(self.layer(x)[:, 0]), layer=layer, head=nn.Linear(4, 2))


@case
def cross_attention() -> Case:
    """Queries of one sequence, keys and values of another of other widths."""

    def forward(self: Any, x: Tensor, y: Tensor) -> Tensor:
        found, _ = self.attention(x, y[:, :, :3], y)
        return found.mean(1)

    attention = nn.MultiheadAttention(4, 2, kdim=3, vdim=5, batch_first=True)
    return Network(forward, attention=attention), (TOKENS, torch.rand(2, 6, 5))


@case
def grouped_queries() -> Case:
    def forward(self: Any, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (-1, 2)).transpose(1, 2) for part in (self.q, self.k, self.v))
        found = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.out(found.transpose(1, 2).flatten(2))

    return tokens(forward, q=nn.Linear(4, 8), k=nn.Linear(4, 4), v=nn.Linear(4, 4), out=nn.Linear(8, 2))


@case
def einsums() -> Case:
    def forward(self: Any, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("bti, hoi -> bhto", x, part.transpose(0, 1)) for part in (self.q, self.k, self.v))
        weights = torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1)
        found = torch.einsum("bhij,bhjd->bhid", weights, v)
        return torch.einsum("bhto,hoc->btc", found, self.out)

    def weight(*shape: int) -> nn.Parameter:
        return nn.Parameter(torch.randn(shape))

    return tokens(forward, q=weight(2, 2, 4), k=weight(2, 2, 4), v=weight(2, 2, 4), out=weight(2, 2, 3))


@case
def products_from_the_left() -> Case:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = (self.a.weight @ x.t()).relu()
        return x.__rmatmul__(self.b.weight).t() @ self.shuffle + torch.bmm(self.c[None], x[None])[0].t()

    shuffle = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    parts = {"a": nn.Linear(4, 3), "b": nn.Linear(3, 2), "c": nn.Parameter(torch.randn(2, 3)), "shuffle": shuffle}
    return flat(forward, **parts)


@case
def experts() -> Case:
    """One weight for each of two experts in a batched product, and a vector that belongs to both."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.a(x).view(-1, 2, 3).transpose(0, 1)
        return (torch.bmm(x, self.b).transpose(0, 1).flatten(1)) @ self.c

    parts = {"a": nn.Linear(4, 6), "b": nn.Parameter(torch.randn(2, 3, 2)), "c": nn.Parameter(torch.randn(4))}
    return flat(forward, **parts)


@case
def shortcut_padded_with_zeros() -> Case:
    """He et al.'s option A: strided, and channels of zeros (here: of ones, which are constants too)."""

    def forward(self: Any, x: Tensor) -> Tensor:
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2), value=1.0)
        return self.head((self.a(F.pad(x, (1, 1, 1, 1))) + shortcut).mean((2, 3)))

    return image(forward, a=nn.Conv2d(2, 5, 3, stride=2), head=nn.Linear(5, 2))


@case
def borders_of_zeros() -> Case:
    """Channels that hold other units at the border than inside."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.c(F.pad(self.a(x), (1, 1, 1, 1)) + self.b(x)).mean((2, 3))

    return image(forward, a=nn.Conv2d(2, 3, 3), b=conv(2, 3), c=conv(3, 2))


@case
def squeeze_and_excitation() -> Case:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        gate = torch.sigmoid(self.grow(F.relu(self.shrink(x.mean((2, 3), keepdim=True)))))
        return self.head((x * gate).mean((2, 3)))

    return image(forward, a=conv(2, 4), shrink=nn.Conv2d(4, 2, 1), grow=nn.Conv2d(2, 4, 1), head=nn.Linear(4, 2))


@case
def gates_of_places() -> Case:
    """A map of gates that is pooled and resized before it is multiplied remains one."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        gate = F.interpolate(F.avg_pool2d(torch.sigmoid(self.gate(x)), 2), scale_factor=2).mean(1, keepdim=True)
        return self.head((gate * x).mean((2, 3)))

    return image(forward, a=conv(2, 4), gate=conv(4, 2), head=nn.Linear(4, 2))


@case
def normalization_by_hand() -> Case:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.a(x)
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-5).sqrt()
        x = self.b(x * self.gain)
        return self.c(x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))

    return tokens(forward, a=nn.Linear(4, 3), gain=nn.Parameter(torch.ones(3)), b=nn.Linear(3, 3), c=nn.Linear(3, 2))


@case
def writing_into_a_buffer() -> Case:
    def forward(self: Any, x: Tensor) -> Tensor:
        out = torch.zeros(x.size(0), 5, 8, 8, dtype=x.dtype)
        out[:, :2] = self.a(x)
        out[:, 3:] = self.b(x)
        out[:, 1:2] = 0
        return self.c(out).mean((2, 3))

    return image(forward, a=nn.Conv2d(2, 2, 1), b=nn.Conv2d(2, 2, 1), c=nn.Conv2d(5, 2, 1))


@case
def writing_into_views() -> Case:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        left, right = y[:, :2], y[:, 2:]
        left += self.b(x)
        right[:, 1] = 0
        y[:, 2:3] += self.c(x)
        return self.d(y).mean((2, 3))

    return image(forward, a=nn.Conv2d(2, 4, 1), b=nn.Conv2d(2, 2, 1), c=nn.Conv2d(2, 1, 1), d=nn.Conv2d(4, 2, 1))


@case
def constant_kernels() -> Case:
    """A blur of each channel, by a kernel that is no parameter."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = F.conv2d(self.a(x), self.blur.expand(3, 1, 2, 2), groups=3)
        return self.b(x).mean((2, 3))

    blur = torch.tensor([[1.0, 0.0], [2.0, 1.0]])[None, None]
    return image(forward, a=conv(2, 3), b=conv(3, 2), blur=blur)


@case
def sub_pixels() -> Case:
    return nn.Sequential(conv(2, 8), nn.PixelShuffle(2), nn.ReLU(), conv(2, 2), nn.PixelUnshuffle(16), nn.Flatten()), (
        IMAGE,
    )


@case
def gates_of_halves() -> Case:
    return tokens(lambda self, x: self.b(F.glu(self.a(x))).mean(1), a=nn.Linear(4, 6), b=nn.Linear(3, 2))


@case
def token_ids() -> Case:
    def forward(self: Any, x: Tensor) -> Tensor:
        positions = self.positions(torch.arange(x.size(1)))
        return F.linear(self.a(self.table(x) + positions), self.table.weight)

    parts = {"table": nn.Embedding(6, 4), "positions": nn.Embedding(5, 4), "a": nn.Linear(4, 4)}
    return Network(forward, **parts), (torch.tensor([[0, 3, 2, 5, 1]]),)


@case
def gray_images() -> Case:
    """A mean over the inputs themselves."""
    return image(lambda self, x: self.a(x.mean(1, keepdim=True)).sum((2, 3)), a=conv(1, 3))


@case
def outputs_that_are_read_on() -> Case:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.a(x)
        return torch.cat([x, self.b(x)], 1)

    return flat(forward, a=nn.Linear(4, 3), b=nn.Linear(3, 2))


@case
def channels_last() -> Case:
    model = nn.Sequential(conv(2, 3), nn.ReLU(), conv(3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return model.to(memory_format=torch.channels_last), (IMAGE,)


@case
def class_token_beside_features() -> Case:
    """The inputs themselves are tokens; the class token has paths through attention only."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.size(0), -1, -1), x], 1)
        x = x + self.out(F.scaled_dot_product_attention(x, x, self.values(x)))
        x = x + self.inner(x)
        return self.head(x[:, 0])

    parts = {name: nn.Linear(4, 4) for name in ("out", "values", "inner")}
    return tokens(forward, token=nn.Parameter(torch.ones(1, 1, 4)), head=nn.Linear(4, 2), **parts)


@case
def masked_tokens() -> Case:
    """Every place has other channels set to zero."""
    x = torch.rand(1, 20, 4)
    return Network(
        lambda self, x: self.b(self.a(x) * self.keep), a=nn.Linear(4, 4), b=nn.Linear(4, 2), keep=(x > 0.5).float()
    ), (x,)


@case
def encoder_and_decoder() -> Case:
    """A U-Net: pooling, resizing to the size of another tensor, concatenation."""

    def forward(self: Any, x: Tensor) -> Tensor:
        wide = F.relu(self.down(x))
        deep = F.interpolate(self.deep(F.avg_pool2d(wide, 2)), size=wide.shape[-2:], mode="bilinear")
        return self.out(torch.cat([wide, deep], 1))

    return image(forward, down=conv(2, 3), deep=conv(3, 3), out=nn.Conv2d(6, 1, 1))
