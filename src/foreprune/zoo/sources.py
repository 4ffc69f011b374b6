"""Data sets that are read from files: what each is, which files it may come as, and how they are read."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from foreprune.zoo.augment import Augmentation, RandomHorizontalFlip, RandomResizedCrop, RandomShift
from foreprune.zoo.cifar_pickle import read_cifar_batch
from foreprune.zoo.images import ImageFolder, Images, ImageSet
from foreprune.zoo.readers import (
    decode_images,
    list_class_folders,
    read_annotations,
    read_idx,
    read_parquet,
)

Found = list[list[Path]]  # the files found for each required entry of a layout
Splits = tuple[Images, Images, str]  # training, test, note

_SHIFTED: tuple[Augmentation, ...] = (RandomHorizontalFlip(), RandomShift(4))
_CROPPED: tuple[Augmentation, ...] = (RandomResizedCrop(scale=(0.1, 1.0), ratio=(0.8, 1.25)), RandomHorizontalFlip())
_LOSSY = "images were stored as JPEG: accuracies are not those of the lossless set"


@dataclass(frozen=True)
class FileLayout:
    """Files a data set may come as. Of each entry of `required` one pattern must match; folders end in a slash."""

    required: tuple[tuple[str, ...], ...]
    read: Callable[[Source, Path, Found], Splits]

    def __str__(self) -> str:
        return ", ".join(" or ".join(patterns) for patterns in self.required)


@dataclass(frozen=True)
class Source:
    """One data set: what it holds, how its images are normalized and augmented, and where its files may be."""

    description: str
    classes: int  # 0: as many as there are class folders
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: tuple[Augmentation, ...]
    folders: tuple[str, ...]
    layouts: tuple[FileLayout, ...]
    published: str

    def split(self, images: Tensor, labels: Tensor, *, training: bool, classes: int = 0) -> ImageSet:
        """A split in memory; only training images are augmented."""
        if not len(images):
            raise ValueError(f"there are no {'training' if training else 'test'} images")
        augmentation = self.augmentation if training else ()
        return ImageSet(images, labels, self.mean, self.std, augmentation, self.classes or classes)


def locate(name: str, source: Source, data_dir: Path | str | None) -> tuple[Path, FileLayout, Found]:
    """The folder of a data set, its layout and the files; `name` is for errors.

    Raises:
        FileNotFoundError: no folder given, or files missing.
    """
    expected = "; or ".join(map(str, source.layouts))
    given = data_dir if data_dir is not None else os.environ.get("FOREPRUNE_DATA") or None
    if given is None:
        raise FileNotFoundError(
            f"{name} is read from files: pass data_dir=<folder> or set FOREPRUNE_DATA. Expected there, or in a folder "
            f"{' or '.join(source.folders)} inside it: {expected}. Published at {source.published}"
        )
    root = Path(given).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(
            f"{name}: there is no folder {root}; data_dir or FOREPRUNE_DATA must name one that exists"
        )
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
        found = sorted(path for path in folder.glob(pattern) if path.is_dir() == pattern.endswith("/"))
        if found:
            return found
    return []


def _read_mnist(source: Source, folder: Path, found: Found) -> Splits:
    splits: list[ImageSet] = []
    for (image_file, *_), (label_file, *_) in (found[:2], found[2:]):
        images, labels = read_idx(image_file, dimensions=3), read_idx(label_file, dimensions=1).long()
        if images.shape[1:] != (28, 28):
            raise ValueError(f"{image_file} has images of {images.shape[1]}x{images.shape[2]}, not 28x28")
        splits.append(source.split(images[:, None], labels, training=not splits))
    return splits[0], splits[1], ""


def _read_cifar_python(source: Source, folder: Path, found: Found) -> Splits:
    key = "labels" if source.classes == 10 else "fine_labels"
    *train, test = (read_cifar_batch(file, label_key=key) for (file, *_) in found)
    images, labels = torch.cat([images for images, _ in train]), torch.cat([labels for _, labels in train])
    return source.split(images, labels, training=True), source.split(*test, training=False), ""


def _read_cifar_parquet(source: Source, folder: Path, found: Found) -> Splits:
    columns = ("label",) if source.classes == 10 else ("fine_label",)
    train, test = (read_parquet(files, label_columns=columns, size=(32, 32)) for files in found)
    note = _LOSSY if train[2] or test[2] else ""
    return source.split(*train[:2], training=True), source.split(*test[:2], training=False), note


def _read_tiny_imagenet(source: Source, folder: Path, found: Found) -> Splits:
    classes, train_files, train_labels = list_class_folders(folder / "train", inside="images")
    test_files, test_labels = read_annotations(folder / "val" / "val_annotations.txt", classes)
    splits: list[ImageSet] = []
    for root, files, labels in (
        (folder / "train", train_files, train_labels),
        (folder / "val" / "images", test_files, test_labels),
    ):
        paths = [root / file for file in files]
        images = decode_images(paths, names=[str(path) for path in paths], size=(64, 64))
        splits.append(source.split(images, torch.tensor(labels), training=not splits, classes=len(classes)))
    return splits[0], splits[1], ""


def _read_imagenet(source: Source, folder: Path, found: Found) -> Splits:
    splits: list[ImageFolder] = []
    known: tuple[str, ...] = ()
    for part in ("train", "val"):
        classes, files, labels = list_class_folders(folder / part)
        if splits and classes != known:
            odd = sorted(set(classes) ^ set(known))[:3]
            raise ValueError(
                f"{folder / 'val'} must have the class folders of {folder / 'train'}; they differ in {', '.join(odd)}"
            )
        known = classes
        splits.append(
            ImageFolder(
                root=folder / part,
                files=tuple(files),
                labels=torch.tensor(labels),
                mean=source.mean,
                std=source.std,
                augmentation=() if splits else source.augmentation,
                classes=len(classes),
                size=source.shape[1],
            )
        )
    return splits[0], splits[1], ""


_CIFAR_PARQUET = FileLayout((("train*.parquet",), ("test*.parquet",)), _read_cifar_parquet)
_TINY = Source(
    description="110,000 photographs of 64x64 pixels in 200 classes",
    classes=0,
    shape=(3, 64, 64),
    mean=(0.4802, 0.4481, 0.3975),
    std=(0.2770, 0.2691, 0.2821),
    augmentation=_CROPPED,
    folders=("tiny-imagenet", "tiny-imagenet-200"),
    layouts=(FileLayout((("train/",), ("val/images/",), ("val/val_annotations.txt",)), _read_tiny_imagenet),),
    published="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
)
SOURCES: dict[str, Source] = {
    "mnist": Source(
        description="70,000 handwritten digits of 28x28 pixels",
        classes=10,
        shape=(1, 28, 28),
        mean=(0.1307,),
        std=(0.3081,),
        augmentation=(),
        folders=("mnist", "MNIST", "MNIST/raw"),
        layouts=(
            FileLayout(
                (
                    ("train-images[-.]idx3-ubyte", "train-images[-.]idx3-ubyte.gz"),
                    ("train-labels[-.]idx1-ubyte", "train-labels[-.]idx1-ubyte.gz"),
                    ("t10k-images[-.]idx3-ubyte", "t10k-images[-.]idx3-ubyte.gz"),
                    ("t10k-labels[-.]idx1-ubyte", "t10k-labels[-.]idx1-ubyte.gz"),
                ),
                _read_mnist,
            ),
        ),
        published="https://yann.lecun.com/exdb/mnist",
    ),
    "cifar-10": Source(
        description="60,000 photographs of 32x32 pixels in 10 classes",
        classes=10,
        shape=(3, 32, 32),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        augmentation=_SHIFTED,
        folders=("cifar-10", "cifar10", "cifar-10-batches-py", "cifar10-jpeg"),
        layouts=(
            FileLayout((*((f"data_batch_{part}",) for part in range(1, 6)), ("test_batch",)), _read_cifar_python),
            _CIFAR_PARQUET,
        ),
        published="https://www.cs.toronto.edu/~kriz/cifar.html (python version)",
    ),
    "cifar-100": Source(
        description="60,000 photographs of 32x32 pixels in 100 classes",
        classes=100,
        shape=(3, 32, 32),
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        augmentation=_SHIFTED,
        folders=("cifar-100", "cifar100", "cifar-100-python"),
        layouts=(FileLayout((("train",), ("test",)), _read_cifar_python), _CIFAR_PARQUET),
        published="https://www.cs.toronto.edu/~kriz/cifar.html (python version)",
    ),
    "tiny-imagenet": _TINY,
    "modified-tiny-imagenet": replace(
        _TINY, description="tiny-imagenet with CIFAR's augmentation, a flip and a shift", augmentation=_SHIFTED
    ),
    "imagenet": Source(
        description="1.3 million photographs in 1,000 classes, read as 224x224 pixels",
        classes=0,
        shape=(3, 224, 224),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        augmentation=_CROPPED,
        folders=("imagenet", "ILSVRC2012"),
        layouts=(FileLayout((("train/",), ("val/",)), _read_imagenet),),
        published="https://image-net.org/download (ILSVRC2012, the validation images sorted into class folders)",
    ),
}
