"""How pruned networks start: gradient, loss and logits against their definitions, on digits."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import foreprune as fp  # noqa: E402
from benchmarks.starts import Start, measure, starts, table  # noqa: E402
from foreprune.zoo.datasets import load_cached  # noqa: E402
from foreprune.zoo.models import create  # noqa: E402


def test_what_is_measured() -> None:
    data = load_cached("digits", None)
    model = create("lenet-300-100", input_shape=data.shape, classes=10, init="kaiming-normal-fan-in", seed=3)
    masks = fp.prune(model, "random", density=0.3, seed=1)
    masks.apply_(model)
    loss, norm, deviation = measure(model, masks, data, seed=3)
    images, labels = next(iter(data.train.subset(1000, seed=3).batches(1000)))
    logits = model(images)
    expected = torch.nn.functional.cross_entropy(logits, labels)
    expected.backward()
    squares = sum(float((model.get_parameter(name).grad * masks[name]).square().sum()) for name in masks)
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    assert norm == pytest.approx(squares**0.5, rel=1e-5)
    assert deviation == pytest.approx(logits.std().item(), rel=1e-5)
    everything = sum(float(model.get_parameter(name).grad.square().sum()) for name in masks)
    assert norm < 0.95 * everything**0.5, "gradients of pruned weights were counted"


def test_starts_of_several_methods() -> None:
    methods = (
        "random",
        "grasp",
        "grasp, shuffled",
        "grasp, reinitialized",
        "grasp, cooled",
        "grasp, cooled at the output",
    )
    found = starts(methods, [0.2], [0, 1], data=load_cached("digits", None), epochs=1)
    assert [(each.method, each.seed) for each in found] == [(method, seed) for seed in (0, 1) for method in methods]
    by = {(each.method, each.seed): each for each in found}
    for seed in (0, 1):
        assert by["grasp", seed].logit_deviation > 2 * by["random", seed].logit_deviation
        for cooled in methods[-2:]:
            assert by[cooled, seed].logit_deviation == pytest.approx(by["random", seed].logit_deviation, rel=1e-4)
            assert by[cooled, seed].loss < by["grasp", seed].loss
        assert by["grasp, cooled", seed].loss == pytest.approx(by["grasp, cooled at the output", seed].loss, rel=1e-4)
        assert by["grasp, cooled", seed].gradient_norm != by["grasp, cooled at the output", seed].gradient_norm
        assert by["grasp, reinitialized", seed].logit_deviation < by["grasp", seed].logit_deviation
        assert all(by[method, seed].epochs == 1 and 0 < (by[method, seed].top1 or 0) < 1 for method in methods)


def test_the_table_by_hand() -> None:
    def start(method: str, seed: int, top1: float) -> Start:
        return Start(method, 0.2, seed, 2.0 + seed, 1.0, 0.5, epochs=3, top1=top1)

    found = [start("grasp", 0, 0.9), start("grasp", 1, 0.8), start("random", 1, 0.83), start("random", 0, 0.91)]
    assert table(found).splitlines()[2:] == [
        "| 0.2 | grasp | 2.50 ± 0.71 | 1.00 ± 0.00 | 0.50 ± 0.00 | 2 | 85.00 ± 7.07 | – |",
        # 1 and 3 points: mean 2, 12.706 * sqrt(2) / sqrt(2)
        "| 0.2 | random | 2.50 ± 0.71 | 1.00 ± 0.00 | 0.50 ± 0.00 | 2 | 87.00 ± 5.66 | +2.00 [-10.71, +14.71] |",
    ]
    alone = table([Start("snip", 0.2, 0, 2.0, 1.0, 0.5)])
    assert alone.splitlines()[2] == "| 0.2 | snip | 2.00 | 1.00 | 0.50 | 1 |"
