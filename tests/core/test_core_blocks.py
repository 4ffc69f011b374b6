"""Blocks: which tensors hold several layers, where, and what masks and their files make of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foreprune
from foreprune.core.blocks import Block, split, whole
from foreprune.core.masks import Masks
from foreprune.core.net import Net


class Conv1D(nn.Module):
    """As transformers' of GPT-2: weights are (in, out)."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.nf = outputs
        self.weight = nn.Parameter(torch.ones(inputs, outputs))


def part(kind: str = "Attention", **children: Any) -> nn.Module:
    """A module of a class called `kind`, with these children and attributes."""
    module: nn.Module = type(kind, (nn.Module,), {})()
    for name, value in children.items():
        setattr(module, name, value)
    return module


def spans(module: nn.Module) -> dict[str, tuple[int, Any]]:
    """Name of every block -> its axis and rows, none for whole tensors."""
    return {block.name: (block.axis, block.spans) for block in Net.of(module).blocks}


def test_multi_head_attention_holds_queries_keys_and_values() -> None:
    found = spans(nn.MultiheadAttention(4, 2))
    assert found == {
        "in_proj_weight[q]": (0, ((0, 4),)),
        "in_proj_weight[k]": (0, ((4, 8),)),
        "in_proj_weight[v]": (0, ((8, 12),)),
        "out_proj.weight": (0, ()),
    }
    separate = spans(nn.MultiheadAttention(4, 2, kdim=3, vdim=5))
    assert list(separate) == ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"]


def test_columns_of_gpt2s_projection() -> None:
    found = spans(part(c_attn=Conv1D(12, 4), c_proj=Conv1D(4, 4)))
    assert found["c_attn.weight[k]"] == (1, ((4, 8),))
    assert found["c_proj.weight"] == (0, ())
    crossed = spans(part(c_attn=Conv1D(8, 4)))
    assert crossed == {"c_attn.weight[k]": (1, ((0, 4),)), "c_attn.weight[v]": (1, ((4, 8),))}


@pytest.mark.parametrize(
    "name", ["qkv", "to_qkv", "Wqkv", "c_attn", "qkv_proj", "W_qkv", "wqkv", "toQKV", "qkv_net", "attn_qkv", "proj_qkv"]
)
def test_fused_projections_by_name(name: str) -> None:
    assert list(spans(part(**{name: nn.Linear(4, 12)}))) == [f"{name}.weight[{label}]" for label in "qkv"]
    assert list(spans(part(**{name: nn.Conv2d(4, 12, 1)}))) == [f"{name}.weight[{label}]" for label in "qkv"]
    assert list(spans(part(**{name: nn.Linear(4, 8)}))) == [f"{name}.weight"]
    for other in ({"head_first": True}, {"key_dim": 2}):  # laid out head by head
        assert list(spans(part(**{name: nn.Linear(4, 12)}, **other))) == [f"{name}.weight"]
    assert list(spans(part("MiniMaxLightningAttention", **{name: nn.Linear(4, 12)}))) == [f"{name}.weight"]


def test_heads_that_are_wider_than_the_input_are_known_by_the_layer_behind_them() -> None:
    """`dim_head * heads` need not be the width of the network."""
    found = spans(part(to_qkv=nn.Linear(4, 18), to_out=nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.0))))
    assert [found[f"to_qkv.weight[{label}]"] for label in "qkv"] == [(0, ((0, 6),)), (0, ((6, 12),)), (0, ((12, 18),))]
    found = spans(part(to_qkv=nn.Linear(4, 18), to_out=nn.Linear(5, 4)))
    assert list(found) == ["to_qkv.weight", "to_out.weight"]


def test_keys_and_values_of_fewer_heads_beside_their_queries() -> None:
    found = spans(part(to_q=nn.Linear(4, 6), to_kv=nn.Linear(4, 4), to_out=nn.Linear(6, 4)))
    assert list(found) == ["to_q.weight", "to_kv.weight[k]", "to_kv.weight[v]", "to_out.weight"]
    found = spans(part(to_q=nn.Linear(4, 6), to_kv=nn.Linear(4, 10), to_out=nn.Linear(6, 4)))  # 5 does not divide 6
    assert list(found) == ["to_q.weight", "to_kv.weight", "to_out.weight"]


def test_names_whose_layout_is_not_certain_are_not_split() -> None:
    for name in ("query_key_value", "in_proj"):
        assert list(spans(part(**{name: nn.Linear(4, 12)}))) == [f"{name}.weight"]
    assert list(spans(nn.Sequential(nn.Linear(4, 12)))) == ["0.weight"]


