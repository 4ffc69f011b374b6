"""`python -m benchmarks trainers`: a masked step beside a dense one.

Under each trainer that is installed. Times are those of the processor: on one
thread they are what an idle machine takes, whatever else this one does.
"""

from __future__ import annotations

import argparse
import itertools
import logging
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
from benchmarks.timing import Row, summarized
from foreprune.zoo import models

TARGET = 1.03
BATCH = 32
WARM = 2  # steps that are not counted: the first of a start do what later ones need not
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


def row(name: str, *, rounds: int, steps: int) -> Row:
    """Rounds of a few steps of both kinds in turn, the median step of each."""
    make = TRAINERS[name]
    ours, reference = make(masked=True), make(masked=False)
    mine: list[float] = []
    theirs: list[float] = []
    for turn in range(rounds):
        for chunk in (ours, reference) if turn % 2 else (reference, ours):
            seconds = statistics.median(chunk(WARM + steps)[WARM:])
            (mine if chunk is ours else theirs).append(seconds)
    claim = f"masked step, {name}, resnet-20, batch {BATCH}"
    return summarized(claim, mine, theirs, against="dense step", target=TARGET)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks trainers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trainers", nargs="*", metavar="TRAINER", help=f"of {', '.join(TRAINERS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=31, help="default: 31")
    parser.add_argument("--steps", type=int, default=5, help="steps of each kind in a round; default: 5")
    chosen = parser.parse_args(arguments)
    if odd := [name for name in chosen.trainers if name not in TRAINERS]:
        parser.error(f"no trainer {odd[0]!r}; there are {', '.join(TRAINERS)}")
    warnings.simplefilter("ignore")
    for name in chosen.trainers or TRAINERS:
        try:
            found = row(name, rounds=chosen.rounds, steps=chosen.steps)
        except ImportError as error:
            print(f"{name}: skipped ({error})")
            continue
        print(
            f"{found.claim}: {found.ratio:.3f} [{found.low:.3f}-{found.high:.3f}] of a dense step, "
            f"{found.ours_ms:.1f} and {found.reference_ms:.1f} ms{'' if found.met else ', MISSED'}",
            flush=True,
        )
