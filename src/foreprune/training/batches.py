"""Batches from whatever the user has: one batch, a DataLoader, an image set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from foreprune.core.masks import unwrapped
from foreprune.core.task import Batch, Inputs, materialize


@runtime_checkable
class ImageSource(Protocol):
    """Images that make their own batches, such as those of `foreprune.zoo`. Its length is the number of images."""

    def batches(
        self, batch_size: int, *, seed: int | None, epoch: int, augment: bool, device: torch.device
    ) -> Iterable[tuple[Tensor, Tensor]]:
        """One pass over the images, in an order that depends on seed and epoch; without a seed, in theirs."""
        ...

    def __len__(self) -> int: ...


Data = ImageSource | Iterable[Any]


def batches_of(
    data: Data,
    batch_size: int,
    *,
    seed: int | None,
    epoch: int,
    augment: bool,
    device: torch.device,
    module: nn.Module | None = None,
) -> Iterator[tuple[Inputs, Any, int]]:
    """One pass over `data` as (arguments of the forward call, target, number of samples), on `device`.

    Raises:
        TypeError: a batch that is neither (input, target) nor a mapping with "labels", or not what `module` takes.
    """
    if isinstance(data, ImageSource):
        data = data.batches(batch_size, seed=seed, epoch=epoch, augment=augment, device=device)
    for item in data:
        batch = _to_batch(item, device, module)
        yield batch.inputs, batch.target, batch.size


def _to_batch(item: Any, device: torch.device, module: nn.Module | None) -> Batch:
    if isinstance(item, (tuple, list)) and len(item) == 2 and all(isinstance(part, Tensor) for part in item):
        images, target = (part.to(device, non_blocking=True) for part in item)  # the usual case, without the inspection
        return Batch(Inputs((images,)), target, images.shape[0])
    return materialize([item], device, module=None if module is None else unwrapped(module))[0]


def reiterable(data: Any, name: str) -> Data:
    """`data` as something that can be passed over again and again; one batch becomes a list of itself.

    Raises:
        TypeError: an iterator, which can be passed over only once, or nothing that could hold batches.
    """
    if isinstance(data, Mapping) or (isinstance(data, (tuple, list)) and data and isinstance(data[-1], Tensor)):
        return [data]
    if isinstance(data, (Tensor, str)) or not (
        isinstance(data, (ImageSource, Iterable)) or hasattr(data, "__getitem__")
    ):
        raise TypeError(
            f"{name} must be a batch (input, target), an iterable of batches or an image set, not "
            f"{type(data).__name__}; e.g. a DataLoader or [(images, labels)]"
        )
    if isinstance(data, Iterator):
        raise TypeError(
            f"{name} is an iterator, which is used up after one pass; give something that can be passed over again, "
            "such as a DataLoader or list(...)"
        )
    found: Data = data
    return found
