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

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from foreprune.core.names import unknown
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
from foreprune.zoo.transformation import transformed_by_class

Found = list[list[Path]]  # the files found for each required entry of a layout

_SHIFTED: tuple[Augmentation, ...] = (RandomHorizontalFlip(), RandomShift(4))
_CROPPED: tuple[Augmentation, ...] = (RandomResizedCrop(scale=(0.1, 1.0), ratio=(0.8, 1.25)), RandomHorizontalFlip())
_DIGITS = "1,797 handwritten digits of 8x8 pixels, shipped with scikit-learn"
_LOSSY = "images were stored as JPEG: accuracies are not those of the lossless set"


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


Splits = tuple[Images, Images, str]  # training, test, note


@dataclass(frozen=True)
class _Layout:
    """Files a data set may come as. Of each entry of `required` one pattern must match; folders end in a slash."""

    required: tuple[tuple[str, ...], ...]
    read: Callable[[_Source, Path, Found], Splits]

    def __str__(self) -> str:
        return ", ".join(" or ".join(patterns) for patterns in self.required)


@dataclass(frozen=True)
class _Transformed:
    description: str
    source: str
    per_class: int  # training images of each class; 0: all there are


@dataclass(frozen=True)
class _Source:
    description: str
    classes: int  # 0: as many as there are class folders
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: tuple[Augmentation, ...]
    folders: tuple[str, ...]
    layouts: tuple[_Layout, ...]
    published: str

    def split(self, images: Tensor, labels: Tensor, *, training: bool, classes: int = 0) -> ImageSet:
        """A split in memory; only training images are augmented."""
        if not len(images):
            raise ValueError(f"there are no {'training' if training else 'test'} images")
        augmentation = self.augmentation if training else ()
        return ImageSet(images, labels, self.mean, self.std, augmentation, self.classes or classes)


def names() -> tuple[str, ...]:
    """The data sets that `load` knows."""
    return ("digits", *_SOURCES, *_TRANSFORMED)


def describe(name: str) -> str:
    """One line on a data set of `names()`.

    Raises:
        ValueError: not in `names()`.
    """
    _check_name(name)
    if name in _TRANSFORMED:
        return _TRANSFORMED[name].description
    return _DIGITS if name == "digits" else _SOURCES[name].description


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
    source = _SOURCES[source_name]
    folder, layout, found = _locate(name, source, data_dir)
    try:
        train, test, note = layout.read(source, folder, found)
    except ValueError as error:
        raise ValueError(f"{name} in {folder}: {error}") from error
    return DataSet(name, train, test, train.classes, source.shape, note)


def _check_name(name: str) -> None:
    if name not in names():
        raise unknown("data set", name, names())


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


def _read_mnist(source: _Source, folder: Path, found: Found) -> Splits:
    splits: list[ImageSet] = []
    for (image_file, *_), (label_file, *_) in (found[:2], found[2:]):
        images, labels = read_idx(image_file, dimensions=3), read_idx(label_file, dimensions=1).long()
        if images.shape[1:] != (28, 28):
            raise ValueError(f"{image_file} has images of {images.shape[1]}x{images.shape[2]}, not 28x28")
        splits.append(source.split(images[:, None], labels, training=not splits))
    return splits[0], splits[1], ""


def _read_cifar_python(source: _Source, folder: Path, found: Found) -> Splits:
    key = "labels" if source.classes == 10 else "fine_labels"
    *train, test = (read_cifar_batch(file, label_key=key) for (file, *_) in found)
    images, labels = torch.cat([images for images, _ in train]), torch.cat([labels for _, labels in train])
    return source.split(images, labels, training=True), source.split(*test, training=False), ""


def _read_cifar_parquet(source: _Source, folder: Path, found: Found) -> Splits:
    columns = ("label",) if source.classes == 10 else ("fine_label",)
    train, test = (read_parquet(files, label_columns=columns, size=(32, 32)) for files in found)
    note = _LOSSY if train[2] or test[2] else ""
    return source.split(*train[:2], training=True), source.split(*test[:2], training=False), note


def _read_tiny_imagenet(source: _Source, folder: Path, found: Found) -> Splits:
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


def _read_imagenet(source: _Source, folder: Path, found: Found) -> Splits:
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


_CIFAR_PARQUET = _Layout((("train*.parquet",), ("test*.parquet",)), _read_cifar_parquet)
_TINY = _Source(
    description="110,000 photographs of 64x64 pixels in 200 classes",
    classes=0,
    shape=(3, 64, 64),
    mean=(0.4802, 0.4481, 0.3975),
    std=(0.2770, 0.2691, 0.2821),
    augmentation=_CROPPED,
    folders=("tiny-imagenet", "tiny-imagenet-200"),
    layouts=(_Layout((("train/",), ("val/images/",), ("val/val_annotations.txt",)), _read_tiny_imagenet),),
    published="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
)
_SOURCES: dict[str, _Source] = {
    "mnist": _Source(
        description="70,000 handwritten digits of 28x28 pixels",
        classes=10,
        shape=(1, 28, 28),
        mean=(0.1307,),
        std=(0.3081,),
        augmentation=(),
        folders=("mnist", "MNIST", "MNIST/raw"),
        layouts=(
            _Layout(
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
    "cifar-10": _Source(
        description="60,000 photographs of 32x32 pixels in 10 classes",
        classes=10,
        shape=(3, 32, 32),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        augmentation=_SHIFTED,
        folders=("cifar-10", "cifar10", "cifar-10-batches-py", "cifar10-jpeg"),
        layouts=(
            _Layout((*((f"data_batch_{part}",) for part in range(1, 6)), ("test_batch",)), _read_cifar_python),
            _CIFAR_PARQUET,
        ),
        published="https://www.cs.toronto.edu/~kriz/cifar.html (python version)",
    ),
    "cifar-100": _Source(
        description="60,000 photographs of 32x32 pixels in 100 classes",
        classes=100,
        shape=(3, 32, 32),
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        augmentation=_SHIFTED,
        folders=("cifar-100", "cifar100", "cifar-100-python"),
        layouts=(_Layout((("train",), ("test",)), _read_cifar_python), _CIFAR_PARQUET),
        published="https://www.cs.toronto.edu/~kriz/cifar.html (python version)",
    ),
    "tiny-imagenet": _TINY,
    "modified-tiny-imagenet": replace(
        _TINY, description="tiny-imagenet with CIFAR's augmentation, a flip and a shift", augmentation=_SHIFTED
    ),
    "imagenet": _Source(
        description="1.3 million photographs in 1,000 classes, read as 224x224 pixels",
        classes=0,
        shape=(3, 224, 224),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        augmentation=_CROPPED,
        folders=("imagenet", "ILSVRC2012"),
        layouts=(_Layout((("train/",), ("val/",)), _read_imagenet),),
        published="https://image-net.org/download (ILSVRC2012, the validation images sorted into class folders)",
    ),
}
_TRANSFORMED: dict[str, _Transformed] = {
    "mnist-transformation": _Transformed(
        "20,000 images of mnist, to be rotated and sheared by an amount that depends on the digit", "mnist", 1000
    ),
    "digits-transformation": _Transformed(
        "the images of digits, to be rotated and sheared by an amount that depends on the digit", "digits", 0
    ),
}
