"""`Pruned`: what every analysis starts from, a network with its masks and one example of its inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from foreprune.core.masks import Masks, check_masks, check_same_weights, parameters_of
from foreprune.core.net import Net, isolated_randomness
from foreprune.core.task import Inputs, as_inputs
from foreprune.graph import one_sample


@dataclass(frozen=True, eq=False)
class Pruned:
    """A network and the masks on its prunable weights. Build it with `Pruned.of`.

    Attributes:
        net: the network; its prunable weights are those the masks are for.
        masks: on the device of the network.
        inputs: one sample; the whole where axis 0 is no batch (the nodes of a graph).
    """

    net: Net
    masks: Masks
    inputs: Inputs

    @classmethod
    def of(cls, model: nn.Module, masks: Masks | None, inputs: Any) -> Pruned:
        """Raises: TypeError for inputs or masks of another kind, ValueError for masks of another model."""
        net, masks = with_masks(model, masks)
        if inputs is None:
            raise TypeError("give inputs=, of which only the shape counts, e.g. inputs=torch.zeros(1, 3, 32, 32)")
        example = one_sample(net, as_inputs(inputs).map(lambda tensor: tensor.to(net.device))).inputs
        return cls(net, masks, example)

    def magnitudes(self) -> dict[str, Tensor]:
        """|w| of every parameter in float64, zero where pruned."""
        return self.masks({name: value.double() for name, value in self.net.magnitudes.items()})

    def indicators(self) -> dict[str, Tensor]:
        """1 for every weight and 0 where pruned, in float64."""
        return self.masks({name: torch.ones_like(value, dtype=torch.float64) for name, value in self.floating()})

    def floating(self) -> list[tuple[str, Tensor]]:
        """Name and tensor of every real parameter."""
        return [(name, value) for name, value in self.net.params.items() if value.is_floating_point()]


def with_masks(model: nn.Module, masks: Masks | None) -> tuple[Net, Masks]:
    """The functional view of `model` whose prunable weights are those of `masks`; dense masks if there are none.

    Raises:
        TypeError: `masks` are no `Masks`.
        ValueError: they belong to another model.
    """
    check_masks(masks, optional=True)
    if masks is None:
        net = Net.of(model)
        return net, net.dense()
    if isinstance(model, nn.Module):
        parameters_of(model, masks.shapes)
    net = Net.of(model, prunable=list(masks))
    check_same_weights({name: weight.shape for name, weight in net.weights.items()}, masks.shapes, what="the masks")
    return net, masks.to(net.device)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Gradients can be taken inside, whatever mode the caller is in, and the global random state is put back.

    Attention runs as separate operations: torch's fused ones have neither second nor forward derivatives, and their
    products are not counted.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.inference_mode(False), isolated_randomness(0), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
