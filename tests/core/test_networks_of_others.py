"""Layers of transformers, timm and torchvision that the rules of `layer_weights` and the warnings are made for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract.extras import needed
from torch import Tensor, nn

import foreprune
from foreprune.core.cautions import SmallShare, TiedScores
from foreprune.core.net import Net
from foreprune.core.normalized import KeptForNorm
from foreprune.core.unscored import UnscoredBlocks
from foreprune.core.zeros import zero_heads

pytestmark = [
    pytest.mark.filterwarnings("ignore::foreprune.LayerCollapse"),
    pytest.mark.filterwarnings("ignore::foreprune.core.unscored.UnscoredBlocks"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
IDS = torch.randint(0, 64, (3, 7), generator=torch.Generator().manual_seed(0))
IMAGES = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(6) % 4


def language_loss(output: Any, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output.logits.flatten(0, 1), target.flatten())


def built(make: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = make()
        return model.eval()


SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}


def transformers_5() -> Any:
    needed("transformers")
    return pytest.importorskip("transformers", minversion="5.0")


@pytest.mark.parametrize(
    ("kind", "settings", "shapes"),
    [
        ("Mixtral", {"num_local_experts": 4}, [(4, 48, 16), (4, 16, 24)]),
        ("Qwen3Moe", {"num_experts": 4, "moe_intermediate_size": 12, "head_dim": 4}, [(4, 24, 16), (4, 16, 12)]),
    ],
)
def test_stacked_experts_of_transformers(kind: str, settings: dict[str, Any], shapes: list[tuple[int, ...]]) -> None:
    transformers = transformers_5()
    config = getattr(transformers, f"{kind}Config")(**SIZES, **settings, num_experts_per_tok=2)
    model = built(lambda: getattr(transformers, f"{kind}ForCausalLM")(config))
    net = Net.of(model)
    assert [tuple(weight.shape) for weight in net.weights.values() if weight.dim() == 3] == shapes
    assert not any("mlp.gate.weight" in name for name in net.prunable)  # the router
    for method in ("magnitude", "erk", "random", "snip"):
        data = {"data": (IDS, IDS), "loss": language_loss} if method == "snip" else {}
        masks = foreprune.prune(model, method, density=0.1, **data)
        assert (masks.kept, masks.total) == (round(0.1 * net.total), net.total)


def test_the_head_of_gpt2_is_its_embedding() -> None:
    transformers = transformers_5()
    config = transformers.GPT2Config(
        vocab_size=64, n_embd=16, n_layer=1, n_head=4, n_positions=32, bos_token_id=0, eos_token_id=0
    )
    model = built(lambda: transformers.GPT2LMHeadModel(config))
    assert Net.of(model).prunable == tuple(
        f"transformer.h.0.{name}.weight" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    )
    assert Net.of(model, prunable=["lm_head.weight"]).prunable == ("transformer.wte.weight",)


def test_a_small_share_of_bert() -> None:
    transformers = transformers_5()
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=4, intermediate_size=24
    )
    model = built(lambda: transformers.BertForMaskedLM(config))
    with pytest.warns(
        SmallShare, match=r"most of it in bert.embeddings.position_embeddings.weight of Embedding \(8,192\), bert.emb"
    ):
        foreprune.prune(model, "erk", density=0.1)


def test_the_weight_normalization_of_wav2vec2() -> None:
    transformers = transformers_5()
    config = transformers.Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=24,
        conv_dim=(8, 8),
        conv_stride=(5, 2),
        conv_kernel=(10, 3),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    model = built(lambda: transformers.Wav2Vec2ForSequenceClassification(config))
    waves, labels = torch.randn(2, 400, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    name = "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original1"
    with pytest.warns(KeptForNorm, match=name):
        masks = foreprune.prune(model, "snip", density=0.1, data=(waves, labels))
    assert masks.kept == round(0.1 * masks.total)
    assert masks[name].any(1).any(0).all()  # a weight for each tap of the kernel
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    masks.attach(model, optimizer)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(waves).logits, labels).backward()
        optimizer.step()
    conv = model.get_submodule("wav2vec2.encoder.pos_conv_embed.conv")
    assert isinstance(conv.weight, Tensor)
    assert not conv.weight[~masks[name]].any()
    assert torch.isfinite(model(waves).logits).all()


def test_residual_branches_of_timm_begin_as_nothing() -> None:
    timm = needed("timm")
    model = built(lambda: timm.create_model("resnet10t", num_classes=4))
    with pytest.warns(TiedScores) as caught:
        masks = foreprune.prune(model, "snip", density=0.2, data=(IMAGES, CLASSES), gates="score")
    tied = next(str(warning.message) for warning in caught if warning.category is TiedScores)
    assert f"{int(masks.metadata['ties.drawn']):,} of {masks.kept:,} weights were drawn at random among" in tied
    assert "of score zero; gamma of layer1.0.bn2, layer2.0.bn2, layer3.0.bn2, layer4.0.bn2 is zero" in tied
    with pytest.warns(UnscoredBlocks, match=r"gamma of layer1.0.bn2, layer2.0.bn2, layer3.0.bn2, layer4.0.bn2 is zero"):
        masks = foreprune.prune(model, "snip", density=0.2, data=(IMAGES, CLASSES))
    assert "ties.drawn" not in masks.metadata


def test_the_head_of_a_vision_transformer_of_torchvision_begins_as_zero() -> None:
    torchvision = needed("torchvision")
    make = torchvision.models.VisionTransformer
    sizes = {"image_size": 32, "patch_size": 8, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    model = built(lambda: make(**sizes, num_classes=4))
    assert zero_heads(Net.of(model)) == ("heads.head.weight",)
    with pytest.raises(ValueError, match=r"the weights of the head heads.head.weight are all zero, so nothing passes"):
        foreprune.prune(model, "snip", density=0.1, data=(IMAGES, CLASSES))
    masks = foreprune.prune(model, "snip", density=0.1, data=(IMAGES, CLASSES), repair="head")
    assert masks.kept == round(0.1 * masks.total)
    assert masks["heads.head.weight"].any()
    assert masks["conv_proj.weight"].any()
    assert not model.get_parameter("heads.head.weight").any()
