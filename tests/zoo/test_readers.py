from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

from foreprune.zoo.readers import (
    decode_images,
    list_class_folders,
    open_image,
    read_annotations,
    read_idx,
    read_parquet,
)


def pixels(count: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def encoded(image: Tensor, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, kind)
    return buffer.getvalue()


def idx(content: Tensor) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in content.shape)
    return bytes((0, 0, 8, content.ndim)) + sizes + content.numpy().tobytes()


# --- IDX


@pytest.mark.parametrize("name", ["images-idx3-ubyte", "images-idx3-ubyte.gz"])
def test_idx_raw_and_gzipped(tmp_path: Path, name: str) -> None:
    images = pixels(5, 4, 3)
    (tmp_path / name).write_bytes(gzip.compress(idx(images)) if name.endswith("gz") else idx(images))
    read = read_idx(tmp_path / name, dimensions=3)
    assert read.dtype == torch.uint8
    assert torch.equal(read, images)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"idx is no IDX file of unsigned bytes in 1 dimensions: it starts with nothing, not 00 00 08 01"),
        (b"\x00\x00\x0d\x01" + bytes(8), "it starts with 00 00 0d 01, not 00 00 08 01"),
        (idx(pixels(2, 3)), "it starts with 00 00 08 02, not 00 00 08 01"),
        (b"\x00\x00\x08\x01\x00", "idx ends inside its header; fetch it again"),
        (idx(pixels(9))[:-1], r"idx announces 9 bytes of data \(\[9\]\) and holds only 8; fetch it again"),
        (idx(pixels(9)) + b"x", r"idx announces 9 bytes of data \(\[9\]\) and holds more; fetch it again"),
        (b"\x00\x00\x08\x01\xff\xff\xff\xff", r"idx announces 4294967295 bytes of data .*, more than 1073741824"),
        (b"<html>", "it starts with 3c 68 74 6d, not"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "idx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_idx(path, dimensions=1)
    assert str(path) in str(caught.value)


def test_truncated_gzip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.gz"
    whole = gzip.compress(idx(pixels(5000)))
    for broken in (whole[:-9], whole[:200], b"no gzip", whole[:40] + b"\xff" * 40 + whole[80:]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"labels\.gz is truncated or damaged .*; fetch it again"):
            read_idx(path, dimensions=1)


# --- encoded images


def test_decoding_keeps_order_and_pixels() -> None:
    images = pixels(700, 3, 5, 4)
    decoded = decode_images([encoded(image) for image in images], names=[""] * 700, size=(5, 4))
    assert torch.equal(decoded, images)


def test_gray_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    gray = pixels(1, 5, 4)[0]
    Image.fromarray(gray.numpy()).save(tmp_path / "gray.png")
    decoded = decode_images([tmp_path / "gray.png"], names=["gray"], size=(5, 4))
    assert torch.equal(decoded[0], gray.expand(3, 5, 4))


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    good = encoded(pixels(1, 3, 8, 8)[0])
    gif = io.BytesIO()
    Image.fromarray(pixels(1, 8, 8)[0].numpy()).save(gif, "GIF")
    for content in (b"", b"junk", good[:40], good[:-80], gif.getvalue()):
        with pytest.raises(ValueError, match="the second is not a readable JPEG or PNG image"):
            decode_images([good, content], names=["the first", "the second"], size=(8, 8))
    with pytest.raises(ValueError, match="the first has 8x8 pixels; this data set has 32x32"):
        decode_images([good], names=["the first"], size=(32, 32))
    with pytest.raises(ValueError, match=r"absent\.png is not a readable"):
        open_image(tmp_path / "absent.png", name="absent.png")


# --- Parquet


def parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("column", ["img", "image"])
@pytest.mark.parametrize("nested", [False, True])
def test_parquet_in_several_files(tmp_path: Path, column: str, nested: bool) -> None:
    images, labels = pixels(6, 3, 8, 8), [3, 1, 4, 1, 5, 9]
    paths = []
    for part, rows in enumerate((slice(0, 4), slice(4, 6))):
        cells: list[object] = [encoded(image) for image in images[rows]]
        if nested:
            cells = [{"bytes": cell, "path": None} for cell in cells]
        paths.append(parquet(tmp_path / f"train-{part}.parquet", **{column: cells, "label": labels[rows]}))
    read, numbers, lossy = read_parquet(paths, label_columns=("label",), size=(8, 8))
    assert torch.equal(read, images)
    assert numbers.dtype == torch.int64
    assert numbers.tolist() == labels
    assert lossy is False


def test_parquet_of_jpegs_is_lossy_and_takes_the_named_label(tmp_path: Path) -> None:
    cells = [encoded(image, "JPEG") for image in pixels(2, 3, 8, 8)]
    path = parquet(tmp_path / "train.parquet", img=cells, fine_label=pa.array([7, 8], pa.int32()), coarse_label=[0, 1])
    _, numbers, lossy = read_parquet([path], label_columns=("fine_label",), size=(8, 8))
    assert numbers.tolist() == [7, 8]
    assert lossy is True


def test_wrong_parquet_says_what_is_wrong(tmp_path: Path) -> None:
    path, good = tmp_path / "train.parquet", encoded(pixels(1, 3, 8, 8)[0])

    def read() -> object:
        return read_parquet([path], label_columns=("label", "labels"), size=(8, 8))

    path.write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"train\.parquet is not a readable Parquet file"):
        read()
    parquet(path, picture=[good], label=[1])
    with pytest.raises(ValueError, match="needs a column img or image; it has picture, label"):
        read()
    parquet(path, img=[good], target=[1])
    with pytest.raises(ValueError, match="needs a column label or labels; it has img, target"):
        read()
    parquet(path, img=[good, None], label=[1, 2])
    with pytest.raises(ValueError, match="row 1: column 'img' holds no encoded image"):
        read()
    parquet(path, img=["text"], label=[1])
    with pytest.raises(ValueError, match="row 0: column 'img' holds no encoded image"):
        read()
    parquet(path, img=[good, b"junk"], label=[1, 2])
    with pytest.raises(ValueError, match="row 1, column 'img' is not a readable JPEG or PNG image"):
        read()
    for bad in ([1.5], ["cat"], [None]):
        parquet(path, img=[good], label=bad)
        with pytest.raises(ValueError, match="column 'label' must hold a whole number in each row"):
            read()