def test_rows_laid_out_head_by_head() -> None:
    found = spans(part("BloomAttention", query_key_value=nn.Linear(4, 12), num_heads=2))
    assert found["query_key_value.weight[q]"] == (0, ((0, 2), (6, 8)))
    assert found["query_key_value.weight[v]"] == (0, ((4, 6), (10, 12)))


def test_rows_of_deberta_and_codegen() -> None:
    found = spans(part("DisentangledSelfAttention", in_proj=nn.Linear(4, 12), num_attention_heads=2))
    assert found["in_proj.weight[k]"] == (0, ((2, 4), (8, 10)))
    found = spans(part("CodeGenAttention", qkv_proj=nn.Linear(4, 12)))  # q, v, k for each of four cores
    assert found["qkv_proj.weight[q]"] == (0, ((0, 1), (3, 4), (6, 7), (9, 10)))
    assert found["qkv_proj.weight[k]"] == (0, ((2, 3), (5, 6), (8, 9), (11, 12)))


@pytest.mark.parametrize(
    ("settings", "rows", "keys"),
    [
        ({"multi_query": True}, 6, ((4, 5),)),  # four queries, one key, one value
        ({"multi_query": False}, 12, ((1, 2), (4, 5), (7, 8), (10, 11))),
        ({"multi_query": True, "new_decoder_architecture": True, "num_kv_heads": 2}, 8, ((2, 3), (6, 7))),
    ],
)
def test_rows_of_falcon(settings: dict[str, Any], rows: int, keys: Any) -> None:
    found = spans(part("FalconAttention", query_key_value=nn.Linear(4, rows), num_heads=4, **settings))
    assert found["query_key_value.weight[k]"] == (0, keys)


@pytest.mark.parametrize(
    ("one", "rows", "keys"), [(True, 6, ((4, 5),)), (False, 12, ((1, 2), (4, 5), (7, 8), (10, 11)))]
)
def test_rows_of_gpt_bigcode(one: bool, rows: int, keys: Any) -> None:
    found = spans(part("GPTBigCodeAttention", c_attn=nn.Linear(4, rows), num_heads=4, multi_query=one))
    assert found["c_attn.weight[k]"] == (0, keys)


def test_grouped_queries() -> None:
    config = SimpleNamespace(num_attention_heads=4, num_key_value_heads=1)
    found = spans(part("Phi3Attention", qkv_proj=nn.Linear(4, 12), config=config))
    assert [rows for _, rows in found.values()] == [((0, 8),), ((8, 10),), ((10, 12),)]


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, "ifgo"), (nn.GRU, "rzn")])
def test_gates_of_recurrent_layers(kind: Any, gates: str) -> None:
    model = kind(3, 5)
    net = Net.of(model, prunable=["weight_ih_l0", "weight_hh_l0"])
    assert [block.label for block in net.blocks] == [*gates, *gates]
    assert [block.shape for block in net.blocks] == [(5, 3)] * len(gates) + [(5, 5)] * len(gates)
    assert net.blocks[1].spans == ((5, 10),)


def test_experts_of_a_stack() -> None:
    experts = part(num_experts=3, up=nn.Parameter(torch.ones(3, 4, 5)), free=nn.Parameter(torch.ones(2, 4, 5)))
    net = Net.of(experts, prunable=["up", "free"])
    assert [block.name for block in net.blocks] == ["up[0]", "up[1]", "up[2]", "free"]
    assert [block.shape for block in net.blocks] == [(4, 5), (4, 5), (4, 5), (2, 4, 5)]  # an expert is a matrix


@pytest.mark.parametrize("block", [Net.of(nn.MultiheadAttention(4, 2)).blocks[1], whole("a", (12, 4))])
def test_a_block_picks_its_rows(block: Block) -> None:
    tensor = torch.arange(48).view(12, 4)
    wanted = tensor[4:8] if block.spans else tensor
    assert torch.equal(tensor[block.index], wanted)
    assert tensor[block.index].data_ptr() == wanted.data_ptr()
    assert (block.shape, block.size) == (tuple(wanted.shape), wanted.numel())


def fused() -> nn.Module:
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(4, 2, 6)


def first(names: tuple[Block, ...]) -> list[str]:
    return [block.name.removeprefix("self_attn.") for block in names]


