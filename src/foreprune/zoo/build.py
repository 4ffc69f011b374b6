"""What a run is made of: the data set, the network, the images that methods score on."""

from __future__ import annotations

import importlib
import inspect
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foreprune.core.task import Loss
from foreprune.zoo import datasets, models
from foreprune.zoo.images import ImageFolder, ImageSet

_SCORING_BATCH = 1000  # samples scored at once; ten per class fit up to a hundred classes
Batches = list[tuple[Tensor, Tensor]]
Images = ImageSet | ImageFolder


@lru_cache(maxsize=1)
def load_data(name: str, data_dir: str | None) -> datasets.DataSet:
    """A data set, kept in memory for the next run that asks for the same."""
    return datasets.load(name, data_dir=data_dir)


def load_model(
    name: str, *, input_shape: tuple[int, int, int], classes: int, init: str = "kaiming-normal-fan-in", seed: int = 0
) -> nn.Module:
    """A network of the zoo by name, or one that `package.module:factory` builds.

    A factory is called with those of input_shape, classes and seed that it names; torch's generator is seeded around
    it. `init` belongs to the zoo: a factory draws its own weights.

    Raises:
        ValueError: unknown name, or a factory that cannot be imported.
        TypeError: a factory that returns no module.
    """
    if ":" not in name:
        return models.create(name, input_shape=input_shape, classes=classes, init=init, seed=seed)
    module_name, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"cannot import the model {name!r} ({error}); write package.module:factory, with the folder that "
            "holds the package on PYTHONPATH"
        ) from error
    offered = {"input_shape": input_shape, "classes": classes, "seed": seed}
    parameters = inspect.signature(factory).parameters.values()
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    known = {p.name for p in parameters}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = factory(**{key: value for key, value in offered.items() if takes_all or key in known})
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name!r} must build a torch.nn.Module, not {type(model).__name__}")
    return model


def loss_of(data: datasets.DataSet) -> Loss | None:
    """What is minimized on `data`, (output, target) -> mean; None is cross-entropy."""
    return F.mse_loss if data.loss == "squared-error" else None


def scoring_batches(train: Images, *, per_class: int, seed: int, device: torch.device | str) -> Batches:
    """`per_class` images of each class, shuffled, in batches of at most a thousand."""
    images, labels = train.per_class(per_class, seed=seed)
    pairs = zip(torch.split(images, _SCORING_BATCH), torch.split(labels, _SCORING_BATCH), strict=True)
    return [(x.to(device), y.to(device)) for x, y in pairs]


def mean_image(train: Images, batches: Batches) -> Tensor:
    """Mean of the raw pixels in [0, 1], (C, H, W): of all training images in memory, else of the scoring batches."""
    if isinstance(train, ImageSet):
        chunks = [chunk.double().sum(0) for chunk in torch.split(train.images, _SCORING_BATCH)]
        return torch.stack(chunks).sum(0).div(255 * len(train)).float()
    mean, std = (torch.tensor(values)[:, None, None] for values in (train.mean, train.std))
    images = torch.cat([x.cpu() for x, _ in batches])
    return (images.mean(0) * std + mean).clamp(min=0)
