"""Networks without shortcuts: fully-connected ones, LeNet-5 and VGG. Plain `nn.Sequential`s with named layers."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

Shape = tuple[int, int, int]
Layers = OrderedDict[str, nn.Module]

# channels of the 3x3 convolutions between two poolings (Simonyan and Zisserman 2015, table 1, columns A, B, D, E)
_VGG: dict[int, tuple[tuple[int, ...], ...]] = {
    11: ((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2),
    13: ((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 2, (512,) * 2),
    16: ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    19: ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}


def mlp(input_shape: Shape, classes: int, *, widths: Sequence[int], norm: bool = False) -> nn.Sequential:
    """Flatten, then linear layers `fc1`, `fc2`, ... of `widths` units with ReLU, then `classifier`. Any input size.

    With `norm`, batch normalization `bn1`, `bn2`, ... precedes each ReLU; the layers keep their biases, as VGG's do.
    """
    layers: Layers = OrderedDict(flatten=nn.Flatten())
    features = math.prod(input_shape)
    for index, width in enumerate(widths, start=1):
        layers[f"fc{index}"] = nn.Linear(features, width)
        if norm:
            layers[f"bn{index}"] = nn.BatchNorm1d(width)
        layers[f"relu{index}"] = nn.ReLU()
        features = width
    layers["classifier"] = nn.Linear(features, classes)
    return nn.Sequential(layers)


def lenet5(input_shape: Shape, classes: int) -> nn.Sequential:
    """LeNet-5 in the Caffe form of the SNIP paper: 5x5 convolutions of 20 and 50 channels, 500 hidden units.

    ReLU follows every convolution; the official SNIP code has it after the hidden linear layer only.

    Raises:
        ValueError: height or width below 16, where the second pooling has nothing left.
    """
    channels, height, width = input_shape
    _require_size("lenet-5", input_shape, 16, "two 5x5 convolutions without padding, each followed by 2x2 pooling")
    rest = [((size - 4) // 2 - 4) // 2 for size in (height, width)]
    layers: Layers = OrderedDict(
        conv1=nn.Conv2d(channels, 20, 5),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(20, 50, 5),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(50 * math.prod(rest), 500),
        relu3=nn.ReLU(),
        classifier=nn.Linear(500, classes),
    )
    return nn.Sequential(layers)


def vgg(input_shape: Shape, classes: int, *, depth: int, factor: int = 1, linear_layers: int = 1) -> nn.Sequential:
    """VGG-`depth` in its CIFAR form: 3x3 convolutions with batch normalization, one or two linear layers.

    The convolutions are those of Simonyan and Zisserman 2015, in five groups, with biases as in OpenLTH. Four 2x2 max
    poolings stand between the groups; the fifth pooling is a global average, which is OpenLTH's 2x2 average at 32x32
    and leaves the same 512 features at any other size (4x4 positions are averaged at 64x64, the size of TinyImageNet).

    `linear_layers=1` is the VGG-16 of Frankle et al. 2021 (SNIP's VGG-like, by their account), `2` their VGG2-16
    (SNIP's VGG-D): a hidden linear layer `fc1` of 512 units with batch normalization. `factor` multiplies every width.

    Raises:
        ValueError: height or width below 16, or an unknown depth.
    """
    if depth not in _VGG:
        raise ValueError(f"VGG has 11, 13, 16 or 19 layers, not {depth}")
    _require_size(f"vgg-{depth}", input_shape, 16, "four 2x2 poolings")
    layers: Layers = OrderedDict()
    channels, conv = input_shape[0], 0
    for group, widths in enumerate(_VGG[depth], start=1):
        for width in widths:
            conv += 1
            layers[f"conv{conv}"] = nn.Conv2d(channels, width * factor, 3, padding=1)
            layers[f"bn{conv}"] = nn.BatchNorm2d(width * factor)
            layers[f"relu{conv}"] = nn.ReLU()
            channels = width * factor
        layers[f"pool{group}"] = nn.AdaptiveAvgPool2d(1) if group == len(_VGG[depth]) else nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    for index in range(1, linear_layers):
        layers[f"fc{index}"] = nn.Linear(channels, channels)
        layers[f"bn_fc{index}"] = nn.BatchNorm1d(channels)
        layers[f"relu_fc{index}"] = nn.ReLU()
    layers["classifier"] = nn.Linear(channels, classes)
    return nn.Sequential(layers)


def _require_size(name: str, input_shape: Shape, minimum: int, why: str) -> None:
    _, height, width = input_shape
    if min(height, width) < minimum:
        raise ValueError(
            f"{name} needs images of at least {minimum}x{minimum} pixels ({why}), not {height}x{width}; "
            "for smaller images write resnet-20 or lenet-300-100"
        )
