"""Training recipes: plain values, with those of the papers under their names. Nothing here imports torch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from foreprune.core.fields import check_fields
from foreprune.core.names import unknown


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained. Rates and decays are the optimizer's own; `milestones` are epochs, counted from 0.

    `schedule="milestones"` multiplies the rate by `gamma` at the start of each milestone epoch; `"cosine"` lets it fall
    to zero over all steps; `warmup_epochs` raises it linearly from zero first (both). `augment` and `batch_size` are
    for image sets (`foreprune.zoo`): a DataLoader decides them itself. `dataclasses.replace` gives a recipe with other
    settings.

    Raises:
        TypeError: a setting of another type than annotated.
        ValueError: one out of range, or that would silently do nothing (momentum for Adam, milestones for a cosine,
            ...).
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}  # for records, which are read by pydantic

    epochs: int = 20
    batch_size: int = 128
    optimizer: Literal["sgd", "adam", "adamw", "nadam", "rmsprop"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: Literal["constant", "milestones", "cosine"] = "constant"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    augment: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        for names, fits, words in _RANGES:
            for name in names:
                if not fits(getattr(self, name)):
                    raise ValueError(f"{name} must be {words}, not {getattr(self, name)}")
        if self.momentum and self.optimizer not in ("sgd", "rmsprop"):
            raise ValueError(f"momentum={self.momentum:g} has no meaning for {self.optimizer}; use sgd or rmsprop")
        if self.nesterov and not (self.optimizer == "sgd" and self.momentum):
            raise ValueError("nesterov=True needs optimizer='sgd' and a momentum above 0")
        if bool(self.milestones) != (self.schedule == "milestones"):
            raise ValueError(
                f"schedule={self.schedule!r} with milestones={self.milestones}: "
                "give both schedule='milestones' and milestones, or neither"
            )
        if any(mark < 1 for mark in self.milestones) or list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must rise and begin at epoch 1 or later, not {self.milestones}")

    def steps_per_epoch(self, images: int) -> int:
        """Optimizer steps in an epoch over so many images; the last batch may be smaller."""
        return math.ceil(images / self.batch_size)


_RANGES: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (("epochs", "weight_decay", "warmup_epochs"), lambda value: value >= 0, "at least 0"),
    (("batch_size",), lambda value: value >= 1, "at least 1"),
    (("lr", "gamma"), lambda value: value > 0, "above 0"),
    (("momentum", "label_smoothing"), lambda value: 0 <= value < 1, "at least 0 and below 1"),
)


def recipe(name: str) -> Recipe:
    """The recipe of that name in `RECIPES`; `SOURCES` says where it comes from.

    Raises:
        ValueError: no such name; the message lists near ones.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]


def default_recipe(data: str, model: str) -> Recipe:
    """The recipe that the papers train `model` (a name of the zoo) on `data` with, or "quick" where they are silent."""
    for data_pattern, model_pattern, name in _DEFAULTS:
        if re.fullmatch(data_pattern, data) and re.match(model_pattern, model):
            return RECIPES[name]
    return RECIPES["quick"]


def _milestones(*marks: int, **settings: Any) -> Recipe:
    return Recipe(schedule="milestones", milestones=marks, **settings)


_SNIP = "Lee, Ajanthan & Torr, ICLR 2019, arXiv:1810.02340, section 5"
_SYNFLOW = "Tanaka, Kunin, Yamins & Ganguli, NeurIPS 2020, arXiv:2006.05467, official code"
_FRANKLE = "Frankle, Dziugaite, Roy & Carbin, ICLR 2021, arXiv:2009.08576, appendix A.3"
_GEBHART = "Gebhart, Saxena & Schrater 2021, arXiv:2101.10552, appendix A.4.3"
_PATIL = "Patil & Dovrolis, ICML 2021, arXiv:2010.11354, appendix"
_NTK_SAP = "Wang, Li & Sun, ICLR 2023, arXiv:2304.02840, official code"

