"""The data sets of the pruning-before-training papers, by name, read from files that are already there.

| name | images | augmentation (Frankle et al. 2021, A.2) | mean and std |
| --- | --- | --- | --- |
| digits | 1,797 of 1x8x8, shipped with scikit-learn | none | of the training images |
| mnist | 70,000 of 1x28x28 | none | published, equal to the training images' |
| cifar-10, cifar-100 | 60,000 of 3x32x32 | flip, shift by up to 4 pixels | published, equal to the training images' |
| tiny-imagenet | 110,000 of 3x64x64 | crop of random size and aspect, flip | published, equal to the training images' |
| modified-tiny-imagenet | the same | flip, shift by up to 4 pixels (appendix L) | the same |
| imagenet | 1.3 million of any size, read as 3x224x224 | crop of random size and aspect, flip | published |

Constants are used rather than computed, so that a subset or a re-encoded copy is normalised alike. OpenLTH, and with it
Frankle et al. 2021, use ImageNet's for CIFAR too. Nothing is downloaded.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from foreprune.zoo.augment import Augmentation, RandomHorizontalFlip, RandomResizedCrop, RandomShift
from foreprune.zoo.images import ImageFolder, ImageSet
from foreprune.zoo.readers import (
    decode_images,
    list_class_folders,
    read_annotations,
    read_cifar_batch,
    read_idx,
    read_parquet,
)

__all__ = ["DataSet", "ImageFolder", "ImageSet", "describe", "load", "names"]

Found = list[list[Path]]  # the files found for each required entry of a layout
Split = tuple[Tensor, Tensor]

_SHIFTED: tuple[Augmentation, ...] = (RandomHorizontalFlip(), RandomShift(4))
_CROPPED: tuple[Augmentation, ...] = (RandomResizedCrop(scale=(0.1, 1.0), ratio=(0.8, 1.25)), RandomHorizontalFlip())
_LOSSY = "images were stored as JPEG: accuracies are not those of the lossless set"


@dataclass(frozen=True, eq=False)
class DataSet:
    """Training and test images of one data set.

    Attributes:
        name: as given to `load`.
        train, test: the two splits.
        classes: how many.
        shape: (C, H, W) of one image as `batches` yields it.
        note: what must be said beside any number measured on it, or nothing.
    """

    name: str
    train: ImageSet | ImageFolder
    test: ImageSet | ImageFolder
    classes: int
    shape: tuple[int, int, int]
    note: str = ""


@dataclass(frozen=True)
class _Layout:
    """Files a data set may come as. Each entry of `required` is a list of patterns of which one must match."""

    required: tuple[tuple[str, ...], ...]
    read: Callable[[_Source, Path, Found], tuple[ImageSet | ImageFolder, ImageSet | ImageFolder, str]]

    def __str__(self) -> str:
        return ", ".join(" or ".join(patterns) for patterns in self.required)


@dataclass(frozen=True)
class _Source:
    description: str
    classes: int
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: tuple[Augmentation, ...]
    folders: tuple[str, ...]
    layouts: tuple[_Layout, ...]
    published: str

    def splits(self, train: Split, test: Split, lossy: bool = False) -> tuple[ImageSet, ImageSet, str]:
        """In-memory splits; only the training split is augmented."""
        first = ImageSet(*train, self.mean, self.std, self.augmentation, self.classes)
        return first, ImageSet(*test, self.mean, self.std, (), self.classes), _LOSSY if lossy else ""


def names() -> tuple[str, ...]:
    """The data sets that `load` knows."""
    return ("digits", *_SOURCES)


def describe(name: str) -> str:
    """One line on a data set of `names()`.

    Raises:
        ValueError: not in `names()`.
    """
    _check_name(name)
    return "1,797 handwritten digits of 8x8 pixels, shipped with scikit-learn" if name == "digits" else _SOURCES[name].description


def load(name: str, *, data_dir: Path | str | None = None) -> DataSet:
    """Read a data set.

    `digits` needs no files: scikit-learn ships it. Pixels 0 to 16 become 0 to 240 (times 15, which loses nothing). It has no
    published split; here every fifth image of each class, in the order of the file, is a test image (writers are in both).

    The others are looked for in `data_dir`, or without it in the folder that the environment variable `FOREPRUNE_DATA`
    names: either that folder itself or one inside it with a usual name (`mnist`, `cifar-10-batches-py`, ...).

    CIFAR comes as the pickled python version, which is read without unpickling objects, or as Parquet with encoded images;
    where those are JPEG, `DataSet.note` says so. TinyImageNet's test labels were never published, so its validation images
    are the test split, as in the papers, and so are ImageNet's. ImageNet is not held in memory (`ImageFolder`).

    Raises:
        ValueError: unknown name (with near ones), or a damaged file, naming it.
        FileNotFoundError: no folder given, or files missing; says which folders were looked in, which files are expected
            and where they are published.
        ImportError: scikit-learn (digits), Pillow or pyarrow is needed and not installed.
    """
    _check_name(name)
    if name == "digits":
        return _digits()
    source = _SOURCES[name]
    folder, layout, found = _locate(name, source, data_dir)
    try:
        train, test, note = layout.read(source, folder, found)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} in {folder}: {error}") from error
    return DataSet(name, train, test, source.classes, source.shape, note)


def _check_name(name: str) -> None:
    if name not in names():
        near = difflib.get_close_matches(str(name), names(), n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise ValueError(f"unknown data set {name!r}: {hint}Known: {', '.join(names())}")


def _locate(name: str, source: _Source, data_dir: Path | str | None) -> tuple[Path, _Layout, Found]:
    expected = "; or ".join(map(str, source.layouts))
    given = data_dir if data_dir is not None else os.environ.get("FOREPRUNE_DATA") or None
    if given is None:
        raise FileNotFoundError(
            f"{name} is read from files: pass data_dir=<folder> or set FOREPRUNE_DATA. Expected there, or in a folder "
            f"{' or '.join(source.folders)} inside it: {expected}. Published at {source.published}"
        )
    root = Path(given).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"{name}: there is no folder {root}; data_dir or FOREPRUNE_DATA must name one that exists")
    folders = [folder for folder in (*(root / inside for inside in source.folders), root) if folder.is_dir()]
    missing = ""
    for folder in folders:
        for layout in source.layouts:
            found = [_matches(folder, patterns) for patterns in layout.required]
            if all(found):
                return folder, layout, found
            if any(found) and not missing:
                lacking = [" or ".join(p) for p, files in zip(layout.required, found, strict=True) if not files]
                missing = f"{folder} lacks {', '.join(lacking)}. "
    raise FileNotFoundError(
        f"{name} was not found. {missing}Looked in {', '.join(map(str, folders))} for {expected}. "
        f"Published at {source.published}"
    )


def _matches(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    for pattern in patterns:
        if found := sorted(folder.glob(pattern)):
            return found
    return []


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
    splits = (ImageSet(pixels[index], labels[index], mean, std, (), 10) for index in (train, test))
    return DataSet("digits", *splits, classes=10, shape=(1, 8, 8))


def _read_mnist(source: _Source, folder: Path, found: Found) -> tuple[ImageSet, ImageSet, str]:
    splits = []
    for (image_file, *_), (label_file, *_) in (found[:2], found[2:]):
        images, labels = read_idx(image_file, dimensions=3), read_idx(label_file, dimensions=1).long()
        if images.shape[1:] != (28, 28):
            raise ValueError(f"{image_file} has images of {images.shape[1]}x{images.shape[2]}, not 28x28")
        if len(images) != len(labels):
            raise ValueError(f"{image_file} has {len(images)} images and {label_file} {len(labels)} labels")
        splits.append((images[:, None], labels))
    return source.splits(*splits)


def _read_cifar_python(source: _Source, folder: Path, found: Found) -> tuple[ImageSet, ImageSet, str]:
    key = "labels" if source.classes == 10 else "fine_labels"
    batches = [read_cifar_batch(file, label_key=key) for files in found for file in files]
    train = torch.cat([images for images, _ in batches[:-1]]), torch.cat([labels for _, labels in batches[:-1]])
    return source.splits(train, batches[-1])


def _read_cifar_parquet(source: _Source, folder: Path, found: Found) -> tuple[ImageSet, ImageSet, str]:
    columns = ("label", "labels") if source.classes == 10 else ("fine_label", "fine_labels")
    train, test = (read_parquet(files, label_columns=columns, size=(32, 32)) for files in found)
    return source.splits(train[:2], test[:2], lossy=train[2] or test[2])


def _read_tiny_imagenet(source: _Source, folder: Path, found: Found) -> tuple[ImageSet, ImageSet, str]:
    classes, files, labels = list_class_folders(folder / "train", inside="images")
    _check_class_count(folder / "train", classes, source.classes)
    val_files, val_labels = read_annotations(folder / "val" / "val_annotations.txt", classes)
    splits = []
    for root, relative, numbers in (
        (folder / "train", files, labels),
        (folder / "val" / "images", val_files, val_labels),
    ):
        paths = [root / file for file in relative]
        images = decode_images(paths, names=[str(path) for path in paths], size=(64, 64))
        splits.append((images, torch.tensor(numbers)))
    return source.splits(*splits)


def _read_imagenet(source: _Source, folder: Path, found: Found) -> tuple[ImageFolder, ImageFolder, str]:
    splits = []
    for part, augmentation in (("train", source.augmentation), ("val", ())):
        classes, files, labels = list_class_folders(folder / part)
        _check_class_count(folder / part, classes, source.classes)
        splits.append(
            ImageFolder(
                folder / part,
                tuple(files),
                torch.tensor(labels),
                source.mean,
                source.std,
                augmentation,
                source.classes,
                size=source.shape[1],
            )
        )
    return splits[0], splits[1], ""


def _check_class_count(folder: Path, classes: tuple[str, ...], expected: int) -> None:
    if len(classes) != expected:
        raise ValueError(f"{folder} has {len(classes)} class folders, expected {expected}")
