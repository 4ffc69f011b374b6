"""SNIP's LeNet-300-100 written a second time: its scores are SNIP's, its counts exact, its rows not run twice."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import foreprune as fp  # noqa: E402
from benchmarks import lenet  # noqa: E402


def test_masks_are_those_of_snip() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(100, 784), torch.randint(10, (100,))
    found = lenet.masks(0.05, x, y, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
    layers = [model[0], model[2], model[4]]
    with torch.no_grad():
        for layer, size in zip(layers, lenet.SIZES, strict=True):
            layer.weight.copy_(lenet.cut_normal(size, size[0], generator).T)
        for layer, size in zip(layers, lenet.SIZES, strict=True):
            layer.bias.copy_(lenet.cut_normal(size[1:], size[0], generator))
    masks = fp.prune(model, "snip", density=0.05, data=(x, y), prunable=lambda name, parameter: True)
    assert sum(int(mask.sum()) for mask in found) == masks.kept == round(0.05 * 266_610)
    ours = [masks[f"{place}.weight"].T for place in (0, 2, 4)] + [masks[f"{place}.bias"] for place in (0, 2, 4)]
    assert sum(int((one.bool() != other).sum()) for one, other in zip(found, ours, strict=True)) == 0


def test_free_biases_are_kept_and_not_counted() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(100, 784), torch.randint(10, (100,))
    found = lenet.masks(0.05, x, y, torch.Generator().manual_seed(3), "kaiming-free-biases")
    assert [int(mask.sum()) for mask in found[3:]] == [300, 100, 10]
    assert sum(int(mask.sum()) for mask in found[:3]) == round(0.05 * 266_200)
    drawn = lenet.cut_normal((1000, 400), 400, torch.Generator().manual_seed(0), 2)
    assert float(drawn.std()) == pytest.approx(0.05 * 2**0.5, rel=0.01)


def test_the_spread_of_a_cut_normal() -> None:
    drawn = lenet.cut_normal((1000, 400), 400, torch.Generator().manual_seed(0))
    assert float(drawn.std()) == pytest.approx(0.05, rel=0.01)
    assert float(drawn.abs().max()) <= 0.1 / 0.8796


def test_rows_are_added_and_not_run_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    data = (torch.randn(54_000, 784, generator=generator), torch.randint(10, (54_000,), generator=generator))
    few = (data[0][:50], data[1][:50])
    monkeypatch.setattr(lenet, "images", lambda folder: (data, few))
    out = tmp_path / "literal.csv"
    for seeds in ("1", "2"):
        lenet.main(["--densities", "0.05", "--seeds", seeds, "--steps", "2", "--out", str(out)])
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["density"], row["seed"], row["steps"]) for row in rows] == [("0.05", "0", "2"), ("0.05", "1", "2")]
    assert all(0 < float(row["best"]) <= float(row["last"]) <= 100 for row in rows)
