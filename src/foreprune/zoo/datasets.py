"""The data sets of the pruning-before-training papers, by name, read from files that are already there.

| name | images | augmentation (Frankle et al. 2021, A.2) | mean and std |
| --- | --- | --- | --- |
| digits | 1,797 of 1x8x8, shipped with scikit-learn | none | of the training images |
| mnist | 70,000 of 1x28x28 | none | published |
| cifar-10, cifar-100 | 60,000 of 3x32x32 | flip, shift by up to 4 pixels | published |
| tiny-imagenet | 110,000 of 3x64x64 | crop of random size and aspect, flip | published |
| modified-tiny-imagenet | the same | flip, shift by up to 4 pixels (appendix L) | the same |
| imagenet | 1.3 million of any size, read as 3x224x224 | crop of random size and aspect, flip | published |
| mnist-transformation | 10,000 and 10,000 of 1x28x28 | none | published |
| digits-transformation | as digits | none | as digits |

The published constants are those of the training images to three or four digits; they are not computed again, so that a
subset or a re-encoded copy is normalized alike. OpenLTH, the code of Frankle et al. 2021, uses ImageNet's for CIFAR
too. Nothing is downloaded. The last two have images as targets, see `foreprune.zoo.transformation`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from foreprune.core.names import unknown
from foreprune.zoo.images import Images, ImageSet
from foreprune.zoo.sources import SOURCES, locate
from foreprune.zoo.transformation import transformed_by_class

_DIGITS = "1,797 handwritten digits of 8x8 pixels, shipped with scikit-learn"


@dataclass(frozen=True, eq=False)
class DataSet:
    """Training and test images of one data set.

    Attributes:
        name: as given to `load`.
        train, test: the two splits.
        classes: how many, or of images with real targets how many numbers each has: the outputs of a network.
        shape: (C, H, W) of one image as `batches` yields it.
        note: what must be said beside any number measured on it, or nothing.
        loss: what is minimized on it: of class labels the cross-entropy, of real targets the mean squared error.
    """

    name: str
    train: Images
    test: Images
    classes: int
    shape: tuple[int, int, int]
    note: str = ""
    loss: Literal["cross-entropy", "squared-error"] = "cross-entropy"

    def to(self, device: torch.device | str) -> DataSet:
        """The same in the memory of `device`; image files stay where they are."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    @property
    def loss_function(self) -> Callable[[Any, Any], Tensor] | None:
        """What `fit`, `evaluate` and `prune` take as `loss`: (output, target) -> mean; None is cross-entropy."""
        return F.mse_loss if self.loss == "squared-error" else None


@dataclass(frozen=True)
class _Transformed:
    description: str
    source: str
    per_class: int  # training images of each class; 0: all there are


def names() -> tuple[str, ...]:
    """The data sets that `load` knows."""
    return ("digits", *SOURCES, *_TRANSFORMED)


def describe(name: str) -> str:
    """One line on a data set of `names()`.

    Raises:
        ValueError: not in `names()`.
    """
    _check_name(name)
    if name in _TRANSFORMED:
        return _TRANSFORMED[name].description
    return _DIGITS if name == "digits" else SOURCES[name].description


def load(name: str, *, data_dir: Path | str | None = None) -> DataSet:
    """Read a data set.

    `digits` needs no files: scikit-learn ships it. Pixels 0 to 16 become 0 to 240 (times 15, which loses nothing). It
    has no published split; here every fifth image of each class, in the order of the file, is a test image (writers are
    in both).

    The others are looked for in `data_dir`, or without it in the folder that the environment variable `FOREPRUNE_DATA`
    names: either that folder itself or one inside it with a usual name (`mnist`, `cifar-10-batches-py`, ...).

    CIFAR comes as the pickled python version, which is read without unpickling objects, or as Parquet with encoded
    images; where those are JPEG, `DataSet.note` says so. TinyImageNet's test labels were never published, so its
    validation images are the test split, as in the papers, and so are ImageNet's. ImageNet is not held in memory
    (`ImageFolder`).

    `mnist-transformation` is the regression task of Patil & Dovrolis 2021, appendix B: of each class 1,000 training
    images, always the same ones, and all test images, each to be rotated and sheared as its class says. Inputs are
    normalized as for `mnist`, targets are (784,) in [0, 1] (`foreprune.zoo.transformation` says what the paper leaves
    open). It reads the files of `mnist`; `digits-transformation` is the same task on all images of `digits`.

    Raises:
        ValueError: unknown name (with near ones), or a damaged file, naming it.
        FileNotFoundError: no folder given, or files missing; says which folders were looked in, which files are
            expected and where they are published.
        ImportError: scikit-learn (digits), Pillow or pyarrow is needed and not installed.
    """
    _check_name(name)
    if name not in _TRANSFORMED:
        return _labeled(name, name, data_dir)
    task = _TRANSFORMED[name]
    data = _labeled(name, task.source, data_dir)
    assert isinstance(data.train, ImageSet)
    assert isinstance(data.test, ImageSet)
    try:
        train = data.train.balanced(task.per_class, seed=0) if task.per_class else data.train
    except ValueError as error:
        raise ValueError(f"{name} trains on {task.per_class} images of each class: {error}") from error
    first, second = transformed_by_class(train), transformed_by_class(data.test)
    return DataSet(name, first, second, first.targets.shape[1], data.shape, data.note, "squared-error")


@lru_cache(maxsize=1)
def load_cached(name: str, data_dir: str | None) -> DataSet:
    """As `load`, kept in memory for the next run that asks for the same."""
    return load(name, data_dir=data_dir)


def _labeled(name: str, source_name: str, data_dir: Path | str | None) -> DataSet:
    """The data set `source_name`, called `name` in errors."""
    if source_name == "digits":
        return _digits()
    source = SOURCES[source_name]
    folder, layout, found = locate(name, source, data_dir)
    try:
        train, test, note = layout.read(source, folder, found)
    except ValueError as error:
        raise ValueError(f"{name} in {folder}: {error}") from error
    return DataSet(name, train, test, train.classes, source.shape, note)


def _check_name(name: str) -> None:
    if name not in names():
        raise unknown("data set", name, names())


def _digits() -> DataSet:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the data set digits needs scikit-learn: pip install 'foreprune[data]'") from error
    content = load_digits()
    pixels = torch.from_numpy(content.images * 15).to(torch.uint8)[:, None]
    labels = torch.from_numpy(content.target).long()
    turn = torch.zeros(len(labels), dtype=torch.long)
    for digit in range(10):
        members = (labels == digit).nonzero()[:, 0]
        turn[members] = torch.arange(len(members)) % 5
    train, test = (turn != 4).nonzero()[:, 0], (turn == 4).nonzero()[:, 0]
    scaled = pixels[train].double() / 255
    mean, std = (float(scaled.mean()),), (float(scaled.std(correction=0)),)
    first, second = (ImageSet(pixels[index], labels[index], mean, std, (), 10) for index in (train, test))
    return DataSet("digits", first, second, classes=10, shape=(1, 8, 8))


_TRANSFORMED: dict[str, _Transformed] = {
    "mnist-transformation": _Transformed(
        "20,000 images of mnist, to be rotated and sheared by an amount that depends on the digit", "mnist", 1000
    ),
    "digits-transformation": _Transformed(
        "the images of digits, to be rotated and sheared by an amount that depends on the digit", "digits", 0
    ),
}
