"""The networks of the pruning-before-training papers, by name: plain modules, no masks inside.

| name | from |
| --- | --- |
| lenet-300-100, lenet-5 | SNIP; Frankle et al. 2021, appendix K |
| fc-100, fc-500, fc-1000, fc-2000 | Gebhart et al. 2021, section 5.2 |
| mlp-bn-100, mlp-bn-200, mlp-bn-300, mlp-bn-400 | PHEW, appendix B |
| resnet-20, ... and wide-resnet-20 | Frankle et al. 2021; Gebhart et al. 2021; PHEW; NTK-SAP |
| wrn-14-8, wrn-14-10, wrn-20-8, wrn-32-2 | SNIP and GraSP, as replicated by Frankle et al. 2021, tables 1 and 4 |
| vgg-11, vgg-13, vgg-16, vgg-19, vgg-16-2fc | Frankle et al. 2021; SynFlow; PHEW; NTK-SAP |
| resnet-18, resnet-18-imagenet, resnet-50 | SynFlow; Frankle et al. 2021; NTK-SAP |
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from foreprune.core.fields import checked
from foreprune.core.init import check_initializer
from foreprune.core.names import unknown
from foreprune.zoo.feedforward import Shape, lenet5, mlp, vgg
from foreprune.zoo.initializers import initialize_
from foreprune.zoo.resnets import cifar_resnet, resnet18, resnet50

Builder = Callable[[Shape, int], nn.Module]

_DESCRIPTIONS: dict[str, str] = {
    "lenet-300-100": "fully connected, hidden layers of 300 and 100 units",
    "lenet-5": "two 5x5 convolutions (20, 50 channels), 500 hidden units; images from 16x16",
    **{f"fc-{width}": f"fully connected, six hidden layers of {width} units" for width in (100, 500, 1000, 2000)},
    **{
        f"mlp-bn-{width}": f"fully connected, six hidden layers of {width} units with batch normalization"
        for width in (100, 200, 300, 400)
    },
    **{f"resnet-{depth}": f"CIFAR ResNet, {depth} layers, widths 16, 32, 64" for depth in (8, 20, 32, 44, 56, 110)},
    "wide-resnet-20": "CIFAR ResNet, 20 layers, twice as wide (the same as resnet-20x2)",
    "wrn-14-8": "CIFAR ResNet, 14 layers, eight times as wide (WRN-16-8 of SNIP)",
    "wrn-14-10": "CIFAR ResNet, 14 layers, ten times as wide (WRN-16-10 of SNIP)",
    "wrn-20-8": "CIFAR ResNet, 20 layers, eight times as wide (WRN-22-8 of SNIP)",
    "wrn-32-2": "CIFAR ResNet, 32 layers, twice as wide (ResNet-32 of GraSP)",
    **{
        f"vgg-{depth}": f"VGG, {depth - 3} convolutions with batch normalization and one linear layer; "
        "images from 16x16"
        for depth in (11, 13, 16, 19)
    },
    "vgg-16-2fc": "VGG-16 with a second, 512-unit linear layer (VGG2-16); images from 16x16",
    "resnet-18": "ResNet-18 with a 3x3 stem and no max pooling (SynFlow's form for small images)",
    "resnet-18-imagenet": "ResNet-18 with the 7x7 stem and max pooling",
    "resnet-50": "ResNet-50 (bottlenecks) with the 7x7 stem and max pooling",
}


def names() -> tuple[str, ...]:
    """The networks of the papers. `create` also takes their relatives, see there."""
    return tuple(_DESCRIPTIONS)


def describe(name: str) -> str:
    """One line on a network of `names()`.

    Raises:
        ValueError: not in `names()`.
    """
    if name not in _DESCRIPTIONS:
        raise unknown("network", name, _DESCRIPTIONS)
    return _DESCRIPTIONS[name]


def create(
    name: str,
    *,
    input_shape: tuple[int, int, int],
    classes: int = 10,
    init: str = "kaiming-normal-fan-in",
    seed: int = 0,
) -> nn.Module:
    """Build a network and draw its weights; the global random state is neither read nor changed.

    Besides `names()` these forms are taken: `fc-<width>` (six hidden layers of any width), `mlp-bn-<width>` and
    `mlp-bn-<width>-<hidden layers>`, `resnet-<depth>` and `resnet-<depth>x<factor>` (CIFAR, depth 6n + 2, every width
    times the factor), `wrn-<depth>-<factor>` (another spelling of the same), `vgg-<depth>x<factor>`, and `-2fc` after
    any VGG.

    `package.module:factory` calls that factory with those of input_shape, classes and seed that it names, and torch's
    generator seeded around it; it draws its own weights, whatever `init` says. (The ablations
    `reinit`, `reinit-layer` and `reinit-neuron` of such a network draw by `init`.)

    **Depths of wide ResNets** are counted as for every CIFAR ResNet, 6n + 2: n blocks of two convolutions in each of
    three stages, the stem and the classifier. `wrn-14-8` has n = 2 and stages of 128, 256 and 512 channels. Zagoruyko
    and Komodakis 2016, and after them SNIP, count 6n + 4 and call it WRN-16-8; Frankle et al. 2021 (table 1) use the
    names here. Batch normalization precedes the activation, after the convolution.

    **Gebhart et al. 2021** describe `fc-*` as six hidden layers (section 5.2); the SynFlow code that they built on
    counts the classifier among its six layers. Here there are six hidden layers and a classifier.

    **Patil & Dovrolis 2021** (PHEW) give the widths of the MLPs of their appendix B, batch normalization and ReLU at
    each hidden layer, and nowhere how many layers there are; the code they published has no MLP. Here `mlp-bn-*` have
    six hidden layers, as many as the networks of Gebhart et al., whose path kernel that paper builds on; another number
    can follow the width, as in `mlp-bn-100-3`.

    Args:
        name: which network.
        input_shape: (channels, height, width) of one image.
        classes: number of outputs.
        init: distribution of the weights, one of `foreprune.core.init.initializers()`.
        seed: of the generator that draws them; equal seeds give bit-identical weights.

    Returns:
        The module, in training mode, on the default device and in the default dtype; (B, C, H, W) -> logits (B,
        classes).

    Raises:
        ValueError: unknown name (with near ones) or init, an impossible depth, a size that is not positive, images
            smaller than the network can take (with the smallest size), or a factory that cannot be imported.
        TypeError: `input_shape` is not three whole numbers, or `classes` or `seed` none; or a factory that returns no
            module.
    """
    if isinstance(name, str) and ":" in name:
        return _from_factory(name, {"input_shape": input_shape, "classes": classes, "seed": seed})
    build = builder(name)
    shape = _checked_shape(input_shape)
    for what, value, least in (("classes", classes, 1), ("seed", seed, 0)):
        if checked(what, value, int) < least:
            raise ValueError(f"{what} must be at least {least}, not {value}")
    check_initializer(init)
    # built without storage, so that PyTorch's own initialization costs nothing and draws nothing
    with torch.device("meta"):
        model = build(shape, classes)
    model.to_empty(device=torch.empty(0).device)  # get_default_device() of torch 2.6 does not see `with device:`
    return initialize_(model, init=init, generator=torch.Generator().manual_seed(seed))


def _from_factory(name: str, offered: dict[str, Any]) -> nn.Module:
    module_name, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"cannot import the model {name!r} ({error}); write package.module:factory, with the folder that "
            "holds the package on PYTHONPATH"
        ) from error
    parameters = inspect.signature(factory).parameters.values()
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    known = {p.name for p in parameters}
    with torch.random.fork_rng():
        torch.manual_seed(offered["seed"])
        model = factory(**{key: value for key, value in offered.items() if takes_all or key in known})
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name!r} must build a torch.nn.Module, not {type(model).__name__}")
    return model


def builder(name: str) -> Builder:
    """The function (input_shape, classes) -> module that `create` calls, with PyTorch's own initialization.

    Raises:
        ValueError, TypeError: as `create` for its name.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a network must be a string such as 'resnet-20', not {type(name).__name__}")
    match name:
        case "lenet-300-100":
            return lambda shape, classes: mlp(shape, classes, widths=(300, 100))
        case "lenet-5":
            return lenet5
        case "resnet-18" | "resnet-18-imagenet":
            return lambda shape, classes: resnet18(shape, classes, imagenet_stem=name.endswith("-imagenet"))
        case "resnet-50":
            return resnet50
    if found := re.fullmatch(r"fc-([1-9]\d*)", name):
        width = int(found[1])
        return lambda shape, classes: mlp(shape, classes, widths=(width,) * 6)
    if found := re.fullmatch(r"mlp-bn-([1-9]\d*)(?:-([1-9]\d*))?", name):
        widths = (int(found[1]),) * int(found[2] or 6)
        return lambda shape, classes: mlp(shape, classes, widths=widths, norm=True)
    if found := re.fullmatch(r"vgg-(11|13|16|19)(?:x([1-9]\d*))?(-2fc)?", name):
        depth, factor, linear = int(found[1]), int(found[2] or 1), 2 if found[3] else 1
        return lambda shape, classes: vgg(shape, classes, depth=depth, factor=factor, linear_layers=linear)
    residual = "resnet-20x2" if name == "wide-resnet-20" else re.sub(r"^wrn-(\d+)-(\d+)$", r"resnet-\1x\2", name)
    if found := re.fullmatch(r"resnet-([1-9]\d*)(?:x([1-9]\d*))?", residual):
        depth, factor = int(found[1]), int(found[2] or 1)
        if depth == 50:
            raise ValueError(f"{name!r}: 50 layers are taken by the ImageNet 'resnet-50'; write 'resnet-44x{factor}'")
        return lambda shape, classes: cifar_resnet(shape, classes, depth=depth, factor=factor)
    raise unknown("network", name, _DESCRIPTIONS)


def _checked_shape(input_shape: tuple[int, int, int]) -> Shape:
    if not isinstance(input_shape, (tuple, list)) or len(input_shape) != 3:
        raise TypeError(
            f"input_shape must be (channels, height, width) of one image, such as (3, 32, 32), not {input_shape!r}"
        )
    channels, height, width = checked("input_shape", input_shape, tuple[int, ...])
    if min(channels, height, width) < 1:
        raise ValueError(f"input_shape must be three positive numbers, such as (3, 32, 32), not {tuple(input_shape)}")
    return channels, height, width
