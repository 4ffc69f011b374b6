"""Networks of transformers with random weights, from configurations of two layers and 32 units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from contract.extras import imported
from models.network import CLASSES, SAMPLES, Given, Rows, images, labels, token_loss, tokens
from torch import Tensor, nn
from torch.nn import functional as F

transformers: Any = imported("transformers")

HF = Rows("transformers")


def row(
    kind: str,
    architecture: str,
    inputs: Callable[[], dict[str, Tensor]],
    target: Callable[[], Tensor] = labels,
    loss: Callable[[Any, Tensor], Tensor] | None = None,
    *,
    form: str = "",
    changed: Callable[[nn.Module], object] = lambda model: None,
    **settings: Any,
) -> None:
    """A network: its class, a configuration of some kind, and what it is given. `form`: what tells it from another row
    of that class, as `changed` makes it."""

    def build() -> Given:
        model = getattr(transformers, architecture)(transformers.AutoConfig.for_model(kind, **settings))
        changed(model)
        return Given(model, inputs(), target(), loss)

    HF.add(f"{architecture}, {form}" if form else architecture, build)


def ids() -> dict[str, Tensor]:
    return {"input_ids": tokens()}


def words() -> dict[str, Tensor]:
    return {**ids(), "attention_mask": torch.ones(SAMPLES, 8, dtype=torch.long)}


def picture() -> dict[str, Tensor]:
    return {"pixel_values": images(32)}


def waves() -> dict[str, Tensor]:
    return {"input_values": torch.randn(SAMPLES, 200)}


def shorter() -> Tensor:
    return tokens(6)


TEXT: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ONE_LAYER_EACH = {
    **{f"{half}_layers": 1 for half in ("encoder", "decoder")},
    **{f"{half}_attention_heads": 2 for half in ("encoder", "decoder")},
    **{f"{half}_ffn_dim": 48 for half in ("encoder", "decoder")},
    "d_model": 32,
}
BLOCKS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
VIT = {**BLOCKS, "image_size": 32, "patch_size": 8}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32}
FOUR_STAGES: dict[str, Any] = {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1]}
TWO_STAGES: dict[str, Any] = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}


def text(kind: str, architecture: str, **settings: Any) -> None:
    """A classifier of token sequences."""
    row(kind, architecture, words, **{**TEXT, "num_labels": CLASSES, **settings})


def language(kind: str, architecture: str, **settings: Any) -> None:
    """A decoder that predicts tokens."""
    row(
        kind,
        architecture,
        ids,
        tokens,
        token_loss,
        **{**TEXT, "num_key_value_heads": 1, "use_cache": False, **settings},
    )


def translate(kind: str, architecture: str, **settings: Any) -> None:
    """An encoder and a decoder over token ids."""
    both = {**TEXT, "decoder_start_token_id": 0, "use_cache": False, "forced_eos_token_id": None, **settings}
    row(kind, architecture, lambda: {**ids(), "decoder_input_ids": tokens(6)}, shorter, token_loss, **both)


def image(kind: str, architecture: str, *, size: int = 32, **settings: Any) -> None:
    """A classifier of images, called as `model(pixel_values=x)`."""
    row(kind, architecture, lambda: {"pixel_values": images(size)}, num_labels=CLASSES, **settings)


text("bert", "BertForSequenceClassification")
text("distilbert", "DistilBertForSequenceClassification", dim=32, n_layers=2, n_heads=2, hidden_dim=48)
text("roberta", "RobertaForSequenceClassification")
text("albert", "AlbertForSequenceClassification", embedding_size=16)
text("electra", "ElectraForSequenceClassification", embedding_size=16)
text("mpnet", "MPNetForSequenceClassification")
text("deberta-v2", "DebertaV2ForSequenceClassification", relative_attention=True, pos_att_type=["c2p", "p2c"])
text(
    "squeezebert",
    "SqueezeBertForSequenceClassification",
    embedding_size=32,
    post_attention_groups=1,
    **{f"{part}_groups": 2 for part in ("q", "k", "v", "intermediate", "output")},
)
text("fnet", "FNetForSequenceClassification")
text("big_bird", "BigBirdForSequenceClassification", attention_type="original_full")
text("longformer", "LongformerForSequenceClassification", attention_window=4, max_position_embeddings=64)
text("convbert", "ConvBertForSequenceClassification", embedding_size=32)
text("modernbert", "ModernBertForSequenceClassification", cls_token_id=1, sep_token_id=2)

language("gpt2", "GPT2LMHeadModel", **GPT2)
language(
    "gpt_neo", "GPTNeoForCausalLM", num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]], window_size=4
)
language("gpt_neox", "GPTNeoXForCausalLM")
language("gptj", "GPTJForCausalLM", **GPT2, rotary_dim=4)
language("opt", "OPTForCausalLM", ffn_dim=48, word_embed_proj_dim=32)
language("bloom", "BloomForCausalLM", n_layer=2, n_head=2)
language("falcon", "FalconForCausalLM")
language("llama", "LlamaForCausalLM")
language("mistral", "MistralForCausalLM")
language("qwen2", "Qwen2ForCausalLM")
language("qwen3", "Qwen3ForCausalLM", head_dim=16)
language("gemma", "GemmaForCausalLM", head_dim=16)
language("gemma2", "Gemma2ForCausalLM", head_dim=16)
language("phi", "PhiForCausalLM", num_key_value_heads=2)
language("phi3", "Phi3ForCausalLM")
language("stablelm", "StableLmForCausalLM")
language("olmo2", "Olmo2ForCausalLM")
language("granite", "GraniteForCausalLM")
language("mixtral", "MixtralForCausalLM", num_local_experts=2, num_experts_per_tok=1)
SMALL_EXPERTS = {"num_experts_per_tok": 1, "moe_intermediate_size": 16}
language("qwen2_moe", "Qwen2MoeForCausalLM", num_experts=2, shared_expert_intermediate_size=16, **SMALL_EXPERTS)
language(
    "deepseek_v3",
    "DeepseekV3ForCausalLM",
    **SMALL_EXPERTS,
    n_routed_experts=2,
    n_shared_experts=1,
    n_group=1,
    topk_group=1,
    first_k_dense_replace=1,
    **{f"{part}_lora_rank": 8 for part in ("q", "kv")},
    qk_rope_head_dim=8,
    qk_nope_head_dim=8,
    v_head_dim=16,
    num_key_value_heads=2,
)
language("mamba", "MambaForCausalLM", state_size=4, expand=2)
language("mamba2", "Mamba2ForCausalLM", state_size=4, num_heads=4, head_dim=16, expand=2, n_groups=1, chunk_size=4)
language("rwkv", "RwkvForCausalLM", attention_hidden_size=32, context_length=32)

translate(
    "t5", "T5ForConditionalGeneration", d_model=32, d_kv=16, d_ff=48, num_layers=1, num_decoder_layers=1, num_heads=2
)
translate("bart", "BartForConditionalGeneration", **ONE_LAYER_EACH)
translate("marian", "MarianMTModel", **ONE_LAYER_EACH)
translate("pegasus", "PegasusForConditionalGeneration", **ONE_LAYER_EACH)
translate("m2m_100", "M2M100ForConditionalGeneration", **ONE_LAYER_EACH)

image("vit", "ViTForImageClassification", **VIT)
image("deit", "DeiTForImageClassification", **VIT)
image("beit", "BeitForImageClassification", **VIT)
image("dinov2", "Dinov2ForImageClassification", **VIT)
SWIN: dict[str, Any] = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
image("swin", "SwinForImageClassification", image_size=32, patch_size=4, **SWIN)
image("convnext", "ConvNextForImageClassification", **FOUR_STAGES)
image("resnet", "ResNetForImageClassification", **TWO_STAGES)
image("regnet", "RegNetForImageClassification", **TWO_STAGES, groups_width=8)
image("mobilenet_v2", "MobileNetV2ForImageClassification", depth_multiplier=0.25)
image(
    "mobilevit",
    "MobileViTForImageClassification",
    size=64,
    image_size=64,
    hidden_sizes=[16, 16, 32],
    neck_hidden_sizes=[8, 8, 16, 16, 16, 16, 32],
    num_attention_heads=2,
    last_hidden_size=32,
)
image("segformer", "SegformerForImageClassification", **FOUR_STAGES, decoder_hidden_size=32)
image("poolformer", "PoolFormerForImageClassification", **FOUR_STAGES)
image("pvt", "PvtForImageClassification", image_size=32, **FOUR_STAGES, num_attention_heads=[1, 1, 2, 2])

row(
    "llama",
    "LlamaForCausalLM",
    ids,
    tokens,
    token_loss,
    form="bfloat16",
    changed=lambda model: model.bfloat16(),
    **{**TEXT, "num_key_value_heads": 1, "use_cache": False},
)
row(
    "gpt2",
    "GPT2LMHeadModel",
    ids,
    tokens,
    token_loss,
    form="gradient checkpointing",
    changed=lambda model: model.gradient_checkpointing_enable(),
    **{**GPT2, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, "use_cache": False},
)
row(
    "bert",
    "BertForSequenceClassification",
    words,
    form="eager attention",
    **{**TEXT, "num_labels": CLASSES, "attn_implementation": "eager"},
)


def pairs(output: Any, target: Tensor) -> Tensor:
    """Each picture belongs to the text of the same number."""
    return F.cross_entropy(output.logits_per_image, target)


def texts_and_pictures() -> dict[str, Tensor]:
    return {**ids(), **picture()}


row(
    "clip",
    "CLIPModel",
    texts_and_pictures,
    lambda: torch.arange(SAMPLES),
    pairs,
    text_config={**TEXT, "projection_dim": 16},
    vision_config={**VIT, "projection_dim": 16},
    projection_dim=16,
)
row(
    "siglip",
    "SiglipModel",
    texts_and_pictures,
    lambda: torch.arange(SAMPLES),
    pairs,
    text_config={**TEXT, "projection_size": 32},
    vision_config=VIT,
)
XLNET = {"vocab_size": 50, "d_model": 32, "n_head": 2, "d_inner": 48, "num_labels": CLASSES}
row("xlnet", "XLNetForSequenceClassification", ids, **XLNET, n_layer=2)
row("funnel", "FunnelForSequenceClassification", ids, **XLNET, d_head=16, block_sizes=[1, 1])

SOUND: dict[str, Any] = {
    **BLOCKS,
    "conv_dim": (16, 16),
    "conv_kernel": (8, 4),
    "conv_stride": (4, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
    "num_labels": CLASSES,
}


def ctc(output: Any, target: Tensor) -> Tensor:
    scores = output.logits.log_softmax(-1).transpose(0, 1)
    lengths = torch.full((scores.shape[1],), scores.shape[0])
    return F.ctc_loss(scores, target, lengths, torch.full_like(lengths, target.shape[1]))


row("wav2vec2", "Wav2Vec2ForSequenceClassification", waves, **SOUND)
row("hubert", "HubertForSequenceClassification", waves, **SOUND)
row("wav2vec2", "Wav2Vec2ForCTC", waves, lambda: torch.randint(1, 12, (SAMPLES, 4)), ctc, **SOUND, vocab_size=12)
row(
    "whisper",
    "WhisperForConditionalGeneration",
    lambda: {"input_features": torch.randn(SAMPLES, 8, 32), "decoder_input_ids": tokens(6)},
    shorter,
    token_loss,
    **{**TEXT, **ONE_LAYER_EACH, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16},
    decoder_start_token_id=1,
    use_cache=False,
)
row(
    "audio-spectrogram-transformer",
    "ASTForAudioClassification",
    lambda: {"input_values": torch.randn(SAMPLES, 32, 16)},
    **VIT,
    num_mel_bins=16,
    max_length=32,
    num_labels=CLASSES,
)
row(
    "vilt",
    "ViltForQuestionAnswering",
    lambda: {**ids(), **picture(), "pixel_mask": torch.ones(SAMPLES, 32, 32, dtype=torch.long)},
    **{**TEXT, **VIT, "num_labels": CLASSES, "max_image_length": -1},
)
row(
    "patchtst",
    "PatchTSTForClassification",
    lambda: {"past_values": torch.randn(SAMPLES, 16, 2)},
    labels,
    lambda output, target: F.cross_entropy(output.prediction_logits, target),
    num_input_channels=2,
    context_length=16,
    patch_length=4,
    patch_stride=4,
    num_hidden_layers=2,
    d_model=16,
    num_attention_heads=2,
    ffn_dim=32,
    num_targets=CLASSES,
    use_cls_token=True,
)
row(
    "perceiver",
    "PerceiverForSequenceClassification",
    lambda: {"inputs": tokens()},
    num_latents=4,
    d_latents=32,
    d_model=32,
    num_blocks=1,
    num_self_attends_per_block=1,
    num_self_attention_heads=2,
    num_cross_attention_heads=2,
    vocab_size=50,
    max_position_embeddings=16,
    num_labels=CLASSES,
)
