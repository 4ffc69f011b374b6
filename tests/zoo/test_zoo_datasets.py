from __future__ import annotations

import gzip
import io
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from foreprune.zoo import datasets
from foreprune.zoo.augment import RandomHorizontalFlip, RandomResizedCrop, RandomShift
from foreprune.zoo.datasets import load
from foreprune.zoo.images import ImageFolder, ImageSet

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOREPRUNE_DATA", raising=False)


def write_mnist(folder: Path, *, zipped: bool, size: int = 28, labels: int = 10) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", 20), ("t10k", 6)):
        header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (count, size, size))
        images = header + bytes(i % 256 for i in range(count * size * size))
        numbers = b"\0\0\x08\x01" + count.to_bytes(4, "big") + bytes(i % labels for i in range(count))
        for name, content in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", numbers)):
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)


def write_cifar(folder: Path, *, classes: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"] if classes == 10 else ["train", "test"]
    key = "labels" if classes == 10 else "fine_labels"
    for number, name in enumerate(names):
        batch = {b"data": np.full((4, 3072), number, np.uint8), key.encode(): [0, classes - 1, 2, 3]}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))


def image_bytes(kind: str, size: int = 32) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def write_parquet(folder: Path, kind: str, **columns: list[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train-00000-of-00001", "test"):
        count = len(next(iter(columns.values())))
        pq.write_table(
            pa.table({"img": [image_bytes(kind) for _ in range(count)], **columns}), folder / f"{part}.parquet"
        )


def write_images(folder: Path, names: list[str], size: int = 64) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(image_bytes("JPEG", size))


# --- digits


def test_digits() -> None:
    data = load("digits")
    assert (len(data.train), len(data.test), data.classes, data.shape, data.note) == (1442, 355, 10, (1, 8, 8), "")
    assert isinstance(data.train, ImageSet)
    assert isinstance(data.test, ImageSet)
    from sklearn.datasets import load_digits

    content = load_digits()
    totals = torch.bincount(torch.from_numpy(content.target).long())
    test = torch.bincount(data.test.labels, minlength=10)
    assert test.tolist() == [int(total) // 5 for total in totals]
    assert torch.equal(torch.bincount(data.train.labels, minlength=10), totals - test)
    assert data.train.images[0, 0].tolist() == (content.images[0] * 15).tolist()
    both = torch.cat((data.train.images, data.test.images)).flatten(1)
    assert int(both.max()) == 240
    assert sorted(map(tuple, (both // 15).tolist())) == sorted(map(tuple, content.data.astype(int).tolist()))
    x = data.train.normalized(data.train.images)
    assert x.mean().item() == pytest.approx(0, abs=1e-5)
    assert x.std().item() == pytest.approx(1, abs=1e-4)
    assert data.train.augmentation == ()
    again = load("digits")
    assert isinstance(again.train, ImageSet)
    assert torch.equal(again.train.images, data.train.images)


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"digits needs scikit-learn: pip install 'foreprune\[data\]'"):
        load("digits")


# --- MNIST


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("inside", ["", "mnist", "MNIST/raw"])
def test_mnist(tmp_path: Path, zipped: bool, inside: str) -> None:
    write_mnist(tmp_path / inside, zipped=zipped)
    data = load("mnist", data_dir=tmp_path)
    assert (len(data.train), len(data.test), data.shape) == (20, 6, (1, 28, 28))
    assert isinstance(data.train, ImageSet)
    assert data.train.images.shape == (20, 1, 28, 28)
    assert int(data.train.images[1, 0, 0, 3]) == (784 + 3) % 256
    assert data.train.labels[:3].tolist() == [0, 1, 2]
    assert (data.train.mean, data.train.std, data.train.augmentation) == ((0.1307,), (0.3081,), ())


def test_folder_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path / "mnist", zipped=True)
    monkeypatch.setenv("FOREPRUNE_DATA", str(tmp_path))
    assert len(load("mnist").train) == 20
    (tmp_path / "other").mkdir()
    with pytest.raises(FileNotFoundError, match="mnist was not found"):
        load("mnist", data_dir=tmp_path / "other")  # what is given goes before the environment


def test_damaged_mnist(tmp_path: Path) -> None:
    write_mnist(tmp_path, zipped=False, size=27)
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte has images of 27x27, not 28x28"):
        load("mnist", data_dir=tmp_path)
    write_mnist(tmp_path, zipped=False, labels=11)
    with pytest.raises(ValueError, match=r"mnist in .*: labels must be from 0 to 9, and these are from 0 to 10"):
        load("mnist", data_dir=tmp_path)
    write_mnist(tmp_path, zipped=False)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x05" + bytes(5))
    with pytest.raises(ValueError, match=r"6 images need labels of shape \(6,\), not \(5,\)"):
        load("mnist", data_dir=tmp_path)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-1])
        with pytest.raises(ValueError, match=rf"mnist in .*{name} announces .* holds only .* fetch it again"):
            load("mnist", data_dir=tmp_path)
        write_mnist(tmp_path, zipped=False)


# --- CIFAR


def test_cifar_10_pickles(tmp_path: Path) -> None:
    write_cifar(tmp_path / "cifar-10-batches-py", classes=10)
    data = load("cifar-10", data_dir=tmp_path)
    assert (len(data.train), len(data.test), data.classes, data.note) == (20, 4, 10, "")
    assert isinstance(data.train, ImageSet)
    assert isinstance(data.test, ImageSet)
    assert data.train.images[:, 0, 0, 0].tolist() == [i // 4 for i in range(20)]
    assert data.test.images.eq(5).all()
    assert data.train.labels.tolist() == [0, 9, 2, 3] * 5
    assert data.train.augmentation == (RandomHorizontalFlip(), RandomShift(4))
    assert data.test.augmentation == ()


def test_cifar_100_pickles(tmp_path: Path) -> None:
    write_cifar(tmp_path / "cifar-100-python", classes=100)
    data = load("cifar-100", data_dir=tmp_path / "cifar-100-python")
    assert (len(data.train), len(data.test), data.classes) == (4, 4, 100)
    assert data.train.labels.tolist() == [0, 99, 2, 3]


def test_a_hostile_cifar_file_runs_nothing(tmp_path: Path) -> None:
    write_cifar(tmp_path, classes=10)
    trace = tmp_path / "trace"
    hostile = b"cos\nmkdir\n(V" + str(trace).encode() + b"\ntR."
    (tmp_path / "data_batch_4").write_bytes(hostile)
    with pytest.raises(ValueError, match=r"cifar-10 in .*data_batch_4 is not a CIFAR batch.*it asks for os\.mkdir"):
        load("cifar-10", data_dir=tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize(("kind", "lossy"), [("PNG", False), ("JPEG", True)])
def test_cifar_parquet(tmp_path: Path, kind: str, lossy: bool) -> None:
    write_parquet(tmp_path / "cifar10-jpeg", kind, label=[9, 0, 1])
    data = load("cifar-10", data_dir=tmp_path)
    assert (len(data.train), len(data.test)) == (3, 3)
    assert data.test.labels.tolist() == [9, 0, 1]
    assert ("JPEG" in data.note) == lossy
    write_parquet(tmp_path / "cifar100", kind, fine_label=[99, 5], coarse_label=[1, 2])
    assert load("cifar-100", data_dir=tmp_path).train.labels.tolist() == [99, 5]


def test_wrong_labels_in_parquet(tmp_path: Path) -> None:
    write_parquet(tmp_path, "PNG", label=[10, 0])
    with pytest.raises(ValueError, match="labels must be from 0 to 9, and these are from 0 to 10"):
        load("cifar-10", data_dir=tmp_path)
    with pytest.raises(ValueError, match="needs a column fine_label; it has img, label"):
        load("cifar-100", data_dir=tmp_path)
    for part in ("train", "test"):
        pq.write_table(
            pa.table({"img": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}),
            tmp_path / f"{part}.parquet",
        )
    (tmp_path / "train-00000-of-00001.parquet").unlink()
    with pytest.raises(ValueError, match="there are no training images"):
        load("cifar-10", data_dir=tmp_path)


# --- folders of images


def write_tiny(folder: Path) -> None:
    write_images(folder / "train", [f"{c}/images/{c}_{i}.JPEG" for c in ("n01", "n02", "n03") for i in range(2)])
    write_images(folder / "val" / "images", ["val_0.JPEG", "val_1.JPEG"])
    (folder / "val" / "val_annotations.txt").write_text("val_1.JPEG\tn03\t0\t0\t9\t9\nval_0.JPEG\tn01\t0\t0\t9\t9\n")


def test_tiny_imagenet(tmp_path: Path) -> None:
    write_tiny(tmp_path / "tiny-imagenet-200")
    data = load("tiny-imagenet", data_dir=tmp_path)
    assert (len(data.train), len(data.test), data.classes, data.shape) == (6, 2, 3, (3, 64, 64))
    assert isinstance(data.test, ImageSet)
    assert data.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.test.labels.tolist() == [2, 0]
    first = np.asarray(Image.open(tmp_path / "tiny-imagenet-200/val/images/val_1.JPEG"))
    assert np.array_equal(data.test.images[0].permute(1, 2, 0).numpy(), first)
    assert data.train.augmentation == (RandomResizedCrop((0.1, 1.0), (0.8, 1.25)), RandomHorizontalFlip())
    assert data.test.augmentation == ()
    modified = load("modified-tiny-imagenet", data_dir=tmp_path)
    assert modified.train.augmentation == (RandomHorizontalFlip(), RandomShift(4))
    assert modified.train.mean == data.train.mean
    x, y = data.train.per_class(2, seed=0)
    assert (x.shape, torch.bincount(y).tolist()) == ((6, 3, 64, 64), [2, 2, 2])


def test_damaged_tiny_imagenet(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    write_images(tmp_path / "train", ["n02/images/n02_1.JPEG"], size=63)
    with pytest.raises(ValueError, match=r"n02_1\.JPEG has 63x63 pixels; this data set has 64x64"):
        load("tiny-imagenet", data_dir=tmp_path)
    (tmp_path / "train" / "n02" / "images" / "n02_1.JPEG").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"n02_1\.JPEG is not a readable JPEG or PNG image"):
        load("tiny-imagenet", data_dir=tmp_path)
    (tmp_path / "val" / "val_annotations.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks val/val_annotations\.txt"):
        load("tiny-imagenet", data_dir=tmp_path)


def test_imagenet(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("val", 1)):
        write_images(
            tmp_path / "imagenet" / part, [f"n0{c}/{c}_{i}.JPEG" for c in (1, 2) for i in range(count)], size=80
        )
    data = load("imagenet", data_dir=tmp_path)
    assert (len(data.train), len(data.test), data.classes, data.shape) == (6, 2, 2, (3, 224, 224))
    assert isinstance(data.train, ImageFolder)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test.augmentation == ()
    ((x, y),) = data.train.batches(6, seed=0, augment=True)
    assert (x.shape, x.dtype, sorted(y.tolist())) == ((6, 3, 224, 224), torch.float32, [0, 0, 0, 1, 1, 1])
    write_images(tmp_path / "imagenet" / "val", ["n03/x.JPEG"])
    with pytest.raises(ValueError, match=r"val must have the class folders of .*train; they differ in n03"):
        load("imagenet", data_dir=tmp_path)


# --- what a user gets wrong


def test_unknown_names() -> None:
    for wrong, near in (("cifar10", "'cifar-10'"), ("minst", "'mnist'"), ("tinyimagenet", "'tiny-imagenet'")):
        with pytest.raises(
            ValueError, match=f"unknown data set '{wrong}'; did you mean .*{near}.*known: digits, mnist"
        ):
            load(wrong)
        with pytest.raises(ValueError, match="unknown data set"):
            datasets.describe(wrong)
    with pytest.raises(ValueError, match="unknown data set 'svhn'; known: digits"):
        load("svhn")


@pytest.mark.parametrize("name", [name for name in datasets.names() if not name.startswith("digits")])
def test_missing_files_say_where_to_look_and_what_for(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        FileNotFoundError, match=rf"{name} is read from files: pass data_dir=<folder> or set FOREPRUNE_DATA"
    ):
        load(name)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        load(name, data_dir=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError) as caught:
        load(name, data_dir=str(tmp_path))
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "train" in message or "data_batch_1" in message
    assert "http" in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write_cifar(tmp_path / "cifar10", classes=10)
    (tmp_path / "cifar10" / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match=r"cifar10 lacks data_batch_3\. Looked in .*python version"):
        load("cifar-10", data_dir=tmp_path)


def test_folders_are_not_taken_for_files(tmp_path: Path) -> None:
    write_tiny(tmp_path)  # has a folder `train`, as CIFAR-100 has a file
    (tmp_path / "test").mkdir()
    with pytest.raises(FileNotFoundError, match="cifar-100 was not found"):
        load("cifar-100", data_dir=tmp_path)


def test_every_data_set_is_described() -> None:
    for name in datasets.names():
        assert datasets.describe(name)
        assert "\n" not in datasets.describe(name)


# --- real images


def test_real_mnist(real_data: Callable[[str], Path]) -> None:
    data = load("mnist", data_dir=real_data("mnist"))
    assert isinstance(data.train, ImageSet)
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert torch.bincount(data.train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    sums = torch.bincount(data.train.images.flatten().int(), minlength=256).double()
    values = torch.arange(256).double() / 255
    mean = (sums * values).sum() / sums.sum()
    std = ((sums * values**2).sum() / sums.sum() - mean**2).sqrt()
    assert (round(float(mean), 4), round(float(std), 4)) == (data.train.mean[0], data.train.std[0])
    _, y = data.train.per_class(10, seed=0)
    assert torch.bincount(y).tolist() == [10] * 10


def test_real_mnist_batches_are_cheap(real_data: Callable[[str], Path]) -> None:
    data = load("mnist", data_dir=real_data("mnist"))
    best = float("inf")
    for epoch in range(3):
        start = time.perf_counter()
        steps = sum(1 for _ in data.train.batches(128, seed=0, epoch=epoch))
        best = min(best, (time.perf_counter() - start) / steps)
    assert steps == 469
    assert best < 1e-3  # about 0.05 ms where a training step of LeNet-300-100 takes 2 ms


def test_real_cifar_10(real_data: Callable[[str], Path]) -> None:
    data = load("cifar-10", data_dir=real_data("cifar10-jpeg"))
    assert isinstance(data.train, ImageSet)
    assert torch.bincount(data.train.labels).tolist() == [5000] * 10
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
    assert "JPEG" in data.note
    scaled = data.train.images[:10_000].double() / 255
    for channel in range(3):
        assert scaled[:, channel].mean().item() == pytest.approx(data.train.mean[channel], abs=0.004)
        assert scaled[:, channel].std().item() == pytest.approx(data.train.std[channel], abs=0.004)
