"""Residual networks: the three-stage form for CIFAR and the four-stage form for ImageNet.

Both place batch normalization after each convolution and before the activation (He et al. 2016, arXiv:1512.03385), and
both project with a 1x1 convolution and batch normalization wherever a block changes the width or the resolution.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from foreprune.zoo.feedforward import Shape


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut. `downsample` projects the shortcut; without it the input is added."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _projection(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, width, H / stride, W / stride), sizes rounded up."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; the stride sits on the 3x3, as in torchvision."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _projection(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 4 * width, H / stride, W / stride), sizes rounded up."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


class ResNet(nn.Module):
    """Stem, stages `layer1`, `layer2`, ... of residual blocks, global average pooling, one linear layer `fc`.

    Every stage but the first halves the resolution. The names of the parameters are torchvision's, so its ResNet-18 and
    ResNet-50 weights load.

    Args:
        input_shape: (C, H, W); any size, since strided convolutions round up and the pooling is global.
        classes: outputs.
        block: `BasicBlock` or `Bottleneck`.
        blocks: how many in each stage.
        widths: channels of each stage (times `block.expansion` at its output); the stem has `widths[0]`.
        imagenet_stem: a 7x7 convolution of stride 2 and 3x3 max pooling of stride 2 instead of one 3x3 convolution.
    """

    def __init__(
        self,
        input_shape: Shape,
        classes: int,
        *,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: tuple[int, ...],
        widths: tuple[int, ...] = (64, 128, 256, 512),
        imagenet_stem: bool = False,
    ) -> None:
        super().__init__()
        if imagenet_stem:
            self.conv1 = nn.Conv2d(input_shape[0], widths[0], 7, stride=2, padding=3, bias=False)
        else:
            self.conv1 = nn.Conv2d(input_shape[0], widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if imagenet_stem else None
        self.stages = len(widths)
        channels = widths[0]
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True), start=1):
            layers: list[nn.Module] = []
            for position in range(count):
                layers.append(block(channels, width, stride=2 if stage > 1 and position == 0 else 1))
                channels = width * block.expansion
            self.add_module(f"layer{stage}", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, classes)."""
        x = F.relu(self.bn1(self.conv1(x)))
        if self.maxpool is not None:
            x = self.maxpool(x)
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        y: Tensor = self.fc(self.avgpool(x).flatten(1))
        return y


def cifar_resnet(input_shape: Shape, classes: int, *, depth: int, factor: int = 1) -> ResNet:
    """ResNet-`depth` for 32x32 images: three stages of (depth - 2) / 6 basic blocks, widths 16, 32 and 64 times
    `factor`.

    He et al. 2016, section 4.2, with the shortcuts of OpenLTH, hence of Frankle et al. 2021: a 1x1 projection with
    batch normalization on each of the two downsamplings (He et al. pad with zero channels there, which has no weights).
    The stem is widened by `factor` too, as in OpenLTH; Zagoruyko and Komodakis 2016 keep it at 16 channels, normalize
    before the convolutions and count 6n + 4 layers.

    Raises:
        ValueError: `depth` is not 6n + 2, n >= 1.
    """
    if depth < 8 or (depth - 2) % 6:
        message = f"the depth of a CIFAR ResNet is 6n + 2 (8, 14, 20, 26, 32, 44, 56, 110, ...), not {depth}"
        if depth >= 10 and (depth - 4) % 6 == 0:
            message += f"; what Zagoruyko and Komodakis count as {depth} (6n + 4) is {depth - 2} here"
        raise ValueError(message)
    n = (depth - 2) // 6
    widths = (16 * factor, 32 * factor, 64 * factor)
    return ResNet(input_shape, classes, block=BasicBlock, blocks=(n, n, n), widths=widths)


def resnet18(input_shape: Shape, classes: int, *, imagenet_stem: bool) -> ResNet:
    """ResNet-18 of He et al. 2016, table 1; without `imagenet_stem` SynFlow's variant for small images."""
    return ResNet(input_shape, classes, block=BasicBlock, blocks=(2, 2, 2, 2), imagenet_stem=imagenet_stem)


def resnet50(input_shape: Shape, classes: int) -> ResNet:
    """ResNet-50 of He et al. 2016, table 1, with the ImageNet stem."""
    return ResNet(input_shape, classes, block=Bottleneck, blocks=(3, 4, 6, 3), imagenet_stem=True)