@pytest.mark.parametrize(
    ("prunable", "left"),
    [
        ("*.in_proj_weight[q,k]", ["in_proj_weight[v]", "out_proj.weight", "linear1.weight", "linear2.weight"]),
        ("self_attn[q, k]", ["in_proj_weight[v]", "out_proj.weight", "linear1.weight", "linear2.weight"]),
        (["*[q,k,v]", "linear1"], ["out_proj.weight", "linear2.weight"]),
        (r"re:.*\[[qk]\]", ["in_proj_weight[v]", "out_proj.weight", "linear1.weight", "linear2.weight"]),
        ("*_attn", ["linear1.weight", "linear2.weight"]),  # a glob of a module's name
        ("linear[12]", ["in_proj_weight[q]", "in_proj_weight[k]", "in_proj_weight[v]", "out_proj.weight"]),
        ("self_attn.in_proj_weight[v]", ["in_proj_weight[v]"]),  # a name: exactly this one
        (
            ["linear1.weight", "self_attn.in_proj_weight[q,v]"],
            ["in_proj_weight[q]", "in_proj_weight[v]", "linear1.weight"],
        ),
    ],
)
def test_prunable_names_and_excludes_blocks(prunable: Any, left: list[str]) -> None:
    net = Net.of(fused(), prunable=prunable)
    assert first(net.blocks) == left
    assert net.total == sum(block.size for block in net.blocks) == net.dense().total


def test_patterns_of_blocks_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match=r"'\*.in_proj_weight\[x\]' fits no parameter; it has the blocks q, k, v"):
        Net.of(fused(), prunable="*.in_proj_weight[x]")
    with pytest.raises(ValueError, match=r"fits no parameter; 'linear1.weight' is not split into blocks"):
        Net.of(fused(), prunable="linear1[q]")


@pytest.mark.parametrize("method", ["random", "erk", "uniform", "magnitude", "snip", "force"])
@pytest.mark.parametrize("scope", ["global", "local"])
def test_weights_that_are_not_prunable_are_kept_and_not_counted(method: str, scope: Any) -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = fused(), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.head(self.layer(x).mean(1))
            return output

    if scope == "local" and method in ("erk", "uniform"):
        pytest.skip("they set the densities themselves")
    given: dict[str, Any] = {"data": (torch.randn(6, 5, 4), torch.arange(6) % 3)} if method in ("snip", "force") else {}
    masks = foreprune.prune(Head(), method, density=0.25, prunable="*[q,k]", scope=scope, **given)
    assert masks.total == 16 + 16 + 24 + 24 + 12
    assert masks.kept == round(0.25 * masks.total)
    projection = masks["layer.self_attn.in_proj_weight"]
    assert projection[:8].all()
    assert not projection[8:].all()
    assert masks.layer_counts()["layer.self_attn.in_proj_weight"][1] == 16
    assert "layer.self_attn.in_proj_weight[q]" not in masks.block_counts()
    assert sum(kept for kept, _ in masks.block_counts().values()) == masks.kept


def table(*labels: str) -> tuple[Block, ...]:
    blocks = split("a", (6, 2), 0, {"q": ((0, 2),), "k": ((2, 4),), "v": ((4, 6),)})
    return tuple(block for block in blocks if block.label in labels)


def test_masks_count_blocks() -> None:
    kept = torch.tensor([[1, 1], [0, 0], [0, 0], [0, 0], [1, 0], [0, 0]], dtype=torch.bool)
    masks = Masks({"a": kept, "b": torch.ones(2, dtype=torch.bool)}, blocks=table("q", "k", "v"))
    assert masks.block_counts() == {"a[q]": (2, 4), "a[k]": (0, 4), "a[v]": (1, 4), "b": (2, 2)}
    assert masks.block_densities() == {"a[q]": 0.5, "a[k]": 0.0, "a[v]": 0.25, "b": 1.0}
    assert masks.collapsed_blocks() == ("a[k]",)
    assert masks.collapsed() == ()
    assert masks.layer_counts() == {"a": (3, 12), "b": (2, 2)}
    assert masks == Masks({"a": kept, "b": torch.ones(2, dtype=torch.bool)})  # compared by content


