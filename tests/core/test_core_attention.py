"""Which blocks are queries and keys, by their names."""

from __future__ import annotations

import pytest

from foreprune.core.attention import score_blocks
from foreprune.core.blocks import Block, split


def whole(*names: str) -> list[Block]:
    return [Block(name, name, (4, 4)) for name in names]


@pytest.mark.parametrize(
    ("query", "key"),
    [
        ("query", "key"),  # BERT, ViT
        ("q_proj", "k_proj"),  # Llama, CLIP
        ("q_lin", "k_lin"),  # DistilBERT
        ("to_q", "to_k"),  # diffusers
        ("q", "k"),  # T5
        ("query_proj", "key_proj"),  # DeBERTa
        ("wq", "wk"),
        ("linear_q", "linear_k"),
        ("W_q", "W_k"),
        ("Wq", "Wk"),
        ("w_qs", "w_ks"),
        ("Q", "K"),
        ("proj_q", "proj_k"),
        ("fc_q", "fc_k"),
        ("toqueries", "tokeys"),
        ("query_layer", "key_layer"),
        ("query_projection", "key_projection"),
        ("query_conv", "key_conv"),
        ("project_q", "project_k"),
        ("q_content_proj", "k_content_proj"),  # Conditional DETR
    ],
)
def test_separate_layers_by_the_names_in_use(query: str, key: str) -> None:
    names = [f"layers.0.attention.{part}.weight" for part in (query, key, "value", "out_proj")]
    assert score_blocks(whole(*names)) == set(names[:2])


def test_projections_of_multi_head_attention_with_dimensions_of_their_own() -> None:
    names = [f"attention.{part}_proj_weight" for part in "qkv"]
    assert score_blocks(whole(*names)) == set(names[:2])


def test_parts_of_a_fused_projection_and_a_query_layer_beside_fused_keys_and_values() -> None:
    qkv = split("attn.qkv.weight", (12, 4), 0, {"q": ((0, 4),), "k": ((4, 8),), "v": ((8, 12),)})
    kv = split("cross.kv.weight", (8, 4), 0, {"k": ((0, 4),), "v": ((4, 8),)})
    found = score_blocks([*qkv, *kv, *whole("cross.q.weight", "cross.proj.weight")])
    assert found == {"attn.qkv.weight[q]", "attn.qkv.weight[k]", "cross.kv.weight[k]", "cross.q.weight"}


def test_a_name_alone_or_in_another_module_is_no_attention() -> None:
    assert score_blocks(whole("memory.key.weight", "memory.value.weight", "other.query.weight")) == frozenset()
    assert score_blocks(whole("keyboard.weight", "quantity.weight")) == frozenset()
    assert score_blocks(whole("kernel.weight", "quant.weight", "kv_proj.weight", "qkv.weight")) == frozenset()


def test_gates_of_recurrent_layers_are_none() -> None:
    gates = split("rnn.weight_ih_l0", (16, 4), 0, {label: ((4 * at, 4 * at + 4),) for at, label in enumerate("ifgo")})
    assert score_blocks(gates) == frozenset()
