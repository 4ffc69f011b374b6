"""Mask files: small, whole or absent, and refused when damaged or hostile. Nothing in them is executed."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save as save_numpy
from safetensors.torch import save_file as save_torch

from foreprune.core.mask_files import FORMAT, digest_of
from foreprune.core.masks import Masks


def some(*shapes: tuple[int, ...]) -> Masks:
    generator = torch.Generator().manual_seed(0)
    return Masks({f"layer{k}.weight": torch.rand(shape, generator=generator) < 0.4 for k, shape in enumerate(shapes)})


def test_round_trip_with_metadata(tmp_path: Path) -> None:
    original = Masks(some((3, 5), (7,), (2, 3, 1, 1))._tensors, metadata={"method": "snip", "seed": "3"})
    path = original.save(tmp_path / "masks.safetensors", metadata={"note": "déjà vu <b>", "epoch": 4})  # type: ignore[dict-item]
    assert path == tmp_path / "masks.safetensors"
    loaded = Masks.load(str(path))
    assert loaded == original
    assert loaded.metadata == {"method": "snip", "seed": "3", "note": "déjà vu <b>", "epoch": "4"}
    assert list(loaded) == list(original)


@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (9,), (3, 3), (1, 1, 1, 1), (0, 4), ()])
def test_odd_sizes(shape: tuple[int, ...], tmp_path: Path) -> None:
    original = Masks({"odd": torch.ones(shape, dtype=torch.bool), "other": torch.tensor([False, True])})
    loaded = Masks.load(original.save(tmp_path / "m"))
    assert loaded == original
    assert loaded["odd"].shape == shape


def test_a_weight_takes_one_bit(tmp_path: Path) -> None:
    original = some((1000, 1001), (512, 512, 3, 3))
    size = original.save(tmp_path / "m").stat().st_size
    assert size < original.total / 8 + 2000


def test_any_safetensors_reader_opens_it(tmp_path: Path) -> None:
    from safetensors import safe_open

    original = some((3, 5))
    with safe_open(original.save(tmp_path / "m"), framework="numpy") as file:
        bits = np.unpackbits(file.get_tensor("layer0.weight"), bitorder="big")[:15]
        assert json.loads(file.metadata()["shapes"]) == {"layer0.weight": [3, 5]}
    assert bits.reshape(3, 5).astype(bool).tolist() == original["layer0.weight"].tolist()


def test_an_existing_file_is_replaced_whole_or_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = some((3, 5)).save(tmp_path / "m")
    before = path.read_bytes()

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    for name in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fails)
            with pytest.raises(OSError, match="No space left"):
                some((9, 9)).save(path)
        assert path.read_bytes() == before
        assert [entry.name for entry in tmp_path.iterdir()] == ["m"]
    some((9, 9)).save(path)
    assert Masks.load(path) == some((9, 9))


def test_folders_that_do_not_exist_and_files_that_do_not(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist; create it first"):
        some((2,)).save(tmp_path / "nowhere" / "m")
    with pytest.raises(FileNotFoundError, match=r"no mask file at .*; write one with masks.save"):
        Masks.load(tmp_path / "m")
    with pytest.raises(FileNotFoundError, match="no mask file at"):
        Masks.load(tmp_path)


def test_truncated_files(tmp_path: Path) -> None:
    content = some((3, 5), (40,)).save(tmp_path / "m").read_bytes()
    for length in range(0, len(content), 5):
        (tmp_path / "short").write_bytes(content[:length])
        with pytest.raises(ValueError, match="is damaged or not a safetensors file"):
            Masks.load(tmp_path / "short")
    (tmp_path / "long").write_bytes(content + b"\0")
    with pytest.raises(ValueError, match="damaged"):
        Masks.load(tmp_path / "long")


def test_flipped_bits_are_refused_or_harmless(tmp_path: Path) -> None:
    """A flipped bit of a mask is another valid mask, which only the digest shows."""
    original = Masks(some((3, 5), (40,))._tensors, metadata={"method": "snip"})
    content = original.save(tmp_path / "m").read_bytes()
    data = len(content) - 2 - 5  # the last bytes are the packed masks
    refused = 0
    for position in range(len(content)):
        for bit in range(8) if position >= data else [position % 7]:
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            (tmp_path / "f").write_bytes(flipped)
            try:
                loaded = Masks.load(tmp_path / "f")
            except ValueError as error:
                assert str(tmp_path / "f") in str(error)  # noqa: PT017
                refused += 1
            else:
                assert position < data
                assert loaded == original
                assert loaded.metadata == original.metadata
    assert refused > 0.9 * len(content)


def forged(tmp_path: Path, packed: dict[str, Any], shapes: Any, **header: str) -> Path:
    """A mask file with whatever content and a digest that fits it."""
    text = shapes if isinstance(shapes, str) else json.dumps(shapes)
    about = {"format": FORMAT, "shapes": text, **header}
    about["digest"] = digest_of(about, packed)
    (tmp_path / "forged").write_bytes(save_numpy(packed, metadata=about))
    return tmp_path / "forged"


ONE = np.array([0b10100000], dtype=np.uint8)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"a": [-1, 2]}, "claims the impossible shape"),
        ({"a": [2**41]}, "claims the impossible shape"),
        ({"a": [2**20, 2**20, 2**20]}, "claims the impossible shape"),
        ({"a": [0, 2**40, 2**40]}, "claims the impossible shape"),
        ({"a": [1.5]}, "claims the impossible shape"),
        ({"a": [True, 3]}, "claims the impossible shape"),
        ({"a": "33"}, "claims the impossible shape"),
        ({"a": [1] * 65}, "claims the impossible shape"),
        ({"a": [2**40] * 100_000}, "claims the impossible shape"),
        ({"a": [9]}, "needs 2 bytes, found 1 of uint8"),
        ({"a": [0]}, "needs 0 bytes, found 1 of uint8"),
        ({"a": [2]}, "has bits beyond its last weight"),
        ({"a": 3}, "its list of shapes is unreadable"),
        (["a"], "its list of shapes is unreadable"),
        ("no json", "its list of shapes is unreadable"),
        ("[" * 100_000, "its list of shapes is unreadable"),
        ('{"a": [' + "9" * 5000 + "]}", "its list of shapes is unreadable"),
        ({}, "the header and the tensors disagree about 'a'"),
        ({"a": [3], "b": [3]}, "the header and the tensors disagree about 'b'"),
    ],
)
def test_hostile_shapes(tmp_path: Path, shapes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Masks.load(forged(tmp_path, {"a": ONE}, shapes))


def test_a_forged_file_with_nothing_wrong_is_read(tmp_path: Path) -> None:
    """Otherwise the tests of hostile shapes would prove nothing."""
    assert Masks.load(forged(tmp_path, {"a": ONE}, {"a": [3]}))["a"].tolist() == [True, False, True]


def test_other_types_of_tensors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'a' holds F32 instead of packed bits"):
        Masks.load(forged(tmp_path, {"a": ONE.astype(np.float32)}, {"a": [3]}))
    with pytest.raises(ValueError, match="needs 1 bytes, found 1 of uint8"):
        Masks.load(forged(tmp_path, {"a": ONE[None]}, {"a": [3]}))


def test_a_model_is_no_mask_file(tmp_path: Path) -> None:
    """Also one whose types NumPy does not know, which must not be read before the header is."""
    path = tmp_path / "model.safetensors"
    save_torch({"w": torch.ones(3, dtype=torch.bfloat16)}, path)
    with pytest.raises(ValueError, match=r"is a safetensors file but not a mask file of format .* \(found None\)"):
        Masks.load(path)
    save_torch({"w": torch.ones(3, dtype=torch.bfloat16)}, path, metadata={"format": FORMAT})
    with pytest.raises(ValueError, match="'w' holds BF16 instead of packed bits"):
        Masks.load(path)


def test_a_missing_digest(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(save_numpy({"a": ONE}, metadata={"format": FORMAT, "shapes": '{"a": [3]}'}))
    with pytest.raises(ValueError, match="its content does not fit its digest; make the masks again"):
        Masks.load(path)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("bomb",)


def test_a_pickle_with_another_name_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("masks.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="is damaged or not a safetensors file"):
        Masks.load("masks.safetensors")
    torch.save({"a": Bomb()}, "torch.safetensors")
    with pytest.raises(ValueError, match="is damaged or not a safetensors file"):
        Masks.load("torch.safetensors")
    assert not Path("bomb").exists()


def test_the_file_is_not_trusted_to_hold_a_weight(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="masks without a single weight"):
        Masks.load(forged(tmp_path, {"a": ONE[:0]}, {"a": [0]}))
    assert FORMAT == "foreprune-masks/1"
