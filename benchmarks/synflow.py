"""SynFlow: all rounds against the authors', and one round against the passes it cannot do without.

All in single precision, as the authors' code; ours is double by default.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

import foreprune as fp
from benchmarks.machine import bound_ms, flops_of
from benchmarks.networks import SHAPES, common_kept, network, plain_pass, rank_correlation
from benchmarks.published import SynFlow
from benchmarks.timing import Row, compare
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.select import keep_top
from foreprune.core.task import Task, as_inputs
from foreprune.methods.synflow import synflow

ROUNDS = 100
DENSITY = 0.05
# Read |w| and the mask and write their product; read it in the forward and in the backward; write the score; read it
# and the mask for the selection and write the new mask. Nothing less will do, whatever the order.
_BYTES_A_WEIGHT = (4 + 1 + 4) + 4 + 4 + 4 + (4 + 1 + 1)


def rows() -> Iterator[Row]:
    yield from _all_rounds()
    yield from _one_round()


def _all_rounds() -> Iterator[Row]:
    for name, target, pairs in (("resnet-20", 1 / 2.5, 11), ("vgg-16", 1 / 5, 5), ("resnet-18", 1 / 3, 5)):
        shape, _ = SHAPES[name]
        model, x = network(name), torch.ones(1, *shape)

        def ours(model: nn.Module = model, x: Tensor = x) -> Masks:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", fp.LayerCollapse)
                return fp.prune(model, "synflow", density=DENSITY, inputs=x, rounds=ROUNDS, precision="single")

        def published(model: nn.Module = model, shape: tuple[int, ...] = shape) -> dict[str, Tensor]:
            return SynFlow(model, shape).prune(DENSITY, rounds=ROUNDS)

        scores = fp.score(model, "synflow", inputs=x, precision="single")
        agreement = f"{rank_correlation(scores, SynFlow(model, shape).scores())}; {common_kept(ours(), published())}"
        yield compare(
            f"SynFlow, {ROUNDS} rounds to {DENSITY:.0%}, {name} at {shape[1]} px",
            ours,
            published,
            against="the published procedure",
            target=target,
            rounds=pairs,
            bound_ms=ROUNDS * _bound(model, x),
            agreement=agreement,
        )


def _bound(model: nn.Module, x: Tensor) -> float:
    weights = Net.of(model).total
    flops = flops_of(lambda: plain_pass(model.eval(), model(x).sum()))
    return bound_ms(flops=flops, traffic=_BYTES_A_WEIGHT * weights)


def _one_round() -> Iterator[Row]:
    """One round against what it cannot do without: one pass of the plain network and one selection."""
    for name, (shape, _) in SHAPES.items():
        model, x = network(name).eval(), torch.ones(1, *shape)
        net = Net.of(model)
        task = Task((), as_inputs(x), None, torch.Generator())
        dense = Masks.dense(net.weights)
        scores = synflow(net, task, dense, precision="single")
        keep = net.total // 20

        def select(scores: dict[str, Tensor] = scores, keep: int = keep, dense: Masks = dense) -> None:
            keep_top(scores, keep, generator=torch.Generator(), among=dense)

        def ours(net: Net = net, task: Task = task, dense: Masks = dense, keep: int = keep) -> None:
            keep_top(synflow(net, task, dense, precision="single"), keep, generator=torch.Generator(), among=dense)

        def plain(model: nn.Module = model, x: Tensor = x, select: object = select) -> None:
            plain_pass(model, model(x).sum())
            assert callable(select)
            select()

        yield compare(
            f"SynFlow round, {name} at {shape[1]} px",
            ours,
            plain,
            against="forward + backward at batch 1 + selection",
            target=1.3,
            rounds=15,
            bound_ms=_bound(model, x),
        )
