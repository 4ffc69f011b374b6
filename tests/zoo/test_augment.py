from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from foreprune.zoo.augment import Augmentation, RandomHorizontalFlip, RandomResizedCrop, RandomShift

ALL: tuple[Augmentation, ...] = (RandomHorizontalFlip(), RandomShift(3), RandomResizedCrop())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 16, height: int = 12, width: int = 10) -> Tensor:
    return torch.randint(1, 256, (count, 3, height, width), generator=seeded(99), dtype=torch.uint8)


@pytest.mark.parametrize("augmentation", ALL)
def test_deterministic_under_the_generator_and_nothing_else(augmentation: Augmentation) -> None:
    x = images()
    kept, state = x.clone(), torch.random.get_rng_state()
    first, second, third = (augmentation(x, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert torch.equal(x, kept)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("augmentation", ALL)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_shape_and_dtype_stay(augmentation: Augmentation, dtype: torch.dtype) -> None:
    x = images().to(dtype)
    y = augmentation(x, seeded())
    assert y.shape == x.shape
    assert y.dtype == dtype


def test_flip_against_a_loop() -> None:
    x = images()
    y = RandomHorizontalFlip(0.5)(x, seeded(4))
    flips = (torch.rand(16, generator=seeded(4)) < 0.5).tolist()
    assert 0 < sum(flips) < 16
    for image, result, flip in zip(x, y, flips, strict=True):
        expected = (
            torch.stack([image[:, :, image.shape[2] - 1 - c] for c in range(image.shape[2])], 2) if flip else image
        )
        assert torch.equal(result, expected)
    assert torch.equal(RandomHorizontalFlip(0.0)(x, seeded()), x)
    assert torch.equal(RandomHorizontalFlip(1.0)(x, seeded()), x.flip(3))


def slow_shift(image: Tensor, down: int, right: int) -> Tensor:
    result = torch.zeros_like(image)
    _, height, width = image.shape
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                result[:, row, column] = image[:, row - down, column - right]
    return result


def test_shift_against_a_loop() -> None:
    x = images(height=7, width=5)
    y = RandomShift(2)(x, seeded(4))
    rows, columns = torch.randint(5, (2, 16), generator=seeded(4)).tolist()
    for image, result, row, column in zip(x, y, rows, columns, strict=True):
        assert torch.equal(result, slow_shift(image, 2 - row, 2 - column))


def test_shift_reaches_every_place_equally_and_fills_with_black() -> None:
    x = torch.zeros(9000, 1, 3, 3, dtype=torch.uint8)
    x[:, :, 1, 1] = 255
    y = RandomShift(1)(x, seeded())
    hits = (y == 255).sum((0, 1)).flatten()
    assert int(hits.sum()) == 9000
    assert 850 < int(hits.min()) <= int(hits.max()) < 1150
    assert torch.equal(RandomShift(0)(x, seeded()), x)


def boxes_of(count: int, height: int, width: int, seed: int, crop: RandomResizedCrop) -> Tensor:
    draws = torch.rand(count, crop.draws, generator=seeded(seed), dtype=torch.float64)
    return crop.boxes(draws, torch.full((count,), height), torch.full((count,), width))


def test_crop_against_slicing_and_interpolating() -> None:
    x = images(count=32, height=12, width=10).double()
    crop = RandomResizedCrop()
    y = crop(x, seeded(6))
    boxes = boxes_of(32, 12, 10, 6, crop)
    assert len(boxes.unique(dim=0)) > 20
    for image, result, (top, left, height, width) in zip(x, y, boxes.tolist(), strict=True):
        patch = image[None, :, top : top + height, left : left + width]
        expected = F.interpolate(patch, size=(12, 10), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-9)


def test_crop_of_bytes_is_rounded() -> None:
    x = images()
    assert torch.equal(RandomResizedCrop()(x, seeded(6)).float(), RandomResizedCrop()(x.float(), seeded(6)).round())


def test_crop_of_everything_is_the_image() -> None:
    x = images(height=10, width=10)
    assert torch.equal(RandomResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0))(x, seeded()), x)


def slow_box(draws: list[float], height: int, width: int, crop: RandomResizedCrop) -> tuple[int, int, int, int]:
    for attempt in range(10):
        area = (crop.scale[0] + draws[attempt] * (crop.scale[1] - crop.scale[0])) * height * width
        ratio = crop.ratio[0] * (crop.ratio[1] / crop.ratio[0]) ** draws[10 + attempt]
        tall, wide = max(1, round((area / ratio) ** 0.5)), max(1, round((area * ratio) ** 0.5))
        if tall <= height and wide <= width:
            return int(draws[20] * (height - tall + 1)), int(draws[21] * (width - wide + 1)), tall, wide
    tall, wide = min(height, round(width / crop.ratio[0])), min(width, round(height * crop.ratio[1]))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


@pytest.mark.parametrize(("height", "width"), [(64, 64), (375, 500), (40, 10), (10, 40), (1, 1)])
def test_boxes_against_a_loop(height: int, width: int) -> None:
    crop = RandomResizedCrop()
    draws = torch.rand(200, crop.draws, generator=seeded(1), dtype=torch.float64)
    boxes = crop.boxes(draws, torch.full((200,), height), torch.full((200,), width)).tolist()
    assert [tuple(box) for box in boxes] == [slow_box(row, height, width, crop) for row in draws.tolist()]
    for top, left, tall, wide in boxes:
        assert 0 <= top <= top + tall <= height
        assert 0 <= left <= left + wide <= width
        assert tall * wide > 0


def test_boxes_cover_the_papers_range_of_areas_and_ratios() -> None:
    boxes = boxes_of(4000, 1000, 1000, 0, RandomResizedCrop()).double()
    areas, ratios = boxes[:, 2] * boxes[:, 3] / 1e6, boxes[:, 3] / boxes[:, 2]
    assert 0.099 < areas.min() < 0.11
    assert 0.95 < areas.max() <= 1.0
    assert 0.799 < ratios.min() < 0.81
    assert 1.24 < ratios.max() < 1.251


def test_an_image_too_long_for_the_ratio_gives_its_largest_central_patch() -> None:
    boxes = boxes_of(3, 10, 100, 0, RandomResizedCrop(scale=(1.0, 1.0)))
    assert boxes.tolist() == [[0, 44, 10, 12]] * 3
    boxes = boxes_of(3, 100, 10, 0, RandomResizedCrop(scale=(1.0, 1.0)))
    assert boxes.tolist() == [[44, 0, 12, 10]] * 3


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"p is a probability, between 0 and 1, not 1\.5"):
        RandomHorizontalFlip(1.5)
    with pytest.raises(ValueError, match="pixels must be 0 or more, not -1"):
        RandomShift(-1)
    with pytest.raises(ValueError, match=r"ratio must be \(low, high\) with 0 < low <= high, not \(2, 1\)"):
        RandomResizedCrop(ratio=(2, 1))
    with pytest.raises(ValueError, match=r"scale is a fraction of the image's area, at most 1, not 1\.5"):
        RandomResizedCrop(scale=(0.5, 1.5))


def test_augmentations_are_values() -> None:
    assert RandomShift(4) == RandomShift(4) != RandomShift(3)
    assert len({RandomHorizontalFlip(), RandomHorizontalFlip(0.5), RandomResizedCrop()}) == 2