def test_missing_extras_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path / "train.parquet", img=[b""], label=[1])
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(ImportError, match=r"needs pyarrow: pip install 'foreprune\[data\]'"):
            read_parquet([path], label_columns=("label",), size=(8, 8))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "PIL", None)
        with pytest.raises(ImportError, match=r"needs Pillow: pip install 'foreprune\[data\]'"):
            decode_images([], names=[], size=(8, 8))


# --- folders


def test_class_folders_in_alphabetical_order(tmp_path: Path) -> None:
    many = [f"n02/{number:02}.JPEG" for number in (7, 3, 11, 2, 9, 5, 1, 8, 4, 10, 6, 0)]
    for name in (*many, "n02/a.jpg", "n01/z.png", "n01/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "readme.txt").touch()
    files = ["n01/z.png", *sorted(many), "n02/a.jpg"]
    assert list_class_folders(tmp_path) == (("n01", "n02"), files, [0] + [1] * 13)
    with pytest.raises(ValueError, match=r"n01/images has no images \(files ending in \.JPEG, \.jpg or \.png\)"):
        list_class_folders(tmp_path, inside="images")
    with pytest.raises(ValueError, match=r"n01 has no class folders; expected .*n01/<class>/\*\.JPEG"):
        list_class_folders(tmp_path / "n01")


def test_annotations(tmp_path: Path) -> None:
    path = tmp_path / "val_annotations.txt"
    path.write_text("val_0.JPEG\tn02\t0\t32\t44\t62\nval_1.JPEG\tn01\t52\t55\t57\t59\n")
    assert read_annotations(path, ("n01", "n02")) == (["val_0.JPEG", "val_1.JPEG"], [1, 0])
    for line, message in (
        ("val_2.JPEG\tn03\t0\t0\t0\t0\n", "line 1: expected a file name and one of the training classes, not 'val_2"),
        ("val_2.JPEG\n", "line 1: expected a file name"),
        ("../../secret\tn01\n", r"line 1: '\.\./\.\./secret' is no plain file name"),
        ("", r"val_annotations\.txt is empty"),
    ):
        path.write_text(line)
        with pytest.raises(ValueError, match=message):
            read_annotations(path, ("n01", "n02"))


def test_arrays_are_writable(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(idx(pixels(3)))
    read_idx(tmp_path / "x", dimensions=1)[0] = 5
    assert np.frombuffer((tmp_path / "x").read_bytes(), np.uint8)[8] == pixels(3)[0]