# name -> (recipe, where it comes from)
_TABLE: dict[str, tuple[Recipe, str]] = {
    "digits": (
        # Of 25 candidates for an MLP 64-300-100-10, on images held out of the training part: 98 % dense, 98 % at
        # density 0.1, 95 % at 0.03, and a six-layer network learns too, where SGD diverges or stands still.
        Recipe(epochs=60, batch_size=64, optimizer="adam", lr=3e-3, schedule="cosine", augment=False),
        "this project: scikit-learn's digits, about a second on one core",
    ),
    "quick": (
        Recipe(epochs=10, batch_size=64, optimizer="adam", lr=3e-3, schedule="cosine", warmup_epochs=1.0),
        "this project: any classifier, ten epochs",
    ),
    "snip-lenet-mnist": (
        # 540 steps an epoch over 54,000 images: the drops at 25,000, 50,000 and 75,000 steps are at 24,840, 50,220 and
        # 75,060. The length is not printed; training ends where the fourth drop would be, after 99,900 steps.
        _milestones(46, 93, 139, epochs=185, batch_size=100, momentum=0.9, lr=0.1, weight_decay=5e-4, augment=False),
        f"{_SNIP}, LeNet-300-100 and LeNet-5-Caffe",
    ),
    "frankle-lenet-mnist": (Recipe(epochs=40, lr=0.1, augment=False), f"{_FRANKLE}, LeNet-300-100"),
    "frankle-resnet-20-cifar-10": (
        _milestones(80, 120, epochs=160, momentum=0.9, lr=0.1, weight_decay=1e-4),
        f"{_FRANKLE}, ResNet-20",
    ),
    "frankle-vgg-16-cifar-10": (
        _milestones(80, 120, epochs=160, momentum=0.9, lr=0.1, weight_decay=1e-4),
        f"{_FRANKLE}, VGG-16",
    ),
    "frankle-resnet-18-tiny-imagenet": (
        _milestones(100, 150, epochs=200, batch_size=256, momentum=0.9, lr=0.2, weight_decay=1e-4),
        f"{_FRANKLE}, ResNet-18 and modified ResNet-18",
    ),
    "frankle-resnet-50-imagenet": (
        _milestones(30, 60, 80, epochs=90, batch_size=1024, momentum=0.9, lr=0.4, weight_decay=1e-4),
        f"{_FRANKLE}, ResNet-50",
    ),
    "gebhart-resnet-20-cifar": (
        _milestones(60, epochs=100, batch_size=64, optimizer="adam", lr=1e-3, weight_decay=1e-4),
        f"{_GEBHART}, table 1, ResNet-20 and Wide-ResNet-20 on CIFAR-10/100",
    ),
    "gebhart-vgg-cifar-10": (
        _milestones(60, 120, epochs=160, batch_size=64, optimizer="adam", lr=1e-3, weight_decay=1e-4),
        f"{_GEBHART}, table 1, VGG-11/16 on CIFAR-10",
    ),
    "gebhart-vgg-cifar-100": (
        _milestones(60, 120, epochs=160, batch_size=64, optimizer="adam", lr=5e-4, weight_decay=1e-4),
        f"{_GEBHART}, table 1, VGG-11/16 on CIFAR-100",
    ),
    "gebhart-fc-mnist": (
        Recipe(epochs=50, batch_size=64, optimizer="adam", lr=0.01, weight_decay=1e-4, augment=False),
        f"{_GEBHART}, table 2, FC on MNIST",
    ),
    "gebhart-fc-cifar": (
        _milestones(60, epochs=100, batch_size=64, optimizer="adam", lr=1e-3, weight_decay=1e-4),
        f"{_GEBHART}, table 2, FC on CIFAR-10/100",
    ),
    "patil-resnet-20-cifar": (
        _milestones(80, 120, epochs=160, momentum=0.9, lr=0.1, weight_decay=1e-4),
        f"{_PATIL} D.1, table 1, ResNet-20 on CIFAR-10/100",
    ),
    "patil-vgg-19-cifar": (
        # The table gives no momentum and a decay of 5e-3; both are kept as printed.
        _milestones(80, 120, epochs=160, lr=0.1, weight_decay=5e-3),
        f"{_PATIL} D.1, table 1, VGG-19 on CIFAR-10/100",
    ),
    "patil-tiny-imagenet": (
        _milestones(100, 150, epochs=200, batch_size=256, momentum=0.9, lr=0.2, weight_decay=1e-4),
        f"{_PATIL} D.1, table 1, ResNet-18 and VGG-19 on Tiny-ImageNet",
    ),
    "patil-transformation": (
        # A decay of 0.95 after every epoch is a milestone at every epoch. The loss there is the squared error.
        _milestones(*range(1, 20), epochs=20, batch_size=32, optimizer="adam", lr=1e-3, gamma=0.95, augment=False),
        f"{_PATIL} B, MLPs that rotate and shear MNIST",
    ),
    "synflow-vgg-cifar": (
        _milestones(60, 120, epochs=160, momentum=0.9, nesterov=True, lr=0.1, weight_decay=1e-4),
        f"{_SYNFLOW}, VGG-11 and VGG-16 on CIFAR-10/100",
    ),
    "ntksap-resnet-20-cifar-10": (
        _milestones(80, 120, epochs=160, momentum=0.9, lr=0.1, weight_decay=1e-4),
        f"{_NTK_SAP}, ResNet-20 on CIFAR-10",
    ),
    "ntksap-vgg-16-cifar-100": (
        _milestones(60, 120, epochs=160, momentum=0.9, nesterov=True, lr=0.1, weight_decay=5e-4),
        f"{_NTK_SAP}, VGG-16 on CIFAR-100",
    ),
    "ntksap-resnet-18-tiny-imagenet": (
        _milestones(100, 150, epochs=200, batch_size=256, momentum=0.9, lr=0.2, weight_decay=5e-4),
        f"{_NTK_SAP}, ResNet-18 on Tiny-ImageNet; the decay is that of a third-party reproduction",
    ),
}

# patterns of data and model -> name; the first that fits
_DEFAULTS: tuple[tuple[str, str, str], ...] = (
    ("digits(-transformation)?", ".*", "digits"),
    ("mnist-transformation", ".*", "patil-transformation"),
    ("mnist", "fc-", "gebhart-fc-mnist"),
    ("mnist", ".*", "frankle-lenet-mnist"),
    ("cifar-10", "(wide-)?resnet|wrn", "frankle-resnet-20-cifar-10"),
    ("cifar-10", "vgg-19", "patil-vgg-19-cifar"),
    ("cifar-10", "vgg", "frankle-vgg-16-cifar-10"),
    ("cifar-100", "(wide-)?resnet|wrn", "patil-resnet-20-cifar"),
    ("cifar-100", "vgg-19", "patil-vgg-19-cifar"),
    ("cifar-100", "vgg", "ntksap-vgg-16-cifar-100"),
    ("cifar-100?", "fc-", "gebhart-fc-cifar"),
    ("(modified-)?tiny-imagenet", "resnet|vgg", "frankle-resnet-18-tiny-imagenet"),
    ("imagenet", "resnet", "frankle-resnet-50-imagenet"),
)

RECIPES: Mapping[str, Recipe] = MappingProxyType({name: value for name, (value, _) in _TABLE.items()})
SOURCES: Mapping[str, str] = MappingProxyType({name: source for name, (_, source) in _TABLE.items()})
