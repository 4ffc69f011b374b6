"""Random augmentations of image batches: frozen values called as `augmentation(images, generator)`.

Images are (B, C, H, W), uint8 or floating point, and come back with the same shape, dtype and device. Every random
number is drawn on the device of the generator, so that a CPU generator gives the same images on every device. `batches`
applies them to raw pixels, before normalization: what a shift uncovers is black, as in OpenLTH.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class RandomHorizontalFlip:
    """Mirror each image left to right with probability `p`.

    Raises:
        ValueError: `p` is not in [0, 1].
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"p is a probability, between 0 and 1, not {self.p}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        flip = torch.rand(len(images), generator=generator, device=generator.device) < self.p
        return torch.where(flip.to(images.device)[:, None, None, None], images.flip(3), images)


@dataclass(frozen=True)
class RandomShift:
    """Move each image by up to `pixels` in each direction, uniformly, and fill with zeros (Frankle et al. 2021, A.2).

    The same as padding by `pixels` and cropping to the original size at a random place.

    Raises:
        ValueError: `pixels` is negative.
    """

    pixels: int = 4

    def __post_init__(self) -> None:
        if self.pixels < 0:
            raise ValueError(f"pixels must be 0 or more, not {self.pixels}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        count, reach = len(images), 2 * self.pixels + 1
        places = torch.randint(reach, (2, count), generator=generator, device=generator.device).to(images.device)
        padded = F.pad(images, (self.pixels,) * 4)
        windows = padded.unfold(2, images.shape[2], 1).unfold(3, images.shape[3], 1)  # (B, C, reach, reach, H, W)
        return windows.permute(0, 2, 3, 1, 4, 5)[torch.arange(count, device=images.device), places[0], places[1]]


@dataclass(frozen=True)
class RandomResizedCrop:
    """Cut a patch of random area and aspect ratio and stretch it bilinearly to the full image (Frankle et al. 2021,
    A.2).

    Ten patches are tried for each image (area uniform in `scale` times the image's, ratio width / height log-uniform in
    `ratio`); the first that fits is taken, at a uniform place; if none fits, the largest central one within `ratio`.

    Raises:
        ValueError: `scale` or `ratio` is not an increasing pair of positive numbers, or a scale exceeds 1.
    """

    scale: tuple[float, float] = (0.1, 1.0)
    ratio: tuple[float, float] = (0.8, 1.25)

    attempts: ClassVar[int] = 10
    draws: ClassVar[int] = 2 * attempts + 2  # area and ratio of each attempt, then the place

    def __post_init__(self) -> None:
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if not 0 < low <= high < math.inf:
                raise ValueError(f"{name} must be (low, high) with 0 < low <= high, not {(low, high)}")
        if self.scale[1] > 1:
            raise ValueError(f"scale is a fraction of the image's area, at most 1, not {self.scale[1]}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        count, _, height, width = images.shape
        draws = torch.rand(count, self.draws, generator=generator, device=generator.device, dtype=torch.float64)
        boxes = self.boxes(draws, torch.full((count,), height), torch.full((count,), width)).to(images.device)
        rows = _sample_positions(boxes[:, 0], boxes[:, 2], height)
        columns = _sample_positions(boxes[:, 1], boxes[:, 3], width)
        # grid_sample wants the position x of a pixel center as (2x + 1) / size - 1
        grid = torch.stack(
            (
                ((2 * columns + 1) / width - 1)[:, None, :].expand(count, height, width),
                ((2 * rows + 1) / height - 1)[:, :, None].expand(count, height, width),
            ),
            dim=3,
        )
        floating = images if images.is_floating_point() else images.float()
        patches = F.grid_sample(floating, grid.to(floating.dtype), mode="bilinear", align_corners=False)
        return patches if images.is_floating_point() else patches.round_().clamp_(0, 255).to(images.dtype)

    def boxes(self, draws: Tensor, heights: Tensor, widths: Tensor) -> Tensor:
        """Patches for images of any sizes.

        Args:
            draws: (B, `RandomResizedCrop.draws`) uniform numbers in [0, 1).
            heights, widths: (B,) sizes in pixels.

        Returns:
            (B, 4) int64: top, left, height, width; inside the image, at least one pixel.
        """
        heights, widths = heights.to(draws), widths.to(draws)
        areas = self.scale[0] + draws[:, : self.attempts] * (self.scale[1] - self.scale[0])
        areas = areas * (heights * widths)[:, None]
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratios = torch.exp(low + draws[:, self.attempts : 2 * self.attempts] * (high - low))
        tall = torch.round(torch.sqrt(areas / ratios)).clamp_(min=1)
        wide = torch.round(torch.sqrt(areas * ratios)).clamp_(min=1)
        fits = (tall <= heights[:, None]) & (wide <= widths[:, None])
        first = fits.int().argmax(1, keepdim=True)  # argmax of booleans: the first true one
        some = fits.any(1)
        tall, wide = tall.gather(1, first)[:, 0], wide.gather(1, first)[:, 0]
        central_tall = torch.minimum(heights, torch.round(widths / self.ratio[0])).clamp_(min=1)
        central_wide = torch.minimum(widths, torch.round(heights * self.ratio[1])).clamp_(min=1)
        tall, wide = torch.where(some, tall, central_tall), torch.where(some, wide, central_wide)
        top = torch.where(some, torch.floor(draws[:, -2] * (heights - tall + 1)), torch.floor((heights - tall) / 2))
        left = torch.where(some, torch.floor(draws[:, -1] * (widths - wide + 1)), torch.floor((widths - wide) / 2))
        return torch.stack((top, left, tall, wide), dim=1).long()


Augmentation = RandomHorizontalFlip | RandomShift | RandomResizedCrop


def _sample_positions(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Where `size` pixel centers fall in patches of `length` pixels from `start`: (B, size); edges are repeated."""
    length = length[:, None].double()
    centers = (torch.arange(size, device=start.device) + 0.5) * length / size - 0.5
    return start[:, None] + torch.minimum(centers.clamp(min=0), length - 1)
