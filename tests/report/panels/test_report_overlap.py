"""Overlap of masks: against sets of positions, against the library's own count, and with files that are damaged."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from report_records import full, write_masks
from torch import Tensor, nn

from foreprune.analysis.agreement import overlap
from foreprune.core.blocks import split
from foreprune.core.mask_files import PackedMasks, write_bits
from foreprune.core.masks import Masks
from foreprune.experiments.run import layers_of
from foreprune.records import LayerRecord, Record, make_folder, write_record
from foreprune.report.charts import Heatmap
from foreprune.report.panels.mask_overlap import agreement, mask_overlap, ones, read_masks
from foreprune.report.render import write_report
from foreprune.report.sections import Section, sections

SHAPES = {"first": (7, 5), "second": (3, 7)}


def run(method: str, kept: dict[str, list[int]], runs: Path, *, seed: int = 0, density: float = 0.5) -> Record:
    """A record whose masks keep these positions, written by the library itself."""
    tensors = {}
    for name, shape in SHAPES.items():
        tensors[name] = torch.zeros(shape, dtype=torch.bool)
        tensors[name].view(-1)[kept[name]] = True
    masks = Masks(tensors)
    found = full(method, density, seed, epochs=1)
    layers = tuple(
        LayerRecord(name=name, shape=shape, kept=masks.layer_counts()[name][0], total=torch.Size(shape).numel(),
              units=shape[0], units_alive=int(tensors[name].any(1).sum()))
        for name, shape in SHAPES.items()
    )  # fmt: skip
    found = found.model_copy(update={"layers": layers, "kept": masks.kept, "total": masks.total})
    (runs / found.id).mkdir(parents=True)
    masks.save(runs / found.id / "masks.safetensors", metadata={"experiment": found.id})
    return found


def only(records: list, runs: Path | None) -> Section:
    (section,) = sections(records, runs=runs)
    return section


def charts(records: list, runs: Path, *, view: int = 0) -> tuple[Heatmap, Heatmap]:
    found = mask_overlap(only(records, runs))
    assert found is not None
    measured, expected = found.views[view].charts
    assert isinstance(measured, Heatmap)
    assert isinstance(expected, Heatmap)
    return measured, expected


def test_by_hand(tmp_path: Path) -> None:
    one = run("snip", {"first": [0, 1, 2, 3, 4], "second": [0, 20]}, tmp_path)
    two = run("grasp", {"first": [3, 4, 5], "second": [20, 1, 2, 3]}, tmp_path)
    measured, expected = charts([one, two], tmp_path)
    assert measured.names == expected.names == ("snip", "grasp")
    # both keep 3, 4 and 20; either keeps 7 + 7 - 3
    assert measured.values == ((1.0, 3 / 11), (3 / 11, 1.0))
    chance = 5 * 3 / 35 + 2 * 4 / 21
    assert expected.values[0][1] == pytest.approx(chance / (14 - chance), rel=1e-12)
    alone = 5 * 5 / 35 + 2 * 2 / 21
    assert expected.values[0][0] == pytest.approx(alone / (14 - alone), rel=1e-12)
    assert measured.notes[0][1] == "snip and grasp, measured: 0.2727, n = 1"
    assert measured.limit == expected.limit == max(3 / 11, expected.values[0][1] or 0)
    assert measured.texts() == (("1.00", "0.27"), ("0.27", "1.00"))


def test_against_the_librarys_own_overlap(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for at in range(20):
        kept = [{name: sorted(draw.permutation(np.prod(shape))[: draw.integers(0, 12)].tolist()) for name, shape in
                 SHAPES.items()} for _ in range(2)]  # fmt: skip
        kept[0]["first"] = kept[0]["first"] or [1]
        one, two = (run(method, positions, tmp_path / str(at)) for method, positions in zip("ab", kept, strict=True))
        files = [tmp_path / str(at) / each.id / "masks.safetensors" for each in (one, two)]
        expected = overlap(*(Masks.load(file) for file in files)).total
        found = agreement((read_masks(files[0], one), one), (read_masks(files[1], two), two))
        assert found == (expected.jaccard, expected.expected_jaccard)


def fused(method: str, kept: Tensor, runs: Path) -> Record:
    """A record of one fused projection, whose masks are written by the library itself."""
    blocks = split("qkv.weight", (9, 5), 0, {label: ((3 * at, 3 * at + 3),) for at, label in enumerate("qkv")})
    masks = Masks({"qkv.weight": kept}, blocks=blocks)
    found = full(method, 0.5, 0, epochs=1)
    layers = layers_of(nn.ModuleDict({"qkv": nn.Linear(5, 9)}), masks)
    found = found.model_copy(update={"layers": layers, "kept": masks.kept, "total": masks.total})
    masks.save(make_folder(runs / found.id) / "masks.safetensors")
    return found


def test_layers_of_a_fused_tensor_are_expected_to_overlap_one_by_one(tmp_path: Path) -> None:
    one, two = torch.zeros(9, 5, dtype=torch.bool), torch.zeros(9, 5, dtype=torch.bool)
    one[0, :4] = two[0, 2:] = True  # queries: 4 and 3, both 2
    one[6:] = two[6:, :2] = True  # values: 15 and 6, both 6
    measured, expected = charts([fused("snip", one, tmp_path), fused("grasp", two, tmp_path)], tmp_path)
    assert measured.values[0][1] == 8 / (19 + 9 - 8)
    chance = 4 * 3 / 15 + 15 * 6 / 15
    assert expected.values[0][1] == pytest.approx(chance / (19 + 9 - chance), rel=1e-12)


def test_without_numpy_2_bits_are_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    bits = np.arange(256, dtype=np.uint8)
    assert ones(bits) == 1024
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert ones(bits) == 1024


def test_methods_without_a_common_seed_have_no_value(tmp_path: Path) -> None:
    same = {"first": [0, 1], "second": [0]}
    measured, _ = charts([run("snip", same, tmp_path, seed=0), run("grasp", same, tmp_path, seed=1)], tmp_path)
    assert measured.values == ((1.0, None), (None, 1.0))
    assert measured.notes[0][1] == "no masks of one seed"


def test_seeds_are_averaged_and_never_mixed(tmp_path: Path) -> None:
    same = {"first": [0, 1], "second": [0]}
    records = [
        run("snip", same, tmp_path, seed=0),
        run("grasp", same, tmp_path, seed=0),
        run("snip", {"first": [0, 1], "second": [0]}, tmp_path, seed=1),
        run("grasp", {"first": [2, 3], "second": [1]}, tmp_path, seed=1),
        run("grasp", same, tmp_path, seed=2),
    ]
    measured, _ = charts(records, tmp_path)
    assert measured.values[0][1] == pytest.approx(0.5)
    assert measured.notes[0][1] == "snip and grasp, measured: 0.5 ± 0.71, n = 2"
    assert measured.notes[1][1].endswith("n = 3")


def test_random_masks_overlap_as_expected(tmp_path: Path) -> None:
    records = [full(method, 0.2, seed, epochs=1) for method in ("random", "snip") for seed in range(3)]
    for each in records:
        write_masks(tmp_path, each)
    measured, expected = charts(records, tmp_path)
    assert measured.values[0][1] == pytest.approx(expected.values[0][1], rel=0.03)


def test_without_masks_there_is_no_panel(tmp_path: Path) -> None:
    records = [full(method, 0.2, 0, epochs=1) for method in ("random", "snip")]
    assert mask_overlap(only(records, None)) is None
    assert mask_overlap(only(records, tmp_path)) is None
    write_masks(tmp_path, records[0])
    assert mask_overlap(only(records, tmp_path)) is None


def packed(**shapes: tuple[int, ...]) -> bytes:
    """A sound file of masks that keep nothing."""
    bits = {name: np.packbits(np.zeros(shape, dtype=bool)) for name, shape in shapes.items()}
    with tempfile.TemporaryDirectory() as folder:
        return write_bits(Path(folder) / "m", PackedMasks(bits, shapes, {})).read_bytes()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda whole: whole[:40], "damaged or not a safetensors file"),
        (lambda whole: b"", "damaged or not a safetensors file"),
        (lambda whole: whole[:-1] + bytes([whole[-1] ^ 0b1000]), "damaged: its content does not fit its digest"),
        (lambda whole: whole.replace(b"foreprune-masks/1", b"foreprune-masks/9"), "not a mask file of format"),
        (lambda whole: packed(first=(7, 5), sekond=(3, 7)), "other layers than the record's: 'second'"),
        (lambda whole: packed(first=(5, 7), second=(3, 7)), "'first' has another shape"),
        (lambda whole: packed(first=(7, 5), second=(3, 7)), "'first' keeps 0 weights, 2 in the record"),
    ],
)
def test_damaged_masks_are_named_and_left_out(tmp_path: Path, spoil: object, reason: str) -> None:
    kept = {"first": [0, 1], "second": [0]}
    records = [run(method, kept, tmp_path) for method in ("snip", "grasp", "synflow")]
    path = tmp_path / records[1].id / "masks.safetensors"
    path.write_bytes(spoil(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(ValueError, match=reason):
        read_masks(path, records[1])
    found = mask_overlap(only(records, tmp_path))
    assert found is not None
    assert found.views[0].charts[0].names == ("snip", "synflow")  # type: ignore[union-attr]
    assert found.notes[0].startswith(f"Masks that could not be used: {records[1].id}/masks.safetensors: ")


def test_a_report_is_written_even_if_every_mask_is_damaged(tmp_path: Path) -> None:
    records = [full(method, 0.2, 0, epochs=1) for method in ("random", "snip")]
    for each in records:
        write_record(tmp_path, each)
        (tmp_path / "runs" / each.id / "masks.safetensors").write_bytes(b"<b>no</b>")
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert "Masks that could not be used" in html
    assert not list((tmp_path / "figures").glob("*overlap*"))


def test_the_time_is_bounded_and_the_page_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [full(method, 0.2, seed, epochs=1) for method in ("random", "snip") for seed in range(4)]
    for each in records:
        write_masks(tmp_path, each)
    total = records[0].total or 0
    monkeypatch.setattr(
        "foreprune.report.panels.mask_overlap.MOST_BYTES", 2 * 3 * total // 8 + 10
    )  # three pairs, two seeds
    measured, _ = charts(records, tmp_path)
    assert measured.notes[0][1].endswith("n = 2")
    found = mask_overlap(only(records, tmp_path))
    assert found is not None
    assert found.notes[0].startswith("The masks of 2 of 4 seeds were compared, to bound the time: at most ")
    monkeypatch.setattr("foreprune.report.panels.mask_overlap.MOST_BYTES", 10)
    found = mask_overlap(only(records, tmp_path))
    assert found is not None
    assert found.views == ()
    assert found.notes[0].startswith("The masks of 0 of 4 seeds")
    monkeypatch.setattr("foreprune.report.panels.mask_overlap.MOST_METHODS", 1)
    found = mask_overlap(only(records, tmp_path))
    assert found is not None
    assert found.notes[0] == "Only the first 1 of 2 methods are compared."


def test_a_heatmap_of_uneven_rows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"heatmap 'x': values must be 2 rows of 2, one for each name, not 1 of \[2\]"):
        Heatmap(title="x", names=("a", "b"), values=((1.0, 2.0),), notes=(("", ""), ("", "")), limit=1.0)
