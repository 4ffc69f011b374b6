"""Splits of image data sets: `ImageSet`, whole in memory, and `ImageFolder`, decoded as it is read.

Both are `Images`: batches that depend on nothing but (seed, epoch), class-balanced scoring batches, subsets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from foreprune.zoo.augment import Augmentation, RandomResizedCrop
from foreprune.zoo.readers import open_image, pillow, threads, to_pixels

Device = torch.device | str | None
ImageBatch = tuple[Tensor, Tensor]

# what a random stream is for: one seed gives unrelated numbers to each
_ORDER, _AUGMENTATION, _CROP, _SUBSET, _BALANCED = range(5)
_BATCHES_AHEAD = 2
_SCORED_AT_ONCE = 1000  # ten images per class fit up to a hundred classes


@dataclass(frozen=True, eq=False)
class _Pass:
    """One pass over a split: indices of each batch, and what is done to the images."""

    chunks: Sequence[Tensor]
    augmentations: tuple[Augmentation, ...]
    seed: int
    epoch: int
    device: Device


class Images(ABC):
    """A split of a data set: what `ImageSet` and `ImageFolder` have in common.

    Attributes:
        labels: (N,) int64, from 0 to `classes` - 1.
        mean, std: per channel, of pixels scaled to [0, 1]; what `normalized` subtracts and divides by.
        augmentation: applied in turn to raw pixels where `batches(augment=True)` is asked for.
        classes: how many there are; 0 takes the largest label plus one.
    """

    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: tuple[Augmentation, ...]
    classes: int

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def take(self, indices: Tensor | Sequence[int]) -> Self:
        """The images at `indices`, in that order; a copy.

        Raises:
            TypeError: indices that are not whole numbers (for a boolean mask write `mask.nonzero()[:, 0]`).
            IndexError: an index that is negative or too large.
        """

    def to(self, device: torch.device | str) -> Self:
        """The same images in the memory of `device`, where they can lie there; the same batches come out."""
        return self

    def subset(self, n: int, *, seed: int) -> Self:
        """The first `n` images of a permutation that depends on `seed` alone.

        Raises:
            ValueError: `n` is not between 1 and the number of images.
        """
        _check_seed(seed)
        if not 1 <= n <= len(self):
            raise ValueError(f"a subset must have between 1 and {len(self)} images (all of them), not {n}")
        return self.take(torch.randperm(len(self), generator=_stream(seed, 0, _SUBSET))[:n])

    def normalized(self, pixels: Tensor) -> Tensor:
        """(..., C, H, W) uint8 -> float32, `(pixels / 255 - mean) / std`, on the device of `pixels`."""
        if pixels.dtype != torch.uint8:
            raise TypeError(f"normalized() takes raw uint8 pixels from 0 to 255, not {pixels.dtype}")
        pairs = zip(self.mean, self.std, strict=True)
        scale = torch.tensor([1 / (255 * std) for std in self.std], dtype=torch.float32, device=pixels.device)
        shift = torch.tensor([-mean / std for mean, std in pairs], dtype=torch.float32, device=pixels.device)
        return pixels.to(torch.float32).mul_(scale[:, None, None]).add_(shift[:, None, None])

    def batches(
        self, batch_size: int, *, seed: int | None = None, epoch: int = 0, augment: bool = False, device: Device = None
    ) -> Iterator[ImageBatch]:
        """Every image once, normalized: (B, C, H, W) float32 and (B,) int64; the last batch may be smaller.

        The order and the augmentation depend on (seed, epoch) alone, and the order not on `augment`.

        Args:
            batch_size: images in a batch.
            seed: None leaves the images in order.
            epoch: which pass over the data.
            augment: apply `augmentation`; needs a seed.
            device: where the batches go; None leaves them with the images.

        Raises:
            ValueError: a batch size below 1, a negative seed or epoch, or augmentation without a seed; while iterating,
                a file that is not a readable image.
            ImportError: files are to be decoded, and Pillow is not installed.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        if epoch < 0:
            raise ValueError(f"epoch must be 0 or more, not {epoch}")
        if augment and seed is None:
            raise ValueError("augment=True needs a seed: write batches(..., seed=0, augment=True)")
        order = torch.arange(len(self))
        if seed is not None:
            _check_seed(seed)
            order = torch.randperm(len(self), generator=_stream(seed, epoch, _ORDER))
        chunks = torch.split(order, batch_size) if len(self) else ()
        return self._load(_Pass(chunks, self.augmentation if augment else (), seed or 0, epoch, device))

    @abstractmethod
    def _load(self, plan: _Pass) -> Iterator[ImageBatch]:
        """The batches of one pass."""

    def balanced(self, n: int, *, seed: int) -> Self:
        """Exactly `n` images of each class, in a random order; a copy. Raises as `per_class`."""
        _check_seed(seed)
        if n < 1:
            raise ValueError(f"n must be at least 1 image of each class, not {n}")
        labels = self.labels.cpu()
        counts = torch.bincount(labels, minlength=self.classes)
        if not len(labels):
            raise ValueError("there are no images to take from")
        if counts.min() < n:
            raise ValueError(
                f"{n} images of each class were asked for, and class {int(counts.argmin())} has {int(counts.min())}; "
                "ask for fewer or take a larger subset"
            )
        generator = _stream(seed, 0, _BALANCED)
        order = torch.randperm(len(labels), generator=generator)
        # a stable sort by class keeps the random order within each class
        by_class = order[labels[order].argsort(stable=True)]
        starts = counts.cumsum(0) - counts
        chosen = by_class[(starts[:, None] + torch.arange(n)).flatten()]
        return self.take(chosen[torch.randperm(len(chosen), generator=generator)])

    def per_class(self, n: int, *, seed: int) -> ImageBatch:
        """One batch of exactly `n` images of each class, normalized, not augmented, in a random order.

        GraSP and Frankle et al. 2021 score on such batches, with n = 10. The order is shuffled because halves of a
        batch sorted by class would see different classes, and with them other batch statistics.

        Returns:
            (n * classes, C, H, W) float32 and (n * classes,) int64.

        Raises:
            ValueError: a class has fewer than `n` images.
        """
        chosen = self.balanced(n, seed=seed)
        return next(chosen.batches(len(chosen)))

    def scoring_batches(self, per_class: int, *, seed: int, device: torch.device | str) -> list[ImageBatch]:
        """`per_class(per_class, seed=seed)` on `device`, in batches of at most a thousand images."""
        images, labels = self.per_class(per_class, seed=seed)
        pairs = zip(torch.split(images, _SCORED_AT_ONCE), torch.split(labels, _SCORED_AT_ONCE), strict=True)
        return [(x.to(device), y.to(device)) for x, y in pairs]

    @abstractmethod
    def mean_image(self, scored: Sequence[ImageBatch]) -> Tensor:
        """Mean of the raw pixels in [0, 1], (C, H, W): of all images if they are in memory, else of those `scored`."""

    def _check(self, *, count: int, channels: int) -> None:
        """Check the attributes, and put the number of classes in."""
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(
                f"mean and std need one number for each of {channels} channels, not {len(self.mean)} and "
                f"{len(self.std)}"
            )
        if not all(value > 0 for value in self.std):
            raise ValueError(f"std must be positive in every channel, not {self.std}")
        if self.labels.dtype != torch.int64:
            raise TypeError(f"labels must be int64, not {self.labels.dtype}; write labels.long()")
        if self.labels.shape != (count,):
            raise ValueError(f"{count} images need labels of shape ({count},), not {tuple(self.labels.shape)}")
        low, high = (int(self.labels.min()), int(self.labels.max())) if count else (0, -1)
        number = self.classes or high + 1
        if low < 0 or high >= number:
            raise ValueError(f"labels must be from 0 to {number - 1}, and these are from {low} to {high}")
        object.__setattr__(self, "classes", number)


