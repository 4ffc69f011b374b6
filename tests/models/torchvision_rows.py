"""torchvision's networks, each at the smallest size that keeps its structure."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from contract.extras import imported
from models.network import CLASSES, Given, Rows, images, labels
from torch import Tensor, nn
from torch.nn import functional as F

VISION = Rows("torchvision")
zoo = imported("torchvision").models


def classifier(name: str, build: Any, *, size: int = 32, loss: Any = None) -> None:
    VISION.add(name, lambda: Given(build(), images(size), labels(), loss))


def narrow_head(model: nn.Module, features: int) -> nn.Module:
    """The published head has 100 million weights; this one has its layers and fewer units."""
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier = nn.Sequential(
        nn.Linear(features, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, 64), nn.ReLU(True), nn.Linear(64, CLASSES)
    )
    return model


def pixels(output: Any, target: Tensor) -> Tensor:
    return F.cross_entropy(output["out"], target)


def segmenter(name: str, build: Any) -> None:
    VISION.add(name, lambda: Given(build(), images(32, samples=2), torch.randint(0, CLASSES, (2, 32, 32)), pixels))


def video(name: str, build: Any, *, frames: int = 4, size: int = 16) -> None:
    VISION.add(name, lambda: Given(build(), torch.rand(2, 3, frames, size, size), labels(2)))


resnet, seg = zoo.resnet, zoo.segmentation
classifier("alexnet", lambda: narrow_head(zoo.AlexNet(CLASSES), 256), size=64)
classifier(
    "vgg, batch norm",
    lambda: narrow_head(zoo.VGG(zoo.vgg.make_layers([16, "M", 32, "M", 64, 64, "M"], batch_norm=True)), 64),
)
classifier("resnet18, 1 block a stage", lambda: resnet.ResNet(resnet.BasicBlock, [1] * 4, CLASSES))
classifier(
    "resnext50, 1 block a stage",
    lambda: resnet.ResNet(resnet.Bottleneck, [1] * 4, CLASSES, groups=8, width_per_group=4),
)
classifier(
    "resnet50, zero-init residual",
    lambda: resnet.ResNet(resnet.Bottleneck, [1, 1, 2, 1], CLASSES, zero_init_residual=True, width_per_group=16),
)
classifier("densenet", lambda: zoo.DenseNet(8, (2, 2, 2, 2), 16, num_classes=CLASSES), size=48)
classifier("squeezenet1_1", lambda: zoo.squeezenet1_1(num_classes=CLASSES), size=48)
classifier("googlenet", lambda: zoo.GoogLeNet(CLASSES, aux_logits=False, init_weights=False), size=48)
classifier("mobilenet_v2", lambda: zoo.MobileNetV2(CLASSES, width_mult=0.35))
classifier("mobilenet_v3_small", lambda: zoo.mobilenet_v3_small(num_classes=CLASSES, width_mult=0.5))
classifier("mnasnet0_5", lambda: zoo.MNASNet(0.35, CLASSES))
classifier("shufflenet_v2_x0_5", lambda: zoo.shufflenet_v2_x0_5(num_classes=CLASSES))
classifier(
    "efficientnet_b0, shallow",
    lambda: zoo.EfficientNet(
        [
            partial(zoo.efficientnet.MBConvConfig, width_mult=0.5, depth_mult=0.5)(*one)
            for one in ((1, 3, 1, 32, 16, 1), (6, 3, 2, 16, 24, 2), (6, 5, 2, 24, 40, 2))
        ],
        0.2,
        num_classes=CLASSES,
        last_channel=64,
    ),
)
classifier(
    "efficientnet_v2, shallow",
    lambda: zoo.EfficientNet(
        [
            zoo.efficientnet.FusedMBConvConfig(1, 3, 1, 16, 16, 1),
            zoo.efficientnet.FusedMBConvConfig(4, 3, 2, 16, 32, 1),
            zoo.efficientnet.MBConvConfig(4, 3, 2, 32, 48, 1),
        ],
        0.2,
        num_classes=CLASSES,
        last_channel=64,
    ),
)
classifier(
    "regnet_y, small",
    lambda: zoo.RegNet(
        zoo.regnet.BlockParams.from_init_params(depth=4, w_0=16, w_a=16.0, w_m=2.0, group_width=8, se_ratio=0.25),
        CLASSES,
    ),
)
classifier(
    "regnet_x, small",
    lambda: zoo.RegNet(
        zoo.regnet.BlockParams.from_init_params(depth=4, w_0=16, w_a=16.0, w_m=2.0, group_width=8), CLASSES
    ),
)
classifier(
    "convnext, small",
    lambda: zoo.ConvNeXt(
        [
            zoo.convnext.CNBlockConfig(16, 32, 1),
            zoo.convnext.CNBlockConfig(32, 64, 1),
            zoo.convnext.CNBlockConfig(64, None, 1),
        ],
        num_classes=CLASSES,
    ),
)
classifier("vit, small", lambda: zoo.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=CLASSES))
classifier("swin, small", lambda: zoo.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=CLASSES))
classifier(
    "swin_v2, small",
    lambda: zoo.SwinTransformer(
        [4, 4],
        16,
        [2, 2],
        [2, 4],
        [4, 4],
        num_classes=CLASSES,
        block=zoo.swin_transformer.SwinTransformerBlockV2,
        downsample_layer=zoo.swin_transformer.PatchMergingV2,
    ),
)
classifier("maxvit, small", lambda: zoo.MaxVit((32, 32), 16, 4, [16, 32], [1, 1], 8, 0.1, num_classes=CLASSES))
segmenter("fcn", lambda: seg.FCN(_backbone(), seg.fcn.FCNHead(128, CLASSES)))
segmenter("deeplabv3", lambda: seg.DeepLabV3(_backbone(), seg.deeplabv3.DeepLabHead(128, CLASSES, (2, 4))))
segmenter(
    "lraspp",
    lambda: seg.lraspp._lraspp_mobilenetv3(zoo.mobilenet_v3_small(width_mult=0.5, dilated=True), CLASSES),
)
video("r3d, two stages", lambda: _video(zoo.video.resnet.Conv3DSimple, zoo.video.resnet.BasicStem))
video("r2plus1d, two stages", lambda: _video(zoo.video.resnet.Conv2Plus1D, zoo.video.resnet.R2Plus1dStem))
video(
    "mvit, small",
    lambda: zoo.video.MViT(
        (32, 32),
        4,
        [
            zoo.video.mvit.MSBlockConfig(1, 16, 16, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 4, 4]),
            zoo.video.mvit.MSBlockConfig(2, 16, 32, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 2, 2]),
        ],
        residual_pool=True,
        residual_with_cls_embed=True,
        rel_pos_embed=True,
        proj_after_attn=True,
        num_classes=CLASSES,
    ),
    size=32,
)
video(
    "swin3d, small",
    lambda: zoo.video.SwinTransformer3d([2, 4, 4], 16, [2, 2], [2, 4], [2, 4, 4], num_classes=CLASSES),
    size=32,
)


def _backbone() -> nn.Module:
    body = resnet.ResNet(resnet.BasicBlock, [1] * 4)
    return zoo._utils.IntermediateLayerGetter(body, {"layer2": "out"})


def _video(convolution: Any, stem: Any) -> nn.Module:
    """The stem and the first two stages."""
    parts = zoo.video.resnet
    model = parts.VideoResNet(parts.BasicBlock, [convolution] * 4, [1, 1, 1, 1], stem, CLASSES)
    model.layer3 = model.layer4 = nn.Identity()
    model.fc = nn.Linear(128, CLASSES)
    return model


@VISION.row("raft, optical flow")
def _flow() -> Given:
    model = zoo.optical_flow.raft.raft_small()
    images = {name: torch.rand(1, 3, 128, 128) for name in ("image1", "image2")}
    return Given(
        model,
        {**images, "num_flow_updates": 2},
        torch.rand(1, 2, 128, 128),
        lambda output, target: F.l1_loss(output[-1], target),
    )
