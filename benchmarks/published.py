"""The published procedures, written down literally: what ours are measured against.

Nothing is improved and nothing is left out that they do in every round; only the reading of data, which is the same for
both sides, happens beforehand.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Scores = dict[str, Tensor]
_PRUNED = (nn.Linear, nn.Conv2d)


def _masked_forward(layer: Any, x: Tensor) -> Tensor:
    """What a masked layer of SynFlow's authors computes: every parameter is multiplied by its mask first."""
    weight = layer.weight_mask * layer.weight
    bias = None if layer.bias is None else layer.bias_mask * layer.bias
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    return F.batch_norm(x, layer.running_mean, layer.running_var, weight, bias, layer.training, 0.1, layer.eps)


class _MaskedLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return _masked_forward(self, input)


class _MaskedConv2d(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return _masked_forward(self, input)


class _MaskedBatchNorm2d(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return _masked_forward(self, input)


_MASKED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: _MaskedLinear,
    nn.Conv2d: _MaskedConv2d,
    nn.BatchNorm2d: _MaskedBatchNorm2d,
}


def masked(model: nn.Module) -> nn.Module:
    """A copy whose layers have masks for weight and bias, as buffers."""
    model = copy.deepcopy(model)
    for layer in model.modules():
        if type(layer) in _MASKED:
            layer.__class__ = _MASKED[type(layer)]
            for name, parameter in list(layer.named_parameters(recurse=False)):
                layer.register_buffer(f"{name}_mask", torch.ones_like(parameter))
    return model


class SynFlow:
    """Rounds of the authors' SynFlow on a copy of a network with masked layers.

    Every entry of the state is made positive and given its sign back, and the threshold is the k-th smallest of all
    scores, those of pruned weights included.
    """

    def __init__(self, model: nn.Module, shape: Sequence[int]) -> None:
        self.model, self.shape = masked(model).eval(), tuple(shape)
        layers = [(name, layer) for name, layer in self.model.named_modules() if isinstance(layer, _PRUNED)]
        self.layers: dict[str, Any] = {f"{name}.weight": layer for name, layer in layers}

    def prune(self, density: float, *, rounds: int) -> dict[str, Tensor]:
        """The masks after all rounds."""
        for k in range(1, rounds + 1):
            self.round(density ** (k / rounds))
        return {name: layer.weight_mask.bool() for name, layer in self.layers.items()}

    def round(self, density: float) -> Scores:
        with torch.no_grad():
            for layer in self.layers.values():
                layer.weight.mul_(layer.weight_mask)
        scores = self.scores()
        self._mask(scores, density)
        return scores

    def scores(self) -> Scores:
        state = self.model.state_dict()
        signs: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, value in state.items():
                signs[name] = torch.sign(value)
                value.abs_()
        dtype = next(iter(self.layers.values())).weight.dtype
        self.model(torch.ones(1, *self.shape, dtype=dtype)).sum().backward()
        scores: Scores = {}
        for name, layer in self.layers.items():
            scores[name] = (layer.weight.grad * layer.weight).detach().abs_()
            layer.weight.grad.zero_()
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                value.mul_(signs[name])
        return scores

    def _mask(self, scores: Scores, density: float) -> None:
        flat = torch.cat([score.flatten() for score in scores.values()])
        k = int((1 - density) * flat.numel())
        if k < 1:
            return
        threshold = torch.kthvalue(flat, k).values
        for name, layer in self.layers.items():
            below = scores[name] <= threshold
            layer.weight_mask.copy_(torch.where(below, torch.tensor([0.0]), torch.tensor([1.0])))


def grasp(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], *, temperature: float) -> Scores:
    """theta H g of the authors' GraSP: g from one pass over the batches, H g from a second, differentiated twice.

    (Theirs is the negative of it, and what is largest there is pruned.)
    """
    model = copy.deepcopy(model)
    names = [f"{name}.weight" for name, layer in model.named_modules() if isinstance(layer, _PRUNED)]
    weights = [model.get_parameter(name) for name in names]

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]) / temperature, batch[1])

    total: list[Tensor] = []
    for batch in batches:
        part = torch.autograd.grad(loss(batch), weights)
        total = [old + new for old, new in zip(total, part, strict=True)] if total else list(part)
    for batch in batches:
        again = torch.autograd.grad(loss(batch), weights, create_graph=True)
        product = sum((old * new).sum() for old, new in zip(total, again, strict=True))
        assert isinstance(product, Tensor)
        product.backward()  # type: ignore[no-untyped-call]
    return {
        name: weight.detach() * weight.grad
        for name, weight in zip(names, weights, strict=True)
        if weight.grad is not None
    }
