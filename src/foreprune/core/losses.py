"""The loss of a model without one of the user's own: what the model computes itself, or the cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_IGNORED = -100  # torch's and transformers' mark of a position without a target
_OTHER = (
    "pass loss=, a function (output, target) -> mean, such as torch.nn.functional.mse_loss for regression or "
    "binary_cross_entropy_with_logits for several labels"
)


def own_loss(output: Any) -> Tensor | None:
    """The loss in the output of a model that was given labels; None if there is none."""
    candidates: list[Any]
    if isinstance(output, Mapping):
        candidates = [output.get("loss")]
    elif isinstance(output, Sequence) and not hasattr(output, "loss"):
        candidates = [*output]  # (loss, logits), or (logits, loss)
    else:
        candidates = [output, getattr(output, "loss", None)]
    for value in candidates:
        if isinstance(value, Tensor) and value.numel() == 1 and not value.dim() and value.is_floating_point():
            return value
    return None


def cross_entropy(logits: Tensor, target: Any, *, temperature: float = 1.0) -> Tensor:
    """The mean cross-entropy of `logits` / `temperature`.

    Args:
        logits: (N, classes), (N, classes, positions...) as of a segmentation, or (N, positions..., classes) as of a
            language model.
        target: class numbers, of the shape of the logits without the axis of classes, -100 where there is none; or
            probabilities, of the shape of the logits.

    Raises:
        TypeError, ValueError: the target is none for a cross-entropy, and what to write instead.
    """
    if not isinstance(target, Tensor):
        raise TypeError(
            f"the default loss is cross-entropy of a tensor of classes, not {type(target).__name__}; {_OTHER}"
        )
    shapes = f"the output is {tuple(logits.shape)} and the target {tuple(target.shape)}, {target.dtype}"
    if target.is_floating_point():
        if target.shape != logits.shape or not _probabilities(target):
            raise ValueError(f"the default loss is cross-entropy of classes or probabilities: {shapes}; {_OTHER}")
        return F.cross_entropy(logits / temperature, target)
    axis = _class_axis(logits, target)
    if axis is None:
        raise ValueError(
            "the default loss is cross-entropy, whose target has the shape of the output without the axis of classes: "
            f"{shapes}; reshape the target, or {_OTHER}"
        )
    target, classes = target.long(), logits.shape[axis]
    meant = target[target != _IGNORED]
    if not meant.numel():
        raise ValueError(f"every target of a batch is {_IGNORED}, which means none; give batches with targets")
    if int(meant.min()) < 0 or int(meant.max()) >= classes:
        odd = int(meant.min()) if int(meant.min()) < 0 else int(meant.max())
        raise ValueError(
            f"a target is {odd}, and the output has {classes} classes, 0 to {classes - 1}; number the classes from 0, "
            f"write {_IGNORED} for none, or {_OTHER}"
        )
    return F.cross_entropy((logits if axis == 1 else logits.movedim(-1, 1)) / temperature, target)


def _probabilities(target: Tensor) -> bool:
    if target.dim() < 2 or not target.numel():
        return False
    sums = target.sum(1)
    return bool((target >= 0).all()) and bool((sums - 1).abs().max() < 1e-2)


def _class_axis(logits: Tensor, target: Tensor) -> int | None:
    """Where the classes are, 1 or the last; None if the shapes do not fit.

    Raises:
        ValueError: they fit both ways.
    """
    if logits.dim() < 2 or target.dtype == torch.bool:
        return None
    second = (logits.shape[0], *logits.shape[2:]) == tuple(target.shape)
    last = tuple(logits.shape[:-1]) == tuple(target.shape)
    if second and last and logits.dim() == 3:
        raise ValueError(
            f"an output {tuple(logits.shape)} with a target {tuple(target.shape)} has its classes on axis 1 (as "
            "torch's cross_entropy) or on the last (as language models), nobody can tell; pass "
            "loss=torch.nn.functional.cross_entropy, or loss=lambda o, y: cross_entropy(o.transpose(1, 2), y)"
        )
    return 1 if second else logits.dim() - 1 if last else None
