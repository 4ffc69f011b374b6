from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from foreprune.zoo import images as images_module
from foreprune.zoo.augment import RandomHorizontalFlip, RandomResizedCrop, RandomShift
from foreprune.zoo.images import ImageFolder, ImageSet

COUNT = 50


def image_set(count: int = COUNT, classes: int = 5) -> ImageSet:
    """Every image is told apart by its first pixel."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    pixels[:, 0, 0, 0] = torch.arange(count, dtype=torch.uint8)
    labels = torch.arange(count) % classes
    return ImageSet(pixels, labels, (0.1, 0.2, 0.3), (0.5, 0.25, 0.2), (RandomHorizontalFlip(), RandomShift(2)))


@pytest.fixture
def folder(tmp_path: Path) -> ImageFolder:
    """Forty images of four sizes in two classes, each of its own color."""
    files = []
    for index in range(40):
        height, width = ((40, 60), (60, 40), (32, 32), (20, 90))[index % 4]
        pixels = np.full((height, width, 3), 6 * index, np.uint8)
        pixels[:, : width // 2] //= 2
        files.append(f"{index}.png")
        Image.fromarray(pixels).save(tmp_path / files[-1])
    labels = torch.arange(40) // 4 % 2
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    augmentation = (RandomResizedCrop(), RandomHorizontalFlip())
    return ImageFolder(tmp_path, tuple(files), labels, mean, std, augmentation, size=16, resize=18)


def raw(split: ImageSet | ImageFolder, x: Tensor) -> Tensor:
    mean, std = (torch.tensor(v)[:, None, None] for v in (split.mean, split.std))
    return ((x * std + mean) * 255).round().to(torch.uint8)


def whole(split: ImageSet | ImageFolder, batch_size: int = 16, **options: object) -> tuple[Tensor, Tensor]:
    batches = list(split.batches(batch_size, **options))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def test_normalization() -> None:
    split = image_set()
    x = split.normalized(split.images)
    expected = (split.images.double() / 255 - torch.tensor(split.mean)[:, None, None]) / torch.tensor(split.std)[
        :, None, None
    ]
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, expected.float(), rtol=0, atol=2e-6)
    assert split.normalized(split.images[0]).shape == (3, 8, 8)
    with pytest.raises(TypeError, match=r"takes raw uint8 pixels from 0 to 255, not torch\.float32"):
        split.normalized(x)


def test_batches_in_order_without_a_seed() -> None:
    split = image_set()
    batches = list(split.batches(16))
    assert [len(x) for x, _ in batches] == [16, 16, 16, 2]
    assert {x.dtype for x, _ in batches} == {torch.float32}
    assert {y.dtype for _, y in batches} == {torch.int64}
    x, y = whole(split)
    assert torch.equal(x, split.normalized(split.images))
    assert torch.equal(y, split.labels)


def test_a_seed_shuffles_images_and_labels_alike_and_each_once() -> None:
    split = image_set()
    x, y = whole(split, seed=3)
    order = raw(split, x)[:, 0, 0, 0].long()
    assert sorted(order.tolist()) == list(range(COUNT))
    assert order.tolist() != list(range(COUNT))
    assert torch.equal(y, split.labels[order])
    assert torch.equal(x, split.normalized(split.images[order]))


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    split = image_set()
    state = torch.random.get_rng_state()
    first, second = (whole(split, seed=3, epoch=2, augment=True) for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    for other in ({"seed": 4, "epoch": 2}, {"seed": 3, "epoch": 1}, {"seed": 2, "epoch": 3}):
        assert not torch.equal(first[1], whole(split, augment=True, **other)[1])
    assert torch.equal(whole(split, seed=3, epoch=2)[1], first[1])  # the order does not depend on the augmentation
    assert torch.equal(whole(split, 50, seed=3, epoch=2)[0], whole(split, 7, seed=3, epoch=2)[0])


def test_augmentation_acts_on_raw_pixels() -> None:
    split = replace(image_set(), augmentation=(RandomShift(2),))
    plain, _ = whole(split, seed=1)
    moved, _ = whole(split, seed=1, augment=True)
    generator = images_module._stream(1, 0, images_module._AUGMENTATION)
    shifted = [RandomShift(2)(chunk, generator) for chunk in raw(split, plain).split(16)]
    assert torch.equal(raw(split, moved), torch.cat(shifted))
    black = split.normalized(torch.zeros(3, 8, 8, dtype=torch.uint8))[:, 0, 0]
    assert (moved == black[None, :, None, None]).all(1).any()


def test_images_are_never_changed() -> None:
    split = image_set()
    before = split.images.clone()
    for x, _ in split.batches(8, seed=0, augment=True):
        x.zero_()
    split.per_class(2, seed=0)[0].zero_()
    assert torch.equal(split.images, before)


def test_bad_batches_are_refused_at_once() -> None:
    for split in (image_set(), ImageFolder(Path(), ("a.png",), torch.zeros(1).long(), (0,) * 3, (1,) * 3)):
        with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
            split.batches(0)
        with pytest.raises(
            ValueError, match=r"augment=True needs a seed: write batches\(\.\.\., seed=0, augment=True\)"
        ):
            split.batches(8, augment=True)
        with pytest.raises(ValueError, match="seed must be 0 or more, not -1"):
            split.batches(8, seed=-1)
        with pytest.raises(ValueError, match="epoch must be 0 or more, not -1"):
            split.batches(8, seed=0, epoch=-1)


def test_take_and_subset() -> None:
    split = image_set()
    for indices in ([4, 0, 4], torch.tensor([4, 0, 4]), torch.tensor([4, 0, 4], dtype=torch.int32)):
        taken = split.take(indices)
        assert taken.images[:, 0, 0, 0].tolist() == [4, 0, 4]
        assert taken.labels.tolist() == [4, 0, 4]
        assert (taken.mean, taken.augmentation, taken.classes) == (split.mean, split.augmentation, 5)
    assert len(split.take([])) == 0
    assert list(split.take([]).batches(4)) == []
    small, large = split.subset(10, seed=1), split.subset(20, seed=1)
    assert torch.equal(small.images, large.images[:10])
    assert torch.equal(small.labels, small.images[:, 0, 0, 0].long() % 5)
    assert not torch.equal(small.images, split.subset(10, seed=2).images)
    assert sorted(split.subset(COUNT, seed=0).images[:, 0, 0, 0].tolist()) == list(range(COUNT))


def test_a_set_moves_with_everything_that_belongs_to_its_images(folder: ImageFolder) -> None:
    split = image_set()
    there = split.to("cpu")
    assert (there.images.device, there.labels.device) == (torch.device("cpu"),) * 2
    assert (there.mean, there.augmentation, there.classes) == (split.mean, split.augmentation, split.classes)
    for first, second in zip(split.batches(16, seed=1), there.batches(16, seed=1), strict=True):
        assert all(torch.equal(left, right) for left, right in zip(first, second, strict=True))
    with pytest.raises((RuntimeError, NotImplementedError)):  # labels are read once they have moved
        split.to("meta")
    assert folder.to("cpu") is folder


def test_bad_indices_are_refused() -> None:
    split = image_set()
    for n in (0, COUNT + 1):
        with pytest.raises(ValueError, match=rf"a subset must have between 1 and 50 images \(all of them\), not {n}"):
            split.subset(n, seed=0)
    for bad in ([0.5], torch.ones(COUNT, dtype=torch.bool), torch.tensor(3), torch.zeros(1, 1).long()):
        with pytest.raises(TypeError, match=r"indices must be .* for a boolean mask write mask\.nonzero\(\)\[:, 0\]"):
            split.take(bad)
    for bad in ([COUNT], [-1]):
        with pytest.raises(IndexError, match="indices must be from 0 to 49, not"):
            split.take(bad)


def test_per_class_is_balanced_shuffled_and_seeded() -> None:
    split = image_set()
    x, y = split.per_class(7, seed=0)
    assert x.shape == (35, 3, 8, 8)
    assert torch.bincount(y).tolist() == [7, 7, 7, 7, 7]
    drawn = raw(split, x)[:, 0, 0, 0].long()
    assert len(drawn.unique()) == 35
    assert torch.equal(y, split.labels[drawn])
    assert torch.equal(x, split.normalized(split.images[drawn]))  # not augmented
    assert len(y[:7].unique()) > 1  # not sorted by class
    assert torch.equal(x, split.per_class(7, seed=0)[0])
    assert not torch.equal(x, split.per_class(7, seed=1)[0])


def test_per_class_takes_each_image_of_a_class_equally_often() -> None:
    split = image_set(count=20, classes=2)
    times = torch.zeros(20)
    for seed in range(300):
        times[raw(split, split.per_class(3, seed=seed)[0])[:, 0, 0, 0].long()] += 1
    assert 55 < times.min() <= times.max() < 125  # 90 expected, standard deviation 8


def test_per_class_says_which_class_is_too_small() -> None:
    split = image_set()
    with pytest.raises(ValueError, match="11 images of each class were asked for, and class 0 has 10; ask for fewer"):
        split.per_class(11, seed=0)
    without = split.take((split.labels != 3).nonzero()[:, 0])
    with pytest.raises(ValueError, match="1 images of each class were asked for, and class 3 has 0"):
        without.per_class(1, seed=0)
    last = split.take((split.labels != 4).nonzero()[:, 0])  # known to have five classes all the same
    with pytest.raises(ValueError, match="class 4 has 0"):
        last.per_class(1, seed=0)
    with pytest.raises(ValueError, match="n must be at least 1 image of each class, not 0"):
        split.per_class(0, seed=0)
    with pytest.raises(ValueError, match="there are no images to take from"):
        split.take([]).per_class(1, seed=0)


def test_malformed_sets_are_refused() -> None:
    pixels, labels, one = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), (1.0,)
    with pytest.raises(TypeError, match=r"images must be uint8 pixels from 0 to 255, not torch\.float32"):
        ImageSet(pixels.float(), labels, one, one)
    with pytest.raises(ValueError, match=r"images must be \(N, C, H, W\), not \(2, 4, 4\)"):
        ImageSet(pixels[:, 0], labels, one, one)
    with pytest.raises(TypeError, match=r"labels must be int64, not torch.uint8; write labels\.long\(\)"):
        ImageSet(pixels, labels.byte(), one, one)
    with pytest.raises(ValueError, match=r"2 images need labels of shape \(2,\), not \(1,\)"):
        ImageSet(pixels, labels[:1], one, one)
    with pytest.raises(ValueError, match="mean and std need one number for each of 1 channels, not 2 and 1"):
        ImageSet(pixels, labels, (0.0, 0.0), one)
    with pytest.raises(ValueError, match=r"std must be positive in every channel, not \(0\.0,\)"):
        ImageSet(pixels, labels, one, (0.0,))
    with pytest.raises(ValueError, match="labels must be from 0 to 2, and these are from 0 to 3"):
        ImageSet(pixels, labels + torch.tensor([0, 3]), one, one, classes=3)
    with pytest.raises(ValueError, match="these are from -1 to 0"):
        ImageSet(pixels, labels - torch.tensor([0, 1]), one, one)
    with pytest.raises(ValueError, match=r"resize \(10\) must be at least size \(16\)"):
        ImageFolder(Path(), (), labels[:0], (0,) * 3, (1,) * 3, size=16, resize=10)


# --- folders


def test_folder_without_augmentation_cuts_the_center(folder: ImageFolder) -> None:
    x, y = whole(folder)
    assert x.shape == (40, 3, 16, 16)
    assert torch.equal(y, folder.labels)
    pixels = raw(folder, x)
    for index in range(40):
        image = Image.open(folder.root / folder.files[index]).convert("RGB")
        scale = 18 / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        left, top = (image.width - 16) // 2, (image.height - 16) // 2
        expected = np.asarray(image.crop((left, top, left + 16, top + 16)))
        assert np.array_equal(pixels[index].permute(1, 2, 0).numpy(), expected)


def test_folder_crops_from_the_full_image(folder: ImageFolder) -> None:
    # the left half of an image is darker: an unflipped crop is never brighter on its left
    unflipped = replace(folder, augmentation=(RandomResizedCrop(),))
    pixels = raw(folder, whole(unflipped, seed=1, augment=True)[0])
    assert (pixels[..., 0] <= pixels[..., -1]).all()
    assert (pixels[..., 0] < pixels[..., -1]).any()
    flipped = raw(folder, whole(replace(folder, augmentation=folder.augmentation), seed=1, augment=True)[0])
    assert (flipped[..., 0] > flipped[..., -1]).any()
    assert torch.equal(flipped.sort(3).values, pixels.sort(3).values)


def test_folder_is_deterministic_whatever_the_threads(folder: ImageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    first = whole(folder, 3, seed=5, epoch=1, augment=True)
    monkeypatch.setattr(images_module, "threads", lambda: 1)
    second = whole(folder, 3, seed=5, epoch=1, augment=True)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], whole(folder, 3, seed=5, epoch=2, augment=True)[0])
    assert torch.equal(whole(folder, 40, seed=5)[0], whole(folder, 7, seed=5)[0])
    assert torch.equal(whole(folder, seed=5)[1], whole(folder, seed=5, augment=True)[1])


def test_folder_crops_anew_each_epoch(folder: ImageFolder) -> None:
    single = replace(folder.take([37]), augmentation=(RandomResizedCrop(),))
    first, second = (whole(single, seed=0, epoch=epoch, augment=True)[0] for epoch in (0, 1))
    assert not torch.equal(first, second)


def test_folder_subset_and_per_class(folder: ImageFolder) -> None:
    assert len(folder) == 40
    assert folder.take([2, 0]).files == ("2.png", "0.png")
    assert folder.subset(4, seed=0).files == folder.subset(9, seed=0).files[:4]
    x, y = folder.per_class(6, seed=0)
    assert x.shape == (12, 3, 16, 16)
    assert torch.bincount(y).tolist() == [6, 6]
    with pytest.raises(ValueError, match="21 images of each class were asked for, and class 0 has 20"):
        folder.per_class(21, seed=0)


def test_folder_decodes_three_batches_ahead_at_most(folder: ImageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    real = images_module.open_image
    monkeypatch.setattr(
        images_module, "open_image", lambda path, name: (decoded.append(name), real(path, name=name))[1]
    )
    threads_before = threading.active_count()
    batches = folder.batches(4)
    assert decoded == []
    for _ in range(2):
        next(batches)
    assert len(decoded) <= 4 * 4
    batches.close()
    assert len(decoded) <= 4 * 4
    assert threading.active_count() == threads_before


def test_folder_names_a_file_that_is_no_image(folder: ImageFolder) -> None:
    (folder.root / "7.png").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"7\.png is not a readable JPEG or PNG image"):
        whole(folder)


def test_the_mean_image_is_that_of_raw_pixels(folder: ImageFolder) -> None:
    split = image_set()
    image = split.mean_image(split.scoring_batches(3, seed=0, device="cpu"))
    assert torch.allclose(image, (split.images.double() / 255).mean(0).float(), atol=1e-6)
    chosen = replace(folder, size=16, resize=16)
    scored = chosen.scoring_batches(4, seed=0, device="cpu")
    raw = chosen.balanced(4, seed=0)
    pixels = torch.cat([images for images, _ in raw.batches(8)]) * 0.25 + 0.5
    assert torch.allclose(chosen.mean_image(scored), pixels.mean(0), atol=1e-6)
    assert float(chosen.mean_image(scored).min()) >= 0


def test_scoring_batches_are_balanced_and_at_most_a_thousand_images() -> None:
    split = ImageSet(torch.zeros(2400, 1, 1, 1, dtype=torch.uint8), torch.arange(2400) % 2, (0.5,), (0.5,))
    found = split.scoring_batches(1100, seed=0, device="cpu")
    assert [len(labels) for _, labels in found] == [1000, 1000, 200]
    assert torch.bincount(torch.cat([labels for _, labels in found])).tolist() == [1100, 1100]
