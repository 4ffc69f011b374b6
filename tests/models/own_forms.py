"""The same few networks in the forms in which users have them: graphs, wrapped, shared, converted, with odd inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from models.network import CLASSES, SAMPLES, Given, images, labels, tokens
from models.own import OWN, Encoder, convnet, flat, mlp
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

NODES = 6


# graphs: axis 0 counts nodes, and the adjacency is an input


def graph() -> tuple[Tensor, Tensor]:
    edges = (torch.rand(NODES, NODES) < 0.4).float()
    edges = ((edges + edges.T) > 0).float() + torch.eye(NODES)
    return torch.rand(NODES, 8), edges.clamp(max=1)


class GCN(nn.Module):
    """Kipf & Welling: features times a normalized adjacency; a label for each node."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        scale = edges.sum(1).rsqrt()
        adjacency = scale[:, None] * edges * scale
        return adjacency @ self.second(F.relu(adjacency @ self.first(x)))


class GIN(nn.Module):
    """Xu et al.: an MLP over the sum of the neighbors; one label for the whole graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16))
        self.eps = nn.Parameter(torch.zeros(1))
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = F.relu(self.first((1 + self.eps) * x + edges @ x))
        output: Tensor = self.head(x.sum(0, keepdim=True))
        return output


class GAT(nn.Module):
    """Velickovic et al.: attention over neighbors; a label for each node."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16, bias=False)
        self.source = nn.Linear(16, 1, bias=False)
        self.target = nn.Linear(16, 1, bias=False)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = self.first(x)
        scores = F.leaky_relu(self.source(x) + self.target(x).T, 0.2).masked_fill(edges == 0, -torch.inf)
        output: Tensor = self.head(F.elu(scores.softmax(1) @ x))
        return output


OWN.add("GCN", lambda: Given(GCN(), graph(), labels(NODES)))
OWN.add("GIN", lambda: Given(GIN(), graph(), labels(1)))
OWN.add("GAT", lambda: Given(GAT(), graph(), labels(NODES)))


# wrapped, nested, shared


def _in_one_process(model: nn.Module) -> nn.Module:
    distributed = torch.distributed
    if not distributed.is_initialized():
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    return nn.parallel.DistributedDataParallel(model)


class Reused(nn.Module):
    """One layer called twice, and the same block under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 16)
        self.block = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
        self.again = self.block
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(F.relu(self.first(x)))
        output: Tensor = self.head(self.again(self.block(x)))
        return output


class Experts(nn.Module):
    """Two experts, mixed by a learned gate."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(mlp() for _ in range(2))
        self.gate = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        share = self.gate(x).softmax(-1)
        return sum((share[:, i, None] * expert(x) for i, expert in enumerate(self.experts)), torch.zeros(()))


class Unused(nn.Module):
    """A branch that the forward never calls, and frozen layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()
        self.body[0].requires_grad_(False)
        self.never = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.body(x)
        return output


class Stacked(nn.Module):
    """Expert weights in one 3-D parameter, no layer module around it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 16)
        self.experts = nn.Parameter(torch.randn(3, 16, 16) / 4)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("bi,eio->beo", F.relu(self.first(x)), self.experts).sum(1)
        output: Tensor = self.head(F.relu(x))
        return output


