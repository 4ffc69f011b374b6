"""timm's networks, each at the smallest size that keeps its structure."""

from __future__ import annotations

from typing import Any

import torch
from contract.extras import imported
from models.network import CLASSES, Given, Rows, images, labels

timm: Any = imported("timm")
from timm import layers  # noqa: E402
from timm.models import byobnet, cspnet, mlp_mixer  # noqa: E402

TIMM = Rows("timm")


def classifier(name: str, *, size: int = 32, dtype: torch.dtype = torch.float32, **settings: Any) -> None:
    """A row of that name; `settings` are timm's own for fewer blocks and channels."""

    def build() -> Given:
        model = timm.create_model(name, num_classes=CLASSES, **settings)
        return Given(model.to(dtype), images(size).to(dtype), labels())

    TIMM.add(name if dtype == torch.float32 else f"{name}, {str(dtype).removeprefix('torch.')}", build)


def mixer(name: str, **settings: Any) -> None:
    """An MLP mixer, whose factories fix the size."""

    def build() -> Given:
        model = mlp_mixer.MlpMixer(
            num_classes=CLASSES, img_size=32, patch_size=8, embed_dim=32, num_blocks=2, **settings
        )
        return Given(model, images(32), labels())

    TIMM.add(name, build)


SMALL = {"embed_dim": 32, "depth": 2}

# convolutions
classifier("resnet10t", channels=(16, 16, 32, 32), stem_width=8)
classifier("seresnet18", layers=(1, 1, 1, 1), channels=(16, 16, 32, 32))
classifier("ecaresnet26t", layers=(1, 1, 1, 1), channels=(16, 16, 32, 32), stem_width=8)
classifier("skresnet18", layers=(1, 1, 1, 1), channels=(16, 16, 32, 32))
classifier("resnest14d", channels=(16, 16, 32, 32), stem_width=8, base_width=16)
classifier("res2net50_26w_4s", layers=(1, 1, 1, 1), channels=(16, 16, 32, 32))
classifier("resnetv2_50", layers=(1, 1, 1, 1), channels=(16, 32, 32, 64), stem_chs=16)
classifier("resnetv2_50d_gn", size=64, layers=(1, 1, 1, 1), channels=(128, 128, 128, 128), stem_chs=64)
classifier("nf_resnet26", depths=(1, 1, 1, 1), channels=(16, 32, 32, 64), stem_chs=16)
classifier("eca_nfnet_l0", depths=(1, 1, 1, 1), channels=(64, 64, 128, 128), group_size=16, stem_chs=64)
classifier("resnet26t", layers=(1, 1, 1, 1), channels=(16, 16, 32, 32), stem_width=8)
classifier("tresnet_m", layers=(1, 1, 1, 1), width_factor=0.25)
classifier("densenet121", growth_rate=8, block_config=(2, 2, 2, 2))
classifier(
    "vovnet39a",
    size=32,
    stem_chs=(8, 8, 16),
    stage_conv_chs=(8, 16, 16, 16),
    stage_out_chs=(16, 32, 32, 32),
    block_per_stage=(1, 1, 1, 1),
)
classifier("mobilenetv3_small_050")
classifier("mobilenetv4_conv_small_035")
classifier("tf_efficientnetv2_b0", channel_multiplier=0.5, depth_multiplier=0.5)
classifier("ghostnet_050")
classifier("repvgg_a0", stem_chs=16, blocks=byobnet._rep_vgg_bcfg(d=(1, 1, 1, 1), wf=(0.25, 0.25, 0.25, 0.125)))
classifier("mobileone_s0", stem_chs=16, blocks=byobnet._mobileone_bcfg(d=(1, 1, 1, 1), wf=(0.25, 0.25, 0.25, 0.125)))
classifier("dla46_c", levels=(1, 1, 1, 1, 1, 1), channels=(8, 8, 16, 16, 32, 32))
classifier(
    "cspresnet50",
    stages=cspnet.CspStagesCfg(
        depth=(1, 1, 1, 1),
        out_chs=(16, 32, 32, 32),
        stride=(1, 2),
        expand_ratio=2.0,
        bottle_ratio=0.5,
        cross_linear=True,
    ),
)
classifier("inception_next_atto", depths=(1, 1, 1, 1), dims=(16, 16, 32, 32))
classifier("convnext_atto", depths=(1, 1, 1, 1), dims=(16, 16, 32, 32))
classifier("convnextv2_atto", depths=(1, 1, 1, 1), dims=(16, 16, 32, 32))
classifier("starnet_s1", base_dim=8, depths=(1, 1, 1, 1))
classifier("fastvit_t8", layers=(1, 1, 1, 1), embed_dims=(16, 16, 32, 32))
classifier("mambaout_femto", depths=(1, 1, 1, 1), dims=(16, 16, 32, 32))

