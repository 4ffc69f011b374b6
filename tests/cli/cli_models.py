"""Networks of a user, named on the command line as cli_models:zero_headed."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def zero_headed(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A table that pruning leaves whole, and a head of zeros."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, classes))
    model[1].table = nn.Parameter(torch.zeros(100, 30))
    nn.init.zeros_(model[4].weight)
    return model


class Attends(nn.Module):
    """An encoder layer over the rows of an image."""

    def __init__(self, *, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(input_shape[2], 2, 12, batch_first=True, dropout=0.0)
        self.head = nn.Linear(input_shape[2], classes)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.layer(x.flatten(1, 2)).mean(1))
        return output
