from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foreprune.zoo.cifar_pickle import read_cifar_batch

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
LABELS = [3, 0, 9, 1]


def write(path: Path, content: object, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def python2_batch(pixels: np.ndarray[Any, Any], labels: list[int]) -> bytes:
    """The opcodes of the published files: Python 2 strings and NumPy's old module names."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + text(b"b") + b"tR"
    shape = b"K" + bytes([len(pixels)]) + b"M" + (3072).to_bytes(2, "little") + b"\x86"
    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR(K\x03" + text(b"|") + b"NNN"
    dtype += b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    raw = b"T" + pixels.size.to_bytes(4, "little") + pixels.tobytes()
    array += b"(K\x01" + shape + dtype + b"\x89" + raw + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    batch = text(b"batch_label") + text(b"training batch 1 of 5") + text(b"labels") + numbers + text(b"data") + array
    names = text(b"filenames") + b"](" + text(b"leptodactylus_s_000004.png") + b"e"
    return b"\x80\x02}(" + batch + names + b"u."


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("keys", [str, str.encode])
def test_arrays_of_every_protocol(tmp_path: Path, protocol: int, keys: Callable[[str], Any]) -> None:
    content = {keys("data"): PIXELS, keys("labels"): LABELS, keys("filenames"): ["a.png"] * 4}
    images, labels = read_cifar_batch(write(tmp_path / "batch", content, protocol), label_key="labels")
    assert images.dtype == torch.uint8
    assert images.shape == (4, 3, 32, 32)
    assert np.array_equal(images.numpy().reshape(4, 3072), PIXELS)
    assert labels.dtype == torch.int64
    assert labels.tolist() == LABELS
    # the first 1024 bytes of a row are its red plane, row by row
    assert int(images[1, 0, 2, 5]) == int(PIXELS[1, 2 * 32 + 5])
    assert int(images[1, 2, 0, 7]) == int(PIXELS[1, 2048 + 7])


def test_the_published_python_2_form(tmp_path: Path) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(python2_batch(PIXELS, LABELS))
    assert np.array_equal(pickle.loads(path.read_bytes(), encoding="bytes")[b"data"], PIXELS)
    images, labels = read_cifar_batch(path, label_key="labels")
    assert np.array_equal(images.numpy().reshape(4, 3072), PIXELS)
    assert labels.tolist() == LABELS


def test_fortran_order(tmp_path: Path) -> None:
    content = {"data": np.asfortranarray(PIXELS), "labels": LABELS}
    images, _ = read_cifar_batch(write(tmp_path / "batch", content), label_key="labels")
    assert np.array_equal(images.numpy().reshape(4, 3072), PIXELS)


def test_cifar_100_labels(tmp_path: Path) -> None:
    content = {"data": PIXELS, "fine_labels": [99, 0, 5, 7], "coarse_labels": [19, 0, 1, 1]}
    _, labels = read_cifar_batch(write(tmp_path / "train", content), label_key="fine_labels")
    assert labels.tolist() == [99, 0, 5, 7]


class Runs:
    """What a hostile file holds: unpickling it calls `function(*arguments)`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_pickle_runs_nothing(tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "trace"
    for function, arguments in ((os.mkdir, (str(trace),)), (eval, (f"__import__('os').mkdir({str(trace)!r})",))):
        for content in (Runs(function, *arguments), {"data": PIXELS, "labels": Runs(function, *arguments)}):
            path = write(tmp_path / "batch", content, protocol)
            with pytest.raises(
                ValueError, match=r"batch is not a CIFAR batch, or is damaged: it asks for .*could run code"
            ):
                read_cifar_batch(path, label_key="labels")
            assert not trace.exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cnumpy\nload\n(X\x01\x00\x00\x00atR.",
        b"cnumpy\nndarray.tofile\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.",
        b"cbuiltins\nbytearray\n(K\x05tR.",
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR.",
        b"c_codecs\nencode\n}X\x06\x00\x00\x00pixelsK\x05sb0}X\x04\x00\x00\x00datac_codecs\nencode\ns.",
        b"cnumpy\nndarray\n}b.",
        b"\x80\x02\x82\x01.",
        b"Pname\n.",
        b"cnumpy\nndarray\n)R(K\x01K\x01\x85K\x00\x89C\x01atb.",
        b"cnumpy\nndarray\n)RK\x01b.",
        b"",
        b"\x80\x02",
        b"\x80\x63.",
        b"not a pickle",
        b"]R.",
        b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"abc.",
        b"]]K\x01s.",
    ],
)
def test_odd_opcodes_are_refused(tmp_path: Path, opcodes: bytes) -> None:
    path = tmp_path / "batch"
    path.write_bytes(opcodes)
    with pytest.raises(ValueError, match="batch "):
        read_cifar_batch(path, label_key="labels")


def test_what_a_file_does_to_the_stand_ins_does_not_outlast_it(tmp_path: Path) -> None:
    poison = tmp_path / "poison"
    for target in (b"c_codecs\nencode\n", b"cnumpy.core.multiarray\n_reconstruct\n"):
        poison.write_bytes(target + b"(}X\x0c\x00\x00\x00__defaults__K\x05\x85s}tb.")
        with pytest.raises(ValueError, match="poison "):
            read_cifar_batch(poison, label_key="labels")
    good = write(tmp_path / "good", {"data": PIXELS, "labels": LABELS}, 0)
    assert read_cifar_batch(good, label_key="labels")[1].tolist() == LABELS


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    whole = pickle.dumps({"data": PIXELS, "labels": LABELS}, protocol=2)
    path = tmp_path / "data_batch_3"
    for length in (1, 20, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="data_batch_3 is not a CIFAR batch, or is damaged"):
            read_cifar_batch(path, label_key="labels")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([PIXELS], "batch holds a list, not the dictionary of a CIFAR batch"),
        ({"data": PIXELS}, "batch lacks labels; it has 'data'"),
        ({}, "batch lacks data and labels; it has nothing"),
        ({"data": PIXELS.tolist(), "labels": LABELS}, "data must be an array of N x 3072 unsigned bytes"),
        ({"data": PIXELS[:, :99], "labels": LABELS}, "data must be an array of N x 3072 unsigned bytes"),
        ({"data": PIXELS.astype(np.float32), "labels": LABELS}, "an array that is not of unsigned bytes"),
        ({"data": PIXELS.astype(object), "labels": LABELS}, "an array that is not of unsigned bytes"),
        ({"data": PIXELS, "labels": LABELS[:3]}, "batch has 4 images and 3 labels"),
        ({"data": PIXELS, "labels": [1, 2, 3, "a"]}, "labels must be a list of whole numbers"),
        ({"data": PIXELS, "labels": [True, 2, 3, 4]}, "labels must be a list of whole numbers"),
        ({"data": PIXELS, "labels": [0, 1, 2, -1]}, "labels must be 0 or more, found -1 to 2"),
        ({"data": PIXELS, "labels": [0, 1, 2, 2**70]}, f"labels must be 0 or more, found 0 to {2**70}"),
    ],
)
def test_wrong_content_says_what_is_wrong(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_cifar_batch(write(tmp_path / "batch", content), label_key="labels")