@dataclass(frozen=True, eq=False)
class ImageSet(Images):
    """One split of a data set, in memory.

    Attributes:
        images: (N, C, H, W) uint8, on any device.
        labels, mean, std, augmentation, classes: as in `Images`.

    Raises:
        TypeError: images that are not uint8, or labels that are not int64.
        ValueError: shapes that do not belong together, a standard deviation of zero, labels out of range.
    """

    images: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: tuple[Augmentation, ...] = ()
    classes: int = 0

    rows: ClassVar[tuple[str, ...]] = ("images", "labels")  # what has an entry for each image

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8:
            raise TypeError(f"images must be uint8 pixels from 0 to 255, not {self.images.dtype}")
        if self.images.ndim != 4:
            raise ValueError(f"images must be (N, C, H, W), not {tuple(self.images.shape)}")
        self._check(count=len(self.images), channels=self.images.shape[1])

    def take(self, indices: Tensor | Sequence[int]) -> Self:
        """As `Images.take`, with everything that belongs to the images."""
        index = checked_indices(indices, len(self)).to(self.images.device)
        return replace(self, **{name: getattr(self, name).index_select(0, index) for name in self.rows})

    def to(self, device: torch.device | str) -> Self:
        """As `Images.to`."""
        return replace(self, **{name: getattr(self, name).to(device) for name in self.rows})

    def _load(self, plan: _Pass) -> Iterator[ImageBatch]:
        generator = _stream(plan.seed, plan.epoch, _AUGMENTATION)
        for chunk in plan.chunks:
            index = chunk.to(self.images.device)
            pixels = self.images.index_select(0, index).to(plan.device)
            for augmentation in plan.augmentations:
                pixels = augmentation(pixels, generator)
            yield self.normalized(pixels), self._answers(index, plan.device)

    def _answers(self, index: Tensor, device: Device) -> Tensor:
        """What a network is to say of the images at `index`."""
        return self.labels.index_select(0, index).to(device)

    def mean_image(self, scored: Sequence[ImageBatch]) -> Tensor:
        """Mean of the raw pixels of all images in [0, 1], (C, H, W); `scored` is not needed."""
        chunks = [chunk.double().sum(0) for chunk in torch.split(self.images, _SCORED_AT_ONCE)]
        return torch.stack(chunks).sum(0).div(255 * len(self)).float()


