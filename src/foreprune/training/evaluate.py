"""`evaluate`: loss and accuracy of a network on data."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foreprune.core.net import isolated_randomness, modes_kept, primary_output
from foreprune.core.task import Loss, one_number
from foreprune.training.batches import Data, batches_of, reiterable

Precision = Literal["float32", "bfloat16", "float16"]


class Evaluation(NamedTuple):
    """Mean loss over samples, and accuracies as fractions (None where they are not defined)."""

    loss: float
    top1: float | None
    top5: float | None


def evaluate(
    model: nn.Module,
    data: Data,
    *,
    loss: Loss | None = None,
    device: torch.device | str | None = None,
    batch_size: int = 512,
    precision: Precision = "float32",
) -> Evaluation:
    """Loss, top-1 and top-5 accuracy of `model` on `data`, in evaluation mode and without gradients.

    Accuracies need integer targets (N, ...) and logits (N, classes, ...), and are None otherwise; top-5 is also None
    with fewer than 6 classes, where it says nothing. The model's modes and the global random state stay as they were.

    Args:
        model: any module; of an output that is a tuple or mapping the first tensor counts as the logits.
        data: one batch (input, target), an iterable of batches such as a DataLoader, or an image set of
            `foreprune.zoo`. An input is a tensor with the batch axis first, a tuple of them (positional arguments) or a
            mapping (keyword arguments); a mapping with "labels" is a batch too.
        loss: callable (output, target) -> mean over the batch; None is cross-entropy.
        device: where to compute, None for where the model is; the model is moved there and stays, batches too.
        batch_size: images at a time, for an image set only.
        precision: autocast to this type on the way.

    Returns:
        (loss, top1, top5): the mean loss over samples, and fractions of the targets.

    Raises:
        ValueError: no samples, or a device or precision that is not there.
        TypeError: `model` is no module, or data that are not batches or can be passed over only once.
    """
    where = place(model, device)
    casting = autocast(where, precision)
    data = reiterable(data, "data")
    tally = Tally(top5=True)
    with modes_kept(model), torch.no_grad(), isolated_randomness(0):
        model.eval()
        settings: dict[str, Any] = {"seed": None, "epoch": 0, "augment": False, "device": where, "module": model}
        for inputs, target, size in batches_of(data, batch_size, **settings):
            with casting():
                output = inputs.call(model)
                value = loss_value(loss, output, target)
            tally.add(value, size, output, target)
    if not tally.samples:
        raise ValueError("data holds no samples to evaluate on; give at least one batch")
    return tally.result()


class Tally:
    """Sums of loss and correct answers, kept on the device and read once: no step waits for the one before."""

    def __init__(self, *, top5: bool) -> None:
        self.samples = 0
        self._top5 = top5
        self._loss: Tensor | float = 0.0
        self._correct: list[Tensor | int] = [0, 0]
        self._answers = 0
        self._classes = 0

    def add(self, value: Tensor, size: int, output: Any, target: Any) -> None:
        """Count one batch of `size` samples whose mean loss is `value`."""
        self.samples += size
        wide = torch.promote_types(value.dtype, torch.float32)  # a sum of many bfloat16 losses would stop growing
        self._loss = torch.add(value.detach().to(wide) * size, self._loss)
        logits = class_logits(output, target)
        if logits is None:
            return
        logits = logits.detach()
        self._answers += target.numel()
        self._classes = logits.shape[1]
        self._correct[0] = self._correct[0] + (logits.argmax(1) == target).sum()
        if self._top5 and self._classes > 5:
            best = logits.topk(5, dim=1).indices
            self._correct[1] = self._correct[1] + (best == target.unsqueeze(1)).sum()

    def result(self) -> Evaluation:
        """The means so far."""
        loss = float(self._loss) / self.samples
        if not self._answers:
            return Evaluation(loss, None, None)
        top5 = int(self._correct[1]) / self._answers if self._top5 and self._classes > 5 else None
        return Evaluation(loss, int(self._correct[0]) / self._answers, top5)


def class_logits(output: Any, target: Any) -> Tensor | None:
    """The logits (N, classes, ...) if output and target are those of a classifier with two or more classes."""
    if not isinstance(target, Tensor) or target.is_floating_point() or target.dtype == torch.bool or not target.dim():
        return None
    try:
        logits = primary_output(output)
    except TypeError:
        return None
    if logits.dim() != target.dim() + 1 or logits.shape[1] < 2 or not logits.is_floating_point():
        return None
    return logits if (logits.shape[0], *logits.shape[2:]) == tuple(target.shape) else None


def loss_value(loss: Loss | None, output: Any, target: Any, *, label_smoothing: float = 0.0) -> Tensor:
    """The mean loss of one batch as a scalar tensor; None is cross-entropy.

    Raises:
        ValueError: the loss did not return one number.
    """
    if loss is None:
        return F.cross_entropy(primary_output(output), target, label_smoothing=label_smoothing)
    return one_number(loss(output, target))


def place(model: nn.Module, device: torch.device | str | None) -> torch.device:
    """Move `model` to `device` (None: leave it where it is) and say where it now is.

    Raises:
        TypeError: not a module.
        ValueError: the device does not exist here.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    if device is None:
        first = next(model.parameters(), None)
        return torch.device("cpu") if first is None else first.device
    where = torch.device(device)
    if where.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={str(device)!r}, but there is no CUDA device here; write device='cpu'")
    model.to(where)
    return where


def autocast(device: torch.device, precision: Precision) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """A maker of the context that computes in `precision` on `device`.

    Raises:
        ValueError: float16 anywhere but on CUDA.
    """
    if precision == "float32":
        return contextlib.nullcontext
    if precision == "float16" and device.type != "cuda":
        raise ValueError(
            f"precision='float16' needs a CUDA device, and the model is on {device.type!r}; "
            "write precision='bfloat16' or 'float32'"
        )
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float16
    return lambda: torch.autocast(device.type, dtype=dtype)
