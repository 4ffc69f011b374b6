"""Networks that nobody here wrote: followed by every reading, or refused in words. Small random configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from contract.extras import needed
from torch import Tensor, nn

import foreprune
from foreprune import PathError
from foreprune.analysis.effective import effective_masks
from foreprune.analysis.path_sums import path_count, path_kernel_trace

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(120)]
IDS = torch.arange(24).view(2, 12)
IMAGE, SOUND = torch.rand(2, 3, 16, 16), torch.rand(2, 400)
SMALL: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 32,
}  # fmt: skip
GROUPED: dict[str, Any] = {**SMALL, "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def relative(t: Any, kind: str) -> nn.Module:
    config = getattr(t, f"{kind}Config")(
        **SMALL, relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=4
    )
    found: nn.Module = getattr(t, f"{kind}ForSequenceClassification")(config)
    return found


def clip(t: Any) -> nn.Module:
    tower = {name: value for name, value in SMALL.items() if name not in ("vocab_size", "max_position_embeddings")}
    text = {**SMALL, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    vision = {**tower, "image_size": 16, "patch_size": 8}
    return t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))


def wav2vec2(t: Any) -> nn.Module:
    config = {name: value for name, value in SMALL.items() if name != "max_position_embeddings"}
    return t.Wav2Vec2ForCTC(
        t.Wav2Vec2Config(
            **config, conv_dim=(8, 8), conv_stride=(5, 2), conv_kernel=(10, 3), num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=2,
        )
    )  # fmt: skip


def t5(t: Any) -> nn.Module:
    return t.T5EncoderModel(t.T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2))


def xlnet(t: Any) -> nn.Module:
    return t.XLNetForSequenceClassification(t.XLNetConfig(vocab_size=60, d_model=16, n_layer=2, n_head=2, d_inner=32))


def swin(t: Any) -> nn.Module:
    return t.SwinForImageClassification(
        t.SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=4)
    )


FOLLOWED: dict[str, tuple[Callable[[Any], nn.Module], Any]] = {
    "llama": (lambda t: t.LlamaForCausalLM(t.LlamaConfig(**GROUPED)), IDS),
    "t5": (t5, IDS),
    "deberta": (lambda t: relative(t, "Deberta"), IDS),
    "deberta-v2": (lambda t: relative(t, "DebertaV2"), IDS),
    "xlnet": (xlnet, IDS),
    "clip": (clip, {"input_ids": IDS, "pixel_values": IMAGE}),
    "wav2vec2": (wav2vec2, SOUND),
    "swin": (swin, IMAGE),
}
REFUSED: dict[str, tuple[Callable[[Any], nn.Module], str]] = {
    "mixtral": (
        lambda t: t.MixtralForCausalLM(t.MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2)),
        r"topk in module 'model.layers.0.mlp.gate' \(\w+\) has no meaning for paths: it picks by value, as routers",
    ),
    "mamba": (
        lambda t: t.MambaForCausalLM(
            t.MambaConfig(vocab_size=60, hidden_size=16, num_hidden_layers=2, state_size=4, pad_token_id=0)
        ),
        r"in module 'backbone.layers.0.mixer\S*' \(\w+\) .*state-space scan",
    ),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_transformers_that_are_followed(name: str) -> None:
    make, inputs = FOLLOWED[name]
    torch.manual_seed(0)
    model = make(needed("transformers")).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for method in ("synflow", "synflow-l2", "phew"):
        masks = foreprune.prune(
            model, method, density=0.3, inputs=inputs, **({} if method == "phew" else {"rounds": 2})
        )
        assert masks.kept >= round(0.3 * masks.total)
    assert path_count(model, inputs=inputs).log10 > 0
    assert path_kernel_trace(model, inputs=inputs).log10 > -300
    assert effective_masks(model, inputs=inputs).kept > 0
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", REFUSED)
def test_transformers_that_have_no_paths(name: str) -> None:
    make, message = REFUSED[name]
    model = make(needed("transformers")).eval()
    for method in ("synflow", "phew"):
        with pytest.raises(PathError, match=message) as caught:
            foreprune.prune(model, method, density=0.3, inputs=IDS)
        assert "'snip'" in str(caught.value)


TIMM: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "resmlp_12_224": ({"img_size": 32}, (1, 3, 32, 32)),  # addcmul
    "convnextv2_atto": ({}, (1, 3, 32, 32)),  # addcmul
    "botnet26t_256": ({}, (1, 3, 256, 256)),  # relative positions
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_models_of_timm_that_are_followed(name: str) -> None:
    settings, shape = TIMM[name]
    torch.manual_seed(0)
    model: nn.Module = needed("timm").create_model(name, num_classes=4, **settings)
    nn.init.normal_(model.get_classifier().weight)  # zeros, in mixers
    x: Tensor = torch.zeros(shape)
    found = foreprune.prune(model, "synflow", density=0.5, inputs=x, rounds=2)
    assert found.kept == round(0.5 * found.total)