@dataclass(frozen=True, eq=False)
class ImageFolder(Images):
    """One split too large for memory: image files of any size, decoded by a pool of threads as batches are read.

    At most three batches are in memory. Without augmentation the shorter side is resized to `resize` pixels and the
    center cut out; with it, a leading `RandomResizedCrop` is cut from the full image while decoding, and the other
    augmentations follow on the pixels. Resizing is bilinear, by Pillow.

    Attributes:
        root: folder that `files` are relative to.
        files: one for each image.
        labels, mean, std, augmentation, classes: as in `Images`.
        size: height and width of what comes out, in pixels.
        resize: shorter side before the center is cut out, in pixels, at least `size`.

    Raises:
        TypeError: labels that are not int64.
        ValueError: as many labels as files there are not, labels out of range, `resize` below `size`.
    """

    root: Path
    files: tuple[str, ...]
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: tuple[Augmentation, ...] = ()
    classes: int = 0
    size: int = 224
    resize: int = 256

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.resize:
            raise ValueError(f"resize ({self.resize}) must be at least size ({self.size}), and size at least 1")
        self._check(count=len(self.files), channels=3)

    def take(self, indices: Tensor | Sequence[int]) -> Self:
        """As `Images.take`; no file is read."""
        index = checked_indices(indices, len(self))
        return replace(self, files=tuple(self.files[i] for i in index.tolist()), labels=self.labels[index])

    def _load(self, plan: _Pass) -> Iterator[ImageBatch]:
        pillow()  # an ImportError comes at once, not with the first batch
        return self._decoded(plan)

    def _decoded(self, plan: _Pass) -> Iterator[ImageBatch]:
        crop: RandomResizedCrop | None = None
        augmentations = plan.augmentations
        if augmentations and isinstance(augmentations[0], RandomResizedCrop):
            crop, augmentations = augmentations[0], augmentations[1:]
        # two streams, because crops are drawn some batches ahead of the other augmentations
        crops, generator = (_stream(plan.seed, plan.epoch, purpose) for purpose in (_CROP, _AUGMENTATION))
        pool = ThreadPoolExecutor(threads())
        waiting: deque[tuple[Tensor, list[Future[Tensor]]]] = deque()

        def start(chunk: Tensor) -> None:
            draws = torch.rand(len(chunk), RandomResizedCrop.draws, generator=crops, dtype=torch.float64)
            pairs = zip(chunk.tolist(), draws, strict=True)
            waiting.append((chunk, [pool.submit(self._decode, index, crop, row) for index, row in pairs]))

        def finish() -> ImageBatch:
            chunk, decoded = waiting.popleft()
            pixels = torch.stack([image.result() for image in decoded]).to(plan.device)
            for augmentation in augmentations:
                pixels = augmentation(pixels, generator)
            return self.normalized(pixels), self.labels[chunk].to(plan.device)

        try:
            for chunk in plan.chunks:
                start(chunk)
                if len(waiting) > _BATCHES_AHEAD:
                    yield finish()
            while waiting:
                yield finish()
        finally:
            pool.shutdown(cancel_futures=True)

    def _decode(self, index: int, crop: RandomResizedCrop | None, draws: Tensor) -> Tensor:
        path = self.root / self.files[index]
        image = open_image(path, name=str(path))
        bilinear = pillow().Resampling.BILINEAR
        if crop is not None:
            sizes = torch.tensor([image.height]), torch.tensor([image.width])
            top, left, height, width = crop.boxes(draws[None], *sizes)[0].tolist()
            box = (left, top, left + width, top + height)
            return to_pixels(image.resize((self.size, self.size), bilinear, box=box))
        scale = self.resize / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), bilinear)
        left, top = (image.width - self.size) // 2, (image.height - self.size) // 2
        return to_pixels(image.crop((left, top, left + self.size, top + self.size)))

    def mean_image(self, scored: Sequence[ImageBatch]) -> Tensor:
        """Mean of the pixels of the images `scored`, undoing their normalization, in [0, 1]: (3, size, size)."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        images = torch.cat([x.cpu() for x, _ in scored])
        return (images.mean(0) * std + mean).clamp(min=0)


def _stream(seed: int, epoch: int, purpose: int) -> torch.Generator:
    state = np.random.SeedSequence((seed, epoch, purpose)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


def checked_indices(indices: Tensor | Sequence[int], count: int) -> Tensor:
    """(n,) int64 on the CPU. Raises as `Images.take`."""
    index = torch.as_tensor(indices)
    if index.numel() == 0:
        index = index.long()
    if index.ndim != 1 or index.dtype.is_floating_point or index.dtype.is_complex or index.dtype == torch.bool:
        raise TypeError(
            f"indices must be a list of whole numbers, not {index.dtype} of shape {tuple(index.shape)}; "
            "for a boolean mask write mask.nonzero()[:, 0]"
        )
    index = index.long().cpu()
    if len(index) and not -1 < int(index.min()) <= int(index.max()) < count:
        raise IndexError(f"indices must be from 0 to {count - 1}, not {int(index.min())} to {int(index.max())}")
    return index


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, not {seed}")
