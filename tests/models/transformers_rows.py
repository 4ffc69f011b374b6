"""Networks of transformers with random weights, from configurations of two layers and 32 units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from contract.extras import imported
from models.network import CLASSES, SAMPLES, Given, Rows, images, labels, token_loss, tokens
from torch import Tensor
from torch.nn import functional as F

transformers: Any = imported("transformers")

HF = Rows("transformers")

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


def config(kind: str, **settings: Any) -> Any:
    return transformers.AutoConfig.for_model(kind, **settings)


def text(kind: str, architecture: str, **settings: Any) -> None:
    """A classifier of token sequences."""

    def build() -> Given:
        made = config(kind, **{**TEXT, **settings}, num_labels=CLASSES)
        inputs = {"input_ids": tokens(), "attention_mask": torch.ones(SAMPLES, 8, dtype=torch.long)}
        return Given(getattr(transformers, architecture)(made), inputs, labels())

    HF.add(architecture, build)


def language(kind: str, architecture: str, **settings: Any) -> None:
    """A decoder that predicts tokens."""

    def build() -> Given:
        made = config(kind, **{**TEXT, "num_key_value_heads": 1, "use_cache": False, **settings})
        return Given(getattr(transformers, architecture)(made), {"input_ids": tokens()}, tokens(), token_loss)

    HF.add(architecture, build)


def translate(kind: str, architecture: str, **settings: Any) -> None:
    """An encoder and a decoder over token ids."""

    def build() -> Given:
        made = config(
            kind, **{**TEXT, "decoder_start_token_id": 0, "use_cache": False, "forced_eos_token_id": None, **settings}
        )
        inputs = {"input_ids": tokens(), "decoder_input_ids": tokens(6)}
        return Given(getattr(transformers, architecture)(made), inputs, tokens(6), token_loss)

    HF.add(architecture, build)


def image(kind: str, architecture: str, *, size: int = 32, **settings: Any) -> None:
    """A classifier of images, called as `model(pixel_values=x)`."""

    def build() -> Given:
        made = config(kind, num_labels=CLASSES, **settings)
        return Given(getattr(transformers, architecture)(made), {"pixel_values": images(size)}, labels())

    HF.add(architecture, build)


def other(name: str) -> Callable[[Callable[[], Given]], Callable[[], Given]]:
    return HF.row(name)


ENCODER = {
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "d_model": 32,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}
VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}

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
    q_groups=2,
    k_groups=2,
    v_groups=2,
    intermediate_groups=2,
    output_groups=2,
    post_attention_groups=1,
)
text("fnet", "FNetForSequenceClassification")
text("big_bird", "BigBirdForSequenceClassification", attention_type="original_full")
text("longformer", "LongformerForSequenceClassification", attention_window=4, max_position_embeddings=64)
text("convbert", "ConvBertForSequenceClassification", embedding_size=32)
text("modernbert", "ModernBertForSequenceClassification", cls_token_id=1, sep_token_id=2)

language("gpt2", "GPT2LMHeadModel", n_embd=32, n_layer=2, n_head=2, n_positions=32)
language(
    "gpt_neo", "GPTNeoForCausalLM", num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]], window_size=4
)
language("gpt_neox", "GPTNeoXForCausalLM")
language("gptj", "GPTJForCausalLM", n_embd=32, n_layer=2, n_head=2, n_positions=32, rotary_dim=4)
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
language(
    "qwen2_moe",
    "Qwen2MoeForCausalLM",
    num_experts=2,
    num_experts_per_tok=1,
    moe_intermediate_size=16,
    shared_expert_intermediate_size=16,
)
language(
    "deepseek_v3",
    "DeepseekV3ForCausalLM",
    n_routed_experts=2,
    num_experts_per_tok=1,
    moe_intermediate_size=16,
    n_shared_experts=1,
    n_group=1,
    topk_group=1,
    q_lora_rank=8,
    kv_lora_rank=8,
    qk_rope_head_dim=8,
    qk_nope_head_dim=8,
    v_head_dim=16,
    first_k_dense_replace=1,
    num_key_value_heads=2,
)
language("mamba", "MambaForCausalLM", state_size=4, expand=2)
language("mamba2", "Mamba2ForCausalLM", state_size=4, num_heads=4, head_dim=16, expand=2, n_groups=1, chunk_size=4)
language("rwkv", "RwkvForCausalLM", attention_hidden_size=32, context_length=32)

translate(
    "t5", "T5ForConditionalGeneration", d_model=32, d_kv=16, d_ff=48, num_layers=1, num_decoder_layers=1, num_heads=2
)
translate("bart", "BartForConditionalGeneration", **ENCODER)
translate("marian", "MarianMTModel", **ENCODER)
translate("pegasus", "PegasusForConditionalGeneration", **ENCODER)
translate("m2m_100", "M2M100ForConditionalGeneration", **ENCODER)

image("vit", "ViTForImageClassification", **VIT)
image("deit", "DeiTForImageClassification", **VIT)
image("beit", "BeitForImageClassification", **VIT)
image("dinov2", "Dinov2ForImageClassification", **VIT)
image(
    "swin",
    "SwinForImageClassification",
    image_size=32,
    patch_size=4,
    embed_dim=16,
    depths=[1, 1],
    num_heads=[2, 2],
    window_size=4,
)
image("convnext", "ConvNextForImageClassification", hidden_sizes=[16, 16, 32, 32], depths=[1, 1, 1, 1])
image("resnet", "ResNetForImageClassification", embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1])
image("regnet", "RegNetForImageClassification", embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], groups_width=8)
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
image(
    "segformer",
    "SegformerForImageClassification",
    hidden_sizes=[16, 16, 32, 32],
    depths=[1, 1, 1, 1],
    decoder_hidden_size=32,
)
image("poolformer", "PoolFormerForImageClassification", hidden_sizes=[16, 16, 32, 32], depths=[1, 1, 1, 1])
image(
    "pvt",
    "PvtForImageClassification",
    image_size=32,
    hidden_sizes=[16, 16, 32, 32],
    depths=[1, 1, 1, 1],
    num_attention_heads=[1, 1, 2, 2],
)


@other("LlamaForCausalLM, bfloat16")
def _half() -> Given:
    made = config("llama", **TEXT, num_key_value_heads=1, use_cache=False)
    model = transformers.LlamaForCausalLM(made).bfloat16()
    return Given(model, {"input_ids": tokens()}, tokens(), token_loss)


@other("GPT2LMHeadModel, gradient checkpointing")
def _checkpointed() -> Given:
    made = config(
        "gpt2",
        vocab_size=50,
        bos_token_id=1,
        eos_token_id=2,
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=32,
        use_cache=False,
    )
    model = transformers.GPT2LMHeadModel(made)
    model.gradient_checkpointing_enable()
    return Given(model, {"input_ids": tokens()}, tokens(), token_loss)


@other("BertForSequenceClassification, eager attention")
def _eager() -> Given:
    made = config("bert", **TEXT, num_labels=CLASSES)
    made._attn_implementation = "eager"
    inputs = {"input_ids": tokens(), "attention_mask": torch.ones(SAMPLES, 8, dtype=torch.long)}
    return Given(transformers.BertForSequenceClassification(made), inputs, labels())


@other("CLIPModel")
def _clip() -> Given:
    words = {**TEXT, "projection_dim": 16}
    made = config("clip", text_config=words, vision_config={**VIT, "projection_dim": 16}, projection_dim=16)
    inputs = {"input_ids": tokens(), "pixel_values": images(32)}
    return Given(
        transformers.CLIPModel(made),
        inputs,
        torch.arange(SAMPLES),
        lambda output, target: F.cross_entropy(output.logits_per_image, target),
    )


@other("SiglipModel")
def _siglip() -> Given:
    made = config("siglip", text_config={**TEXT, "projection_size": 32}, vision_config=VIT)
    inputs = {"input_ids": tokens(), "pixel_values": images(32)}
    return Given(
        transformers.SiglipModel(made),
        inputs,
        torch.arange(SAMPLES),
        lambda output, target: F.cross_entropy(output.logits_per_image, target),
    )


@other("XLNetForSequenceClassification")
def _xlnet() -> Given:
    made = config("xlnet", vocab_size=50, d_model=32, n_layer=2, n_head=2, d_inner=48, num_labels=CLASSES)
    return Given(transformers.XLNetForSequenceClassification(made), {"input_ids": tokens()}, labels())


@other("FunnelForSequenceClassification")
def _funnel() -> Given:
    made = config("funnel", vocab_size=50, d_model=32, n_head=2, d_head=16, d_inner=48, block_sizes=[1, 1])
    made.num_labels = CLASSES
    return Given(transformers.FunnelForSequenceClassification(made), {"input_ids": tokens()}, labels())


SOUND: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": (16, 16),
    "conv_kernel": (8, 4),
    "conv_stride": (4, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
    "num_labels": CLASSES,
}


def sound(kind: str, architecture: str, **settings: Any) -> None:
    def build() -> Given:
        made = config(kind, **SOUND, **settings)
        return Given(getattr(transformers, architecture)(made), {"input_values": torch.randn(SAMPLES, 200)}, labels())

    HF.add(architecture, build)


sound("wav2vec2", "Wav2Vec2ForSequenceClassification")
sound("hubert", "HubertForSequenceClassification")


@other("Wav2Vec2ForCTC")
def _ctc() -> Given:
    made = config("wav2vec2", **SOUND, vocab_size=12)

    def loss(output: Any, target: Tensor) -> Tensor:
        scores = output.logits.log_softmax(-1).transpose(0, 1)
        lengths = torch.full((scores.shape[1],), scores.shape[0])
        return F.ctc_loss(scores, target, lengths, torch.full_like(lengths, target.shape[1]))

    return Given(
        transformers.Wav2Vec2ForCTC(made),
        {"input_values": torch.randn(SAMPLES, 200)},
        torch.randint(1, 12, (SAMPLES, 4)),
        loss,
    )


@other("WhisperForConditionalGeneration")
def _whisper() -> Given:
    made = config(
        "whisper",
        **{**TEXT, **ENCODER},
        num_mel_bins=8,
        max_source_positions=16,
        max_target_positions=16,
        decoder_start_token_id=1,
        use_cache=False,
    )
    inputs = {"input_features": torch.randn(SAMPLES, 8, 32), "decoder_input_ids": tokens(6)}
    return Given(transformers.WhisperForConditionalGeneration(made), inputs, tokens(6), token_loss)


@other("ASTForAudioClassification")
def _ast() -> Given:
    made = config(
        "audio-spectrogram-transformer", **{**VIT, "image_size": 32}, num_mel_bins=16, max_length=32, num_labels=CLASSES
    )
    return Given(transformers.ASTForAudioClassification(made), {"input_values": torch.randn(SAMPLES, 32, 16)}, labels())


@other("ViltForQuestionAnswering")
def _vilt() -> Given:
    made = config("vilt", **{**TEXT, **VIT}, num_labels=CLASSES, max_image_length=-1)
    inputs = {
        "input_ids": tokens(),
        "pixel_values": images(32),
        "pixel_mask": torch.ones(SAMPLES, 32, 32, dtype=torch.long),
    }
    return Given(transformers.ViltForQuestionAnswering(made), inputs, labels())


@other("PatchTSTForClassification")
def _series() -> Given:
    made = config(
        "patchtst",
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
    return Given(
        transformers.PatchTSTForClassification(made),
        {"past_values": torch.randn(SAMPLES, 16, 2)},
        labels(),
        lambda output, target: F.cross_entropy(output.prediction_logits, target),
    )


@other("PerceiverForSequenceClassification")
def _perceiver() -> Given:
    made = config(
        "perceiver",
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
    return Given(transformers.PerceiverForSequenceClassification(made), {"inputs": tokens()}, labels())