# attention, mixers
classifier("vit_tiny_patch16_224", img_size=32, patch_size=8, num_heads=2, **SMALL)
classifier("deit_tiny_distilled_patch16_224", img_size=32, patch_size=8, num_heads=2, **SMALL)
classifier("beit_base_patch16_224", img_size=32, patch_size=8, num_heads=2, **SMALL)
classifier("eva02_tiny_patch14_224", img_size=32, patch_size=8, num_heads=2, **SMALL)
classifier("cait_xxs24_224", img_size=32, patch_size=8, num_heads=2, **SMALL)
classifier("xcit_nano_12_p16_224", img_size=32, num_heads=2, **SMALL)
classifier("swin_tiny_patch4_window7_224", img_size=32, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 2))
classifier("swinv2_tiny_window8_256", img_size=32, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 2))
classifier("pvt_v2_b0", depths=(1, 1, 1, 1), embed_dims=(16, 16, 32, 32), num_heads=(1, 1, 2, 2))
classifier(
    "twins_svt_small", size=64, img_size=64, depths=(1, 1, 1, 1), embed_dims=(16, 16, 32, 32), num_heads=(2, 2, 2, 2)
)
classifier("levit_128s", size=64, img_size=64, embed_dim=(32, 32, 32), depth=(1, 1, 1), num_heads=(2, 2, 2), key_dim=8)
classifier("pit_ti_224", size=64, img_size=64, base_dims=(16, 16, 16), depth=(1, 1, 1), heads=(1, 2, 2))
classifier("mobilevit_xxs", size=64)
classifier("mobilevitv2_050", size=64)
classifier("edgenext_xx_small", size=64, depths=(1, 1, 1, 1), dims=(16, 16, 32, 32), heads=(2, 2, 2, 2))
classifier(
    "coatnet_0_rw_224", size=64, img_size=64, embed_dim=(16, 32, 32, 64), depths=(1, 1, 1, 1), stem_width=(8, 16)
)
RMLP = {"size": 64, "img_size": 64, "embed_dim": (32, 32, 64, 64), "depths": (1, 1, 1, 1), "stem_width": (8, 16)}
for dtype in (torch.float32, torch.float64, torch.bfloat16):  # it keeps a table as a buffer
    classifier("maxvit_rmlp_pico_rw_256", dtype=dtype, **RMLP)
classifier("davit_tiny", depths=(1, 1, 1, 1), embed_dims=(16, 16, 32, 32), num_heads=(1, 1, 2, 2))
classifier("hiera_tiny_224", size=64, img_size=64, embed_dim=16, stages=(1, 1, 1, 1))
classifier("botnet26t_256", size=64, img_size=64)
mixer("resmlp_12", block_layer=mlp_mixer.ResBlock, norm_layer=mlp_mixer.Affine, mlp_ratio=4)
mixer("mixer_s32")
mixer("gmlp_s16", block_layer=mlp_mixer.SpatialGatingBlock, mlp_layer=layers.GatedMlp, mlp_ratio=4)
classifier("sequencer2d_s", layers=(1, 1, 1, 1), embed_dims=(16, 32, 32, 32), hidden_sizes=(4, 8, 8, 8))
classifier(
    "tiny_vit_5m_224",
    size=64,
    depths=(1, 1, 1, 1),
    embed_dims=(16, 32, 32, 64),
    num_heads=(2, 2, 2, 2),
    window_sizes=(2, 2, 2, 2),
)
