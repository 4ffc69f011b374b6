"""`PathGraph` by itself: masked weights, and gradients with factors."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import foreprune
import foreprune.graph
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.task import as_inputs
from foreprune.graph import PathGraph, path_dtype, path_graph

pytestmark = pytest.mark.usefixtures("with_and_without_replay")


def paths() -> PathGraph:
    """Weights of 1 to 3 to one unit, then 10 to each of two outputs."""
    model = nn.Sequential(nn.Linear(3, 1), nn.ReLU(), nn.Linear(1, 2)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0, 3.0]]))
        model[2].weight.fill_(10)
    return path_graph(Net.of(model), as_inputs(torch.ones(1, 3)))


def test_a_device_without_float64_computes_in_single(monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = torch.ones, []

    def ones(*size: int, **options: Any) -> torch.Tensor:
        if options.get("dtype") == torch.float64:
            asked.append(options["device"])
            raise TypeError("cannot convert to float64")
        return real(*size, **options)

    monkeypatch.setattr(torch, "ones", ones)
    device = torch.device("cpu")
    message = (
        "device 'cpu' has no float64, so sums over paths are computed in float32 there and rounding has a part in the "
        'masks; move the model to the CPU, or write precision="single"'
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        assert path_dtype("double", device) == torch.float32
    assert path_dtype("single", device) == torch.float32
    assert asked == [device]
    with pytest.warns(UserWarning, match="has no float64"):
        found = foreprune.score(nn.Linear(5, 4), "synflow", inputs=torch.zeros(1, 5))
    assert found["weight"].dtype == torch.float32


def test_double_is_the_default_and_single_is_as_asked() -> None:
    net, inputs = Net.of(nn.Linear(3, 2).double()), as_inputs(torch.zeros(1, 3))
    assert path_graph(net, inputs).dtype == torch.float64
    assert path_graph(net, inputs, precision="single").dtype == torch.float32
    with pytest.raises(ValueError, match="precision must be one of 'double', 'single', not 'half'"):
        foreprune.prune(nn.Linear(5, 4), "synflow", density=0.5, inputs=torch.zeros(1, 5), precision="half")
    with pytest.raises(ValueError, match="batchnorm must be one of 'scale', 'identity', not 'eval'"):
        foreprune.prune(nn.Linear(5, 4), "synflow", density=0.5, inputs=torch.zeros(1, 5), batchnorm="eval")


MASKS = Masks({"0.weight": torch.tensor([[True, False, True]]), "2.weight": torch.tensor([[True], [True]])})


def test_masked_weights_are_zero_where_pruned() -> None:
    graph = paths()
    assert graph.masked(torch.abs, MASKS)["0.weight"].tolist() == [[1, 0, 3]]
    assert graph.masked(torch.square, MASKS)["0.weight"].tolist() == [[1, 0, 9]]
    dense = graph.masked(torch.abs, Masks.dense(graph.net.weights))
    assert dense["0.weight"].tolist() == [[1, 2, 3]]
    assert graph.net.weights["0.weight"].tolist() == [[1, -2, 3]]


def test_gradients_come_with_factors_if_they_are_given() -> None:
    graph = paths()
    for _ in range(4):
        weights = graph.masked(torch.abs, MASKS)
        plain = graph.gradients(weights)
        assert plain["0.weight"].tolist() == [[20, 20, 20]]
        assert plain["2.weight"].tolist() == [[4], [4]]
        times = graph.gradients(weights, times=weights)
        assert times["0.weight"].tolist() == [[20, 0, 60]]
        assert times["2.weight"].tolist() == [[40], [40]]
        assert weights["0.weight"].tolist() == [[1, 0, 3]]


def test_an_image_multiplies_each_path() -> None:
    graph, weights = paths(), paths().masked(torch.abs, MASKS)
    for entries in ((1.0, 5.0, 0.5), (2.0, 0.0, 1.0)):
        for _ in range(4):
            found = graph.gradients(weights, image=torch.tensor(entries))
            assert found["0.weight"].tolist() == [[20 * entry for entry in entries]]
            assert found["2.weight"].tolist() == [[entries[0] + 3 * entries[2]]] * 2


def test_a_replay_folder_without_files_is_no_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `git rm` leaves behind: the folder with its compiled files."""
    (tmp_path / "replay" / "__pycache__").mkdir(parents=True)
    monkeypatch.setattr(foreprune.graph, "__path__", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "foreprune.graph.replay", raising=False)
    assert type(paths()) is PathGraph