def test_weights_outside_of_the_blocks_stay() -> None:
    nothing = {"a": torch.zeros(6, 2, dtype=torch.bool)}
    masks = Masks(nothing, blocks=table("v"))
    assert (masks.kept, masks.total) == (0, 4)
    assert masks["a"].tolist() == [[True, True]] * 4 + [[False, False]] * 2
    both = masks | Masks(masks, blocks=table("v"))
    assert (both.kept, both.total, both.blocks) == (0, 4, table("v"))
    assert (masks & Masks(nothing)).total == 12  # of different blocks: whole tensors


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (split("b", (6, 2), 0, {"q": ((0, 2),)}), "there are blocks of 'b', which has no mask"),
        (
            split("a", (6, 2), 0, {"q": ((0, 3),), "k": ((2, 4),)}),
            "the blocks of 'a' overlap, or do not lie in its shape",
        ),
        (split("a", (6, 2), 0, {"q": ((0, 7),)}), "the blocks of 'a' overlap, or do not lie in its shape"),
        (split("a", (9, 2), 0, {"q": ((0, 2),)}), "the blocks of 'a' overlap, or do not lie in its shape"),
        (split("a", (6, 2), 2, {"q": ((0, 2),)}), "the blocks of 'a' are not split along one of its 2 axes"),
        (2 * table("q"), "two blocks of 'a' have one name"),
    ],
)
def test_blocks_that_cannot_be(blocks: tuple[Block, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Masks({"a": torch.ones(6, 2, dtype=torch.bool)}, blocks=blocks)


def test_a_file_has_the_blocks(tmp_path: Path) -> None:
    heads = split("h", (4, 3), 0, {"q": ((0, 1), (2, 3)), "v": ((1, 2), (3, 4))})
    tensors = {"h": torch.rand(4, 3) < 0.5, "a": torch.rand(6, 2) < 0.5}
    masks = Masks(tensors, metadata={"method": "snip"}, blocks=(*heads, *table("v")))
    loaded = Masks.load(masks.save(tmp_path / "m"))
    assert loaded == masks
    assert loaded.blocks == masks.blocks
    assert loaded.metadata == {"method": "snip"}
    assert (loaded.kept, loaded.total) == (masks.kept, masks.total)


def test_a_file_without_split_tensors_is_that_of_earlier_versions(tmp_path: Path) -> None:
    from safetensors import safe_open

    masks = Masks({"a": torch.rand(6, 2) < 0.5}, metadata={"method": "snip"})
    with safe_open(masks.save(tmp_path / "m"), framework="numpy") as file:
        assert file.metadata().keys() == {"method", "format", "shapes", "digest"}
    assert Masks.load(tmp_path / "m").blocks == (whole("a", (6, 2)),)


@pytest.mark.parametrize(
    "plain", ["[]", "{", '{"a": 3}', '{"a": [["q", 0, [[0, 99]]]]}', '{"a": [["q", -1, [[0, 2]]]]}', '{"b": []}',
              '{"a": [["q", 0, [[0, true]]]]}', '{"a": [[3, 0, [[0, 2]]]]}', '{"a": [["q", 0, []]]}', '{"a": []}'],
)  # fmt: skip
def test_damaged_tables_are_refused(plain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = Masks({"a": torch.rand(6, 2) < 0.5}, blocks=table("q", "v"))
    real = json.dumps
    monkeypatch.setattr(
        "foreprune.core.mask_files.json.dumps",
        lambda value, **kwargs: (
            plain if isinstance(value, dict) and "a" in value and value["a"] != (6, 2) else real(value, **kwargs)
        ),
    )
    path = masks.save(tmp_path / "m")
    with pytest.raises(ValueError, match="is damaged: its table of blocks is unreadable"):
        Masks.load(path)


class HeadFirst(nn.Module):
    """Rows that lie head by head, as in timm's MaxViT (equal shares) and TinyViT (keys narrower than values)."""

    def __init__(self, heads: int, key: int, value: int, *, equal: bool) -> None:
        super().__init__()
        self.num_heads = heads
        if equal:
            self.head_first = True
        else:
            self.key_dim, self.val_dim = key, value
        self.qkv = nn.Linear(6, heads * (2 * key + value), bias=False)


@pytest.mark.parametrize(("key", "value", "equal"), [(2, 2, True), (1, 3, False)])
def test_rows_of_known_shares_are_split_head_by_head(key: int, value: int, equal: bool) -> None:
    module = HeadFirst(3, key, value, equal=equal)
    masks = foreprune.prune(module, "random", density=1)
    rows = torch.arange(module.qkv.out_features).view(3, -1).split([key, key, value], dim=1)
    found = {block.label: torch.arange(len(module.qkv.weight))[block.index[0]].tolist() for block in masks.blocks}
    assert found == {label: part.flatten().tolist() for label, part in zip("qkv", rows, strict=True)}


def test_a_projection_to_another_width_is_split_where_the_width_is_known() -> None:
    module = nn.Module()
    module.qkv, module.dim_out = nn.Linear(4, 24), 8
    assert [block.size for block in foreprune.prune(module, "random", density=1).blocks] == [32, 32, 32]
    module.dim_out = 9
    assert len(foreprune.prune(module, "random", density=1).blocks) == 1
