"""`python -m benchmarks trainers`: a masked step beside a dense one.

Under each trainer that is installed, on one thread. Rounds of a few steps of
both kinds take turns, and their ratios are taken round by round; what is
printed is their median with its 95 % interval, which needs no distribution.
Both sides are built anew every few rounds, as where their memory happens to lie
may favor one of them. Times are those of the processor, which other programs
disturb less than those of the clock.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import logging
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import foreprune as fp
from foreprune.zoo import models

TARGET = 1.03
BATCH = 32
WARM = 2  # steps that are not counted: the first of a start do what later ones need not
FRESH = 7  # rounds after which both sides are built anew; odd, so that each side is the first in turn
Chunk = Callable[[int], list[float]]  # so many steps, the seconds of each


class _WithLoss(nn.Module):
    """ResNet-20 that answers as models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = models.create("resnet-20", input_shape=(3, 32, 32), classes=10)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(self.net(x), labels)}


class _Images(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __init__(self) -> None:
        self.x = torch.randn(BATCH * 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index % len(self.x)], "labels": torch.tensor(index % 10)}


def _loader() -> torch.utils.data.DataLoader[dict[str, Tensor]]:
    return torch.utils.data.DataLoader(_Images(), batch_size=BATCH)


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)


def _masks(model: nn.Module) -> fp.Masks:
    return fp.prune(model, "random", density=0.1)


def _durations(marks: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(marks)]


def _loop(model: Any, optimizer: Any, loader: Any, backward: Callable[[Tensor], object]) -> Chunk:
    def steps(number: int) -> list[float]:
        marks = []
        for index, batch in enumerate(loader):
            marks.append(time.process_time())
            if index == number:
                break
            loss = model(**batch)["loss"]
            backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        return _durations(marks)

    return steps


def plain(*, masked: bool) -> Chunk:
    """A loop of one's own."""
    model = _WithLoss()
    optimizer = _sgd(model)
    if masked:
        _masks(model).attach(model, optimizer)
    return _loop(model, optimizer, _loader(), Tensor.backward)


def accelerate(*, masked: bool) -> Chunk:
    """The same under accelerate."""
    from accelerate import Accelerator

    from foreprune.integrations.accelerate import attach

    net = _WithLoss()
    accelerator = Accelerator(cpu=True)
    model, optimizer, loader = accelerator.prepare(net, _sgd(net), _loader())
    if masked:
        attach(_masks(net), accelerator, model, optimizer)
    return _loop(model, optimizer, loader, accelerator.backward)


def transformers(*, masked: bool) -> Chunk:
    """The Trainer of transformers."""
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    from foreprune.integrations.transformers import MaskCallback

    model = _WithLoss()
    marks: list[float] = []

    def mark(*_: Any, **__: Any) -> None:
        marks.append(time.process_time())

    clock = type("Clock", (TrainerCallback,), {"on_step_end": mark})()
    folder = tempfile.mkdtemp()

    def steps(number: int) -> list[float]:
        marks.clear()
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=number + 1,
            per_device_train_batch_size=BATCH,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            logging_strategy="no",
        )
        callbacks = [clock, *([MaskCallback(_masks(model))] if masked else [])]
        trainer = Trainer(
            model, arguments, train_dataset=_Images(), optimizers=(_sgd(model), None), callbacks=callbacks
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return _durations(marks)

    return steps


def lightning(*, masked: bool) -> Chunk:
    """The Trainer of Lightning."""
    from lightning import Callback, LightningModule, Trainer

    from foreprune.integrations.lightning import MaskCallback

    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    marks: list[float] = []

    def mark(*_: Any, **__: Any) -> None:
        marks.append(time.process_time())

    def training_step(self: Any, batch: dict[str, Tensor], index: int) -> Tensor:
        loss: Tensor = self.net(**batch)["loss"]
        return loss

    members = {"training_step": training_step, "configure_optimizers": _sgd}
    module = type("Module", (LightningModule,), members)()
    module.net = _WithLoss()
    clock = type("Clock", (Callback,), {"on_train_batch_end": mark})()

    def steps(number: int) -> list[float]:
        marks.clear()
        callbacks = [clock, *([MaskCallback(_masks(module))] if masked else [])]
        trainer = Trainer(
            max_steps=number + 1,
            accelerator="cpu",
            devices=1,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, _loader())
        return _durations(marks)

    return steps


TRAINERS: dict[str, Callable[..., Chunk]] = {
    "plain": plain,
    "accelerate": accelerate,
    "transformers": transformers,
    "lightning": lightning,
}


def pairs(name: str, *, rounds: int, steps: int) -> list[tuple[float, float]]:
    """The median seconds of a masked and of a dense step, round by round; which comes first takes turns."""
    found: list[tuple[float, float]] = []
    chunks: dict[bool, Chunk] = {}
    gc.disable()
    try:
        for turn in range(rounds):
            order = (True, False) if turn % 2 else (False, True)
            if turn % FRESH == 0:
                chunks = {masked: TRAINERS[name](masked=masked) for masked in order}
            seconds = {}
            for masked in order:
                gc.collect()
                taken = chunks[masked](WARM + steps)[WARM:]
                assert len(taken) == steps
                seconds[masked] = statistics.median(taken)
            found.append((seconds[True], seconds[False]))
    finally:
        gc.enable()
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the median of what they are drawn from lies with 95 % (order statistics); the range of fewer than 6."""
    ordered, count = sorted(values), len(values)
    below, rank = 0.0, 0
    while (below := below + math.comb(count, rank) / 2**count) <= 0.025:
        rank += 1
    return ordered[max(rank - 1, 0)], ordered[count - max(rank, 1)]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks trainers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trainers", nargs="*", metavar="TRAINER", help=f"of {', '.join(TRAINERS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=101, help="default: 101")
    parser.add_argument("--steps", type=int, default=5, help="steps of each kind in a round; default: 5")
    chosen = parser.parse_args(arguments)
    if odd := [name for name in chosen.trainers if name not in TRAINERS]:
        parser.error(f"no trainer {odd[0]!r}; there are {', '.join(TRAINERS)}")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for name in chosen.trainers or TRAINERS:
        try:
            found = pairs(name, rounds=chosen.rounds, steps=chosen.steps)
        except ImportError as error:
            print(f"{name}: skipped ({error})")
            continue
        ratios = [masked / dense for masked, dense in found]
        ratio, (low, high) = statistics.median(ratios), interval(ratios)
        masked, dense = (1000 * statistics.median(side) for side in zip(*found, strict=True))
        print(
            f"masked step, {name}, resnet-20, batch {BATCH}: {ratio:.3f} [{low:.3f}-{high:.3f}] of a dense step, "
            f"{masked:.1f} and {dense:.1f} ms{'' if ratio <= TARGET else ', MISSED'}",
            flush=True,
        )
