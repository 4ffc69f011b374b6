"""What training leaves behind: the curve, one `Epoch` per point. Nothing here imports torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import ClassVar, Self


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One point of the training curve. Accuracies are fractions in [0, 1]; losses are means over samples.

    Attributes:
        epoch: epochs completed at this point; the first is 1.
        lr: learning rate of the last step of the epoch.
        train_loss: mean of what was minimized (label smoothing included), measured while the weights were changing.
        train_top1: accuracy on the same batches, augmentation and dropout included; None without class labels.
        test_loss: mean loss on the test data, without label smoothing; None where there was no evaluation.
        test_top1: test accuracy.
        test_top5: fraction of samples whose class is among the five best; None with fewer than 6 classes.
        seconds: wall-clock time of the training steps, without evaluation and checkpoint.
    """

    # for records, which are read by pydantic
    __pydantic_config__: ClassVar[dict[str, bool | str]] = {"extra": "forbid", "allow_inf_nan": False}

    epoch: int
    lr: float
    train_loss: float | None
    train_top1: float | None
    test_loss: float | None = None
    test_top1: float | None = None
    test_top5: float | None = None
    seconds: float


@dataclass(frozen=True)
class History:
    """The curve of one training run. The results are those of the *last* epoch: no epoch is chosen by test accuracy."""

    curve: tuple[Epoch, ...] = ()

    def to_json(self, *, indent: int | None = None) -> str:
        """All numbers as JSON text: `{"curve": [{"epoch": 1, "lr": ..., ...}, ...]}`."""
        return json.dumps(asdict(self), indent=indent)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote.

        Raises:
            ValueError, TypeError, KeyError: text that it did not write.
        """
        return cls(tuple(Epoch(**point) for point in json.loads(text)["curve"]))

    @property
    def top1(self) -> float | None:
        """Test accuracy of the last epoch; None without test data or without epochs."""
        return self.curve[-1].test_top1 if self.curve else None

    @property
    def top5(self) -> float | None:
        """Test top-5 accuracy of the last epoch; None as for `top1`, or with fewer than 6 classes."""
        return self.curve[-1].test_top5 if self.curve else None

    @property
    def seconds(self) -> float:
        """Wall-clock time of all training steps."""
        return sum(point.seconds for point in self.curve)


class TrainingDiverged(ValueError):
    """The mean loss of an epoch was infinite or NaN; further training could not repair the weights.

    Attributes:
        epoch: the epoch it happened in, counted from 1.
        loss: the non-finite loss.
        curve: the finished epochs before it.
        where: "training" or "test", the data it was measured on.
    """

    def __init__(self, epoch: int, loss: float, curve: tuple[Epoch, ...], where: str = "training") -> None:
        super().__init__(
            f"training diverged in epoch {epoch}: the {where} loss is {loss}; "
            "lower recipe.lr, add recipe.warmup_epochs, or prune less"
        )
        self.epoch = epoch
        self.loss = loss
        self.curve = curve
        self.where = where

    def __reduce__(self) -> tuple[type[TrainingDiverged], tuple[int, float, tuple[Epoch, ...], str]]:
        # exceptions are rebuilt from their message otherwise, and could not leave a worker process
        return type(self), (self.epoch, self.loss, self.curve, self.where)