class Checkpointed(nn.Module):
    """Activations computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(12, 16), nn.ReLU()), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(checkpoint(self.body, x, use_reentrant=False))
        return output


OWN.add(
    "Sequential in Sequential",
    lambda: Given(nn.Sequential(convnet()[:4], nn.Sequential(convnet()[4:])), images(12), labels()),
)
OWN.add("shared modules, reused layers", lambda: Given(Reused(), flat(), labels()))
OWN.add("mixture of experts", lambda: Given(Experts(), flat(), labels()))
OWN.add("experts in one 3-D parameter", lambda: Given(Stacked(), flat(), labels()))
OWN.add("an unused branch, a frozen layer", lambda: Given(Unused(), flat(), labels()))
OWN.add("activation checkpointing", lambda: Given(Checkpointed(), flat(), labels()))
OWN.add("DataParallel", lambda: Given(nn.DataParallel(convnet()), images(12), labels()))
OWN.add("DistributedDataParallel", lambda: Given(_in_one_process(convnet()), images(12), labels()))
OWN.add("torch.compile", lambda: Given(torch.compile(convnet()), images(12), labels()))
OWN.add("deep copy of a trained model", lambda: Given(copy.deepcopy(_trained(mlp())), flat(), labels()))
OWN.add("with forward hooks", lambda: Given(_hooked(mlp()), flat(), labels()))


def _trained(model: nn.Module) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters())
    F.cross_entropy(model(flat()), labels()).backward()
    optimizer.step()
    return model


def _hooked(model: nn.Sequential) -> nn.Module:
    model[0].register_forward_hook(lambda module, inputs, output: output * 2)
    return model


# converted


def _layers(model: nn.Module, change: Callable[[nn.Module], Any]) -> nn.Module:
    for module in list(model.modules()):
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            change(module)
    return model


def _quantized(model: nn.Module) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear})


def _zero_head(model: nn.Sequential) -> nn.Module:
    nn.init.zeros_(model[-1].weight)
    return model


OWN.add("weight_norm", lambda: Given(_layers(convnet(), parametrizations.weight_norm), images(12), labels()))
OWN.add("spectral_norm", lambda: Given(_layers(mlp(), parametrizations.spectral_norm), flat(), labels()))
OWN.add("orthogonal", lambda: Given(_layers(mlp(), parametrizations.orthogonal), flat(), labels()))
OWN.add("weight_norm, the old hook", lambda: Given(_layers(mlp(), nn.utils.weight_norm), flat(), labels()))
OWN.add(
    "torch.nn.utils.prune",
    lambda: Given(_layers(mlp(), lambda m: prune.random_unstructured(m, "weight", 0.3)), flat(), labels()),
)
OWN.add(
    "channels last",
    lambda: Given(
        convnet().to(memory_format=torch.channels_last), images(12).to(memory_format=torch.channels_last), labels()
    ),
)
OWN.add("double", lambda: Given(convnet().double(), images(12).double(), labels()))
OWN.add("bfloat16", lambda: Given(convnet().bfloat16(), images(12).bfloat16(), labels()))
OWN.add("half", lambda: Given(mlp().half(), flat().half(), labels()))
OWN.add(
    "complex",
    lambda: Given(
        nn.Sequential(nn.Linear(12, 16, dtype=torch.complex64), nn.Linear(16, CLASSES, dtype=torch.complex64)),
        flat().to(torch.complex64),
        labels(),
        lambda out, y: F.cross_entropy(out.abs(), y),
    ),
)
OWN.add("scripted", lambda: Given(torch.jit.script(mlp()), flat(), labels()))
OWN.add("traced", lambda: Given(torch.jit.trace(mlp(), flat()), flat(), labels()))
OWN.add("exported", lambda: Given(torch.export.export(mlp(), (flat(),)).module(), flat(), labels()))
OWN.add("fx graph module", lambda: Given(torch.fx.symbolic_trace(convnet()), images(12), labels()))
OWN.add("quantized", lambda: Given(_quantized(mlp()), flat(), labels()))
OWN.add("a head of zeros", lambda: Given(_zero_head(mlp()), flat(), labels()))
OWN.add("on the meta device", lambda: Given(mlp().to("meta"), flat(), labels()))
OWN.add(
    "lazy layers, not yet run",
    lambda: Given(nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(CLASSES)), flat(), labels()),
)
OWN.add("embedding bag, nothing to prune", lambda: Given(nn.EmbeddingBag(50, CLASSES), tokens(), labels()))


# unusual inputs and outputs


class Named(nn.Module):
    """Two named inputs; the output is a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.flat = convnet(), mlp()

    def forward(self, image: Tensor, features: Tensor) -> dict[str, Tensor]:
        return {"logits": self.image(image) + self.flat(features)}


class OneMapping(nn.Module):
    """One positional argument, a mapping; the output is a tuple with an auxiliary head."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = mlp(), mlp()

    def forward(self, x: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self.left(x["a"]), self.right(x["b"])


class Two(nn.Module):
    """Two positional inputs whose features are multiplied, as in recommenders."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(12, 16), nn.Linear(12, 16), nn.Linear(16, CLASSES)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        output: Tensor = self.head(F.relu(self.left(a)) * F.relu(self.right(b)))
        return output


class Words(nn.Module):
    """Token ids, the mean of embeddings, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body = nn.Embedding(50, 12), mlp()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.body(self.embed(x).mean(1))
        return output


class Padded(nn.Module):
    """A transformer encoder with a padding mask as second input."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body = nn.Embedding(50, 6), Encoder()

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        y = self.body.layers(self.body.embed(self.embed(x)), src_key_padding_mask=padding)
        output: Tensor = self.body.head(y[:, 0])
        return output


def padding() -> Tensor:
    mask = torch.zeros(SAMPLES, 8, dtype=torch.bool)
    mask[0, 5:] = True
    return mask


def both(output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
    return F.cross_entropy(output[0], target) + 0.3 * F.cross_entropy(output[1], target)


OWN.add("keyword inputs, mapping out", lambda: Given(Named(), {"image": images(12), "features": flat()}, labels()))
OWN.add("one mapping in, tuple out", lambda: Given(OneMapping(), ({"a": flat(), "b": flat()},), labels(), both))
OWN.add("two inputs, multiplied", lambda: Given(Two(), (flat(), flat()), labels()))
OWN.add("token ids, mean of embeddings", lambda: Given(Words(), tokens(), labels()))
OWN.add("token ids, padding mask", lambda: Given(Padded(), (tokens(), padding()), labels()))
