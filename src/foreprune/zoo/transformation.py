"""A regression task made of labeled images: give back the image, rotated and sheared as its class says.

Patil & Dovrolis 2021 (PHEW), appendix B, with MNIST. A network has as many outputs as inputs and learns by the mean
squared error. What the paper leaves open is decided here:

* The angles are 30 degrees times the class, from 0 to 270 for ten classes, anticlockwise.
* The shears are "uniformly sampled between -0.6 and 0.6", and not printed. Here they are evenly spaced, both ends
  included: -0.6, -0.4667, ..., 0.6 for classes 0 to 9. So no class is the identity, and nothing hangs on a seed.
* An image is first rotated, then sheared along its rows, about its center, in one bilinear step. What leaves the frame
  is cut off, and what comes into it is black.
* Targets are raw pixels, scaled to [0, 1]; inputs are normalized as the same images are for classification.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from foreprune.zoo.images import Device, ImageSet

__all__ = ["TransformedImages", "angles", "rotate_and_shear", "shears", "transformed_by_class"]

# With shears in tenths, halves are common; whether they come out a trace too low must not depend on the machine.
_HALF = 0.5 + 1e-9


def angles(classes: int) -> tuple[float, ...]:
    """Degrees of each class: 30 times its number."""
    return tuple(30.0 * label for label in range(classes))


def shears(classes: int) -> tuple[float, ...]:
    """Shear coefficient of each class: evenly spaced from -0.6 to 0.6; 0 if there is only one class."""
    if classes == 1:
        return (0.0,)
    return tuple(0.6 * (2 * label - (classes - 1)) / (classes - 1) for label in range(classes))


def rotate_and_shear(images: Tensor, *, degrees: float, shear: float) -> Tensor:
    """Rotate anticlockwise by `degrees`, then move every row to the right by `shear` times its height over the center.

    Both are about the center of the image. With x to the right and y up, a pixel at (x, y) goes to (u + shear * v, v),
    where (u, v) is (x, y) rotated. Each pixel of the result is interpolated bilinearly between the four pixels around
    the place it comes from; outside the image everything is 0.

    Args:
        images: (N, C, H, W), of a floating type, whose precision is that of the result.
        degrees: angle; a positive one turns the top to the left.
        shear: a positive one leans upright strokes to the right.

    Returns:
        (N, C, H, W); pixels stay within the range of those given, and 0.

    Raises:
        TypeError: pixels that are not floating-point numbers.
        ValueError: not four axes.
    """
    if not images.is_floating_point():
        raise TypeError(f"images must be floating-point pixels, not {images.dtype}; write images.double()")
    if images.ndim != 4:
        raise ValueError(f"images must be (N, C, H, W), not {tuple(images.shape)}")
    height, width = images.shape[2:]
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # from a pixel of the result to where it comes from, with y down as pixels are counted: unshear, then turn back
    source = ((cosine, cosine * shear - sine), (sine, sine * shear + cosine))
    # affine_grid measures each axis in halves of the image
    stretch = height / width
    theta = torch.tensor(
        [[source[0][0], source[0][1] * stretch, 0.0], [source[1][0] / stretch, source[1][1], 0.0]],
        dtype=images.dtype,
        device=images.device,
    )
    # one grid for all: the images become channels
    grid = F.affine_grid(theta[None], [1, 1, height, width], align_corners=False)
    flat = images.reshape(1, -1, height, width)
    return F.grid_sample(flat, grid, mode="bilinear", padding_mode="zeros", align_corners=False).view_as(images)


@dataclass(frozen=True, eq=False)
class TransformedImages(ImageSet):
    """Images with a vector of numbers as the target of each, instead of its label.

    `batches` and `per_class` give (B, C, H, W) float32 and (B, outputs) float32 in [0, 1]; `labels` and `classes` still
    say which images belong together, and `per_class` is balanced over them.

    Attributes:
        targets: (N, outputs) uint8, 255 times what a network is to give.

    Raises:
        TypeError: targets that are not uint8.
        ValueError: not one row for each image, or any augmentation: it would change the images and not the targets.
    """

    targets: Tensor = field(kw_only=True)

    rows: ClassVar[tuple[str, ...]] = (*ImageSet.rows, "targets")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets.dtype != torch.uint8:
            raise TypeError(f"targets must be uint8 pixels from 0 to 255, not {self.targets.dtype}")
        if self.targets.ndim != 2 or len(self.targets) != len(self):
            raise ValueError(
                f"{len(self)} images need targets of shape ({len(self)}, outputs), not {tuple(self.targets.shape)}"
            )
        if self.augmentation:
            raise ValueError(
                f"augmentation must be (), not {self.augmentation}: the targets belong to the images as they are"
            )

    def _answers(self, index: Tensor, device: Device) -> Tensor:
        return self.targets.index_select(0, index).to(device).to(torch.float32).div_(255)


def transformed_by_class(split: ImageSet) -> TransformedImages:
    """The same images, each with itself as the target: rotated and sheared by `angles` and `shears` of its class.

    Targets are computed in float64 and rounded to the nearest of the 256 gray levels, halves up.

    Returns:
        Targets (N, C * H * W), rows of pixels as `flatten` lays them out. Without augmentation.
    """
    targets = torch.empty_like(split.images)
    for label, (degrees, shear) in enumerate(zip(angles(split.classes), shears(split.classes), strict=True)):
        members = (split.labels == label).nonzero()[:, 0]
        if len(members):
            moved = rotate_and_shear(split.images[members].double(), degrees=degrees, shear=shear)
            targets[members] = moved.add_(_HALF).floor_().to(torch.uint8)
    return TransformedImages(
        split.images, split.labels, split.mean, split.std, classes=split.classes, targets=targets.flatten(1)
    )
