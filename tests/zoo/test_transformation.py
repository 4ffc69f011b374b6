"""Rotated and sheared images: every pixel by hand, and the task they make from end to end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

import foreprune
from foreprune.training.evaluate import evaluate
from foreprune.training.fit import fit
from foreprune.training.recipes import RECIPES, Recipe, default_recipe
from foreprune.zoo.augment import RandomShift
from foreprune.zoo.datasets import DataSet, load
from foreprune.zoo.images import ImageSet
from foreprune.zoo.models import create
from foreprune.zoo.transformation import (
    TransformedImages,
    angles,
    rotate_and_shear,
    shears,
    transformed_by_class,
)

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(2, 2, 9, 9, generator=GENERATOR, dtype=torch.float64)


def where_it_goes(degrees: float, shear: float) -> NDArray[np.float64]:
    """Columns are where one step right and one step up end: first the rotation, then the shear."""
    turn = math.radians(degrees)
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return np.array([[1.0, shear], [0.0, 1.0]]) @ rotation


def pixel_by_pixel(image: NDArray[np.float64], degrees: float, shear: float) -> NDArray[np.float64]:
    height, width = image.shape
    middle_row, middle_column = (height - 1) / 2, (width - 1) / 2
    back = np.linalg.inv(where_it_goes(degrees, shear))
    result = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            x, y = back @ (column - middle_column, middle_row - row)
            from_row, from_column = middle_row - y, middle_column + x
            for r in range(height):
                for c in range(width):
                    near = max(0.0, 1 - abs(from_row - r)) * max(0.0, 1 - abs(from_column - c))
                    result[row, column] += near * image[r, c]
    return result


@pytest.mark.parametrize(
    ("degrees", "shear"), [(30, 0.0), (0, 0.4), (60, -0.6), (210, 0.2), (270, 0.6), (-45, 0.3), (30.0, -0.4667)]
)
@pytest.mark.parametrize("size", [(9, 9), (8, 8), (5, 9), (8, 6)])
def test_every_pixel_by_hand(degrees: float, shear: float, size: tuple[int, int]) -> None:
    images = IMAGES[..., : size[0], : size[1]]
    moved = rotate_and_shear(images, degrees=degrees, shear=shear)
    assert moved.dtype == torch.float64
    for before, after in zip(images.flatten(0, 1).numpy(), moved.flatten(0, 1).numpy(), strict=True):
        np.testing.assert_allclose(after, pixel_by_pixel(before, degrees, shear), rtol=0, atol=1e-13)


def test_nothing_to_do_changes_nothing() -> None:
    torch.testing.assert_close(rotate_and_shear(IMAGES, degrees=0, shear=0), IMAGES, rtol=0, atol=1e-14)


@pytest.mark.parametrize("turns", [-1, 1, 2, 3, 4])
def test_right_angles_are_those_of_torch(turns: int) -> None:
    for images in (IMAGES, IMAGES[..., :8, :8]):
        moved = rotate_and_shear(images, degrees=90 * turns, shear=0)
        torch.testing.assert_close(moved, images.rot90(turns, (2, 3)), rtol=0, atol=1e-13)


@pytest.mark.parametrize("degrees", [0, 30, 120])
@pytest.mark.parametrize("shear", [-0.6, 0.0, 0.5])
def test_a_spot_goes_where_it_should(degrees: float, shear: float) -> None:
    image = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    image[0, 0, 20 - 6, 20 + 3] = 1  # six above the center and three right of it
    moved = rotate_and_shear(image, degrees=degrees, shear=shear)[0, 0]
    spread = torch.arange(41, dtype=torch.float64) - 20
    x, y = float(moved.sum(0) @ spread / moved.sum()), -float(moved.sum(1) @ spread / moved.sum())
    assert (x, y) == pytest.approx(tuple(where_it_goes(degrees, shear) @ (3, 6)), abs=0.5)


def test_an_upright_stroke_leans_to_the_right() -> None:
    image = torch.zeros(1, 1, 5, 5)
    image[..., 2] = 1
    leaning = rotate_and_shear(image, degrees=0, shear=1.0)
    assert leaning[0, 0].tolist() == torch.eye(5).flip(1).tolist()
    assert leaning.dtype == torch.float32


def test_what_leaves_the_frame_is_gone_and_what_comes_is_black() -> None:
    white = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    moved = rotate_and_shear(white, degrees=45, shear=0)[0, 0]
    assert moved[0, 0] == moved[7, 7] == 0
    assert moved[3:5, 3:5].tolist() == [[1, 1], [1, 1]]
    assert float(moved.max()) <= 1 + 1e-15
    assert float(moved.min()) >= 0


def test_bad_images() -> None:
    with pytest.raises(TypeError, match=r"floating-point pixels, not torch\.uint8; write images\.double\(\)"):
        rotate_and_shear(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), degrees=0, shear=0)
    with pytest.raises(ValueError, match=r"images must be \(N, C, H, W\), not \(4, 4\)"):
        rotate_and_shear(torch.zeros(4, 4), degrees=0, shear=0)


def test_the_amounts_of_ten_classes() -> None:
    assert angles(10) == (0, 30, 60, 90, 120, 150, 180, 210, 240, 270)
    steps = shears(10)
    assert (steps[0], steps[9], shears(1)) == (-0.6, 0.6, (0.0,))
    assert all(after - before == pytest.approx(1.2 / 9) for before, after in pairwise(steps))


# --- a split


def labeled(count: int = 30) -> ImageSet:
    pixels = torch.randint(0, 256, (count, 1, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(count) % 10, (0.3,), (0.2,))


def rounded(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """To whole gray levels, halves up; a trace below a half is a half that was computed in another order."""
    return np.floor(levels.round(9) + 0.5)


def expected(split: ImageSet, index: int) -> Tensor:
    """The target of one image, in gray levels, by hand."""
    label = int(split.labels[index])
    moved = pixel_by_pixel(split.images[index, 0].double().numpy(), 30 * label, -0.6 + 1.2 * label / 9)
    return torch.from_numpy(rounded(moved)).flatten()


def test_targets_are_the_images_moved_as_their_class_says() -> None:
    split = labeled()
    moved = transformed_by_class(split)
    assert moved.targets.shape == (30, 64)
    for index in range(30):
        assert moved.targets[index].tolist() == expected(split, index).tolist()
    assert torch.equal(moved.images, split.images)
    assert torch.equal(moved.labels, split.labels)
    assert (moved.mean, moved.std, moved.classes, len(moved)) == (split.mean, split.std, 10, 30)


def test_batches_keep_images_and_targets_together() -> None:
    split = transformed_by_class(labeled())
    rows = {tuple(image.flatten().tolist()): target for image, target in zip(split.images, split.targets, strict=True)}
    seen = []
    for x, y in split.batches(8, seed=3, epoch=1):
        assert (x.dtype, y.dtype, y.shape) == (torch.float32, torch.float32, (len(x), 64))
        pixels = (x * 0.2 + 0.3).mul(255).round().to(torch.uint8)
        for image, target in zip(pixels, y, strict=True):
            key = tuple(image.flatten().tolist())
            assert torch.equal(target, rows[key].float() / 255)
            seen.append(key)
    assert sorted(seen) == sorted(rows)
    assert seen != list(rows)
    (first, _), *_ = split.batches(8, seed=3, epoch=1)
    (other, _), *_ = split.batches(8, seed=3, epoch=1, augment=True)
    assert torch.equal(first, other)


def test_parts_of_a_split() -> None:
    split = transformed_by_class(labeled())
    taken = split.take([4, 0, 4])
    assert isinstance(taken, TransformedImages)
    assert torch.equal(taken.targets, split.targets[[4, 0, 4]])
    assert torch.equal(taken.images, split.images[[4, 0, 4]])
    part = split.subset(7, seed=2)
    plain = labeled().subset(7, seed=2)
    assert torch.equal(part.images, plain.images)
    assert [row.tolist() for row in part.targets] == [expected(plain, index).tolist() for index in range(7)]


def test_scoring_batches_are_balanced_over_the_digits() -> None:
    split = transformed_by_class(labeled())
    x, y = split.per_class(2, seed=0)
    plain, labels = labeled().per_class(2, seed=0)
    assert torch.equal(x, plain)  # the same images as for classification
    assert torch.bincount(labels).tolist() == [2] * 10
    chosen = split.balanced(2, seed=0)
    assert torch.bincount(chosen.labels).tolist() == [2] * 10
    assert torch.equal(y, chosen.targets / 255)
    with pytest.raises(ValueError, match="4 images of each class were asked for, and class 0 has 3"):
        split.per_class(4, seed=0)


def test_targets_that_do_not_fit() -> None:
    split = labeled()
    good = {"mean": (0.3,), "std": (0.2,), "images": split.images, "labels": split.labels}
    with pytest.raises(TypeError, match=r"targets must be uint8 pixels from 0 to 255, not torch\.float32"):
        TransformedImages(**good, targets=torch.zeros(30, 64))
    for shape in ((29, 64), (30,), (30, 8, 8)):
        with pytest.raises(ValueError, match=r"30 images need targets of shape \(30, outputs\), not \("):
            TransformedImages(**good, targets=torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"augmentation must be \(\), not \(RandomShift.*the images as they are"):
        replace(transformed_by_class(split), augmentation=(RandomShift(2),))
    augmented = replace(split, augmentation=(RandomShift(2),))
    assert transformed_by_class(augmented).augmentation == ()


# --- the data sets


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits-transformation")


def test_digits_transformation(digits: DataSet) -> None:
    plain = load("digits")
    assert (digits.name, digits.loss, digits.classes, digits.shape, digits.note) == (
        "digits-transformation",
        "squared-error",
        64,
        (1, 8, 8),
        "",
    )
    assert plain.loss == "cross-entropy"
    for split, before in ((digits.train, plain.train), (digits.test, plain.test)):
        assert isinstance(split, TransformedImages)
        assert isinstance(before, ImageSet)
        assert torch.equal(split.images, before.images)
        for index in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, len(split) - 1):
            assert split.targets[index].tolist() == expected(before, index).tolist()


def test_too_few_images_of_a_class(tmp_path: Path) -> None:
    for part in ("train", "t10k"):
        sizes = b"".join(n.to_bytes(4, "big") for n in (20, 28, 28))
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + sizes + bytes(20 * 784))
        numbers = b"\0\0\x08\x01" + (20).to_bytes(4, "big") + bytes(i % 10 for i in range(20))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(numbers)
    with pytest.raises(ValueError, match=r"mnist-transformation trains on 1000 images of each class: .* class 0 has 2"):
        load("mnist-transformation", data_dir=tmp_path)


def test_real_mnist_transformation(real_data: Callable[[str], Path]) -> None:
    folder = real_data("mnist")
    start = time.perf_counter()
    data = load("mnist-transformation", data_dir=folder)
    assert time.perf_counter() - start < 5  # half a second alone on one core
    plain = load("mnist", data_dir=folder)
    assert (data.classes, data.shape, data.loss) == (784, (1, 28, 28), "squared-error")
    assert isinstance(data.train, TransformedImages)
    assert isinstance(data.test, TransformedImages)
    assert isinstance(plain.train, ImageSet)
    assert isinstance(plain.test, ImageSet)
    assert torch.bincount(data.train.labels).tolist() == [1000] * 10
    assert (data.train.mean, data.train.std) == ((0.1307,), (0.3081,))
    assert torch.equal(data.test.images, plain.test.images)
    once = {row.tobytes() for row in data.train.images.numpy()}
    assert len(once) == len(data.train)  # no image twice (MNIST itself has none in here)
    assert once <= {row.tobytes() for row in plain.train.images.numpy()}
    label = int(data.test.labels[1])
    by_hand = rotate_and_shear(data.test.images[1:2].double(), degrees=30 * label, shear=-0.6 + 1.2 * label / 9)
    assert data.test.targets[1].tolist() == rounded(by_hand.numpy()).flatten().tolist()
    again = load("mnist-transformation", data_dir=folder)
    assert isinstance(again.train, TransformedImages)
    assert torch.equal(again.train.images, data.train.images)
    x, y = data.train.per_class(10, seed=0)
    assert (x.shape, y.shape, y.dtype) == ((100, 1, 28, 28), (100, 784), torch.float32)
    assert (float(y.min()), float(y.max())) == (0.0, 1.0)


# --- the task


@pytest.mark.parametrize(
    "method", ["random", "magnitude", "snip", "grasp", "synflow", "synflow-l2", "phew", "ntk-sap", "px"]
)
def test_methods_prune_for_the_squared_error(digits: DataSet, method: str) -> None:
    model = create("mlp-bn-20", input_shape=digits.shape, classes=digits.classes)
    batches = [digits.train.per_class(3, seed=0)]
    hyper = {"rounds": 3} if method in ("synflow", "synflow-l2", "ntk-sap") else {}
    masks = foreprune.prune(model, method, density=0.3, inputs=batches[0][0][:1], data=batches, loss=mse_loss, **hyper)
    assert masks.total == 64 * 20 + 5 * 20 * 20 + 20 * 64 == 4560
    most = 1368 + 6 if method == "phew" else 1368  # a last walk may bring in one path, seven weights, less one
    assert 1368 <= masks.kept <= most


@pytest.mark.parametrize(("method", "temperature"), [("snip", 1.0), ("grasp", 1.0), ("grasp", 200.0)])
def test_scores_are_those_of_the_squared_error(digits: DataSet, method: str, temperature: float) -> None:
    """By plain autograd in float64. Torch takes the same targets for a cross-entropy, which ranks otherwise;
    the default loss does not."""
    model = create("mlp-bn-20", input_shape=digits.shape, classes=64).double().eval()
    x, y = (part.double() for part in digits.train.per_class(3, seed=0))
    hyper = {"batchnorm": "eval"} | ({"temperature": temperature} if method == "grasp" else {})
    found = foreprune.score(model, method, data=[(x, y)], loss=mse_loss, **hyper)
    other = foreprune.score(model, method, data=[(x, y)], loss=cross_entropy, **hyper)
    with pytest.raises(ValueError, match=r"pass loss=, .*mse_loss for regression"):
        foreprune.score(model, method, data=[(x, y)], **hyper)
    weights = {name: value for name, value in model.named_parameters() if name in found}
    loss = (model(x) / temperature - y).square().sum() / (len(x) * 64)
    gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    if method == "grasp":
        product = torch.autograd.grad(sum(g.square().sum() for g in gradients) / 2, list(weights.values()))
        by_hand = {name: (w * h).detach() for (name, w), h in zip(weights.items(), product, strict=True)}
    else:
        by_hand = {name: (w * g).abs().detach() for (name, w), g in zip(weights.items(), gradients, strict=True)}
    for name, scores in found.items():
        torch.testing.assert_close(scores, by_hand[name], rtol=1e-9, atol=1e-12 * float(scores.abs().max()))
    kept, wrongly = (
        torch.cat([part.flatten() for part in scores.values()]).topk(1000).indices for scores in (found, other)
    )
    assert len(set(kept.tolist()) & set(wrongly.tolist())) < 950


@pytest.mark.parametrize("method", ["random", "synflow", "phew"])
def test_paths_are_counted_as_products_of_mask_matrices(digits: DataSet, method: str) -> None:
    model = create("mlp-bn-20", input_shape=digits.shape, classes=digits.classes)
    inputs = torch.zeros(1, *digits.shape)
    hyper = {"rounds": 3} if method == "synflow" else {}
    masks = foreprune.prune(model, method, density=0.1, inputs=inputs, **hyper)
    names = [*(f"fc{layer}.weight" for layer in range(1, 7)), "classifier.weight"]
    assert list(masks) == names
    flow = torch.ones(64, dtype=torch.float64)
    for name in names:
        flow = masks[name].double() @ flow
    count = int(flow.sum())  # far below 2**53, so every step was exact
    assert 0 < count < 2**50
    found = foreprune.analyze(model, masks, inputs=inputs)
    assert found.paths == count
    assert found.log10_paths == pytest.approx(math.log10(count), rel=1e-12)


def test_the_recipes() -> None:
    for width in (100, 200, 300, 400):
        assert default_recipe("mnist-transformation", f"mlp-bn-{width}") is RECIPES["patil-transformation"]
    assert default_recipe("mnist-transformation", "fc-100") is RECIPES["patil-transformation"]
    assert default_recipe("digits-transformation", "mlp-bn-100") is RECIPES["digits"]


def test_the_mean_squared_error_of_the_whole_test_set(digits: DataSet) -> None:
    model = create("mlp-bn-20", input_shape=digits.shape, classes=digits.classes)
    found = evaluate(model, digits.test, loss=mse_loss, batch_size=100)  # 355 images: the last batch is smaller
    assert isinstance(digits.test, TransformedImages)
    slow = model.double().eval()
    total = 0.0
    with torch.no_grad():
        for image, target in zip(digits.test.images, digits.test.targets, strict=True):
            x = (image.double() / 255 - digits.test.mean[0]) / digits.test.std[0]
            total += float((slow(x[None])[0] - target.double() / 255).square().mean())
    assert found.loss == pytest.approx(total / 355, rel=1e-5)
    assert (found.top1, found.top5) == (None, None)


def test_the_task_is_learned(digits: DataSet) -> None:
    """Better than knowing the class and giving its mean target, which no network without the image could beat."""
    assert isinstance(digits.train, TransformedImages)
    assert isinstance(digits.test, TransformedImages)
    means = torch.stack([digits.train.targets[digits.train.labels == label].double().mean(0) for label in range(10)])
    known = float((digits.test.targets.double() - means[digits.test.labels]).div(255).square().mean())
    model = create("mlp-bn-200-2", input_shape=digits.shape, classes=digits.classes)
    masks = foreprune.prune(model, "phew", density=0.5, inputs=torch.zeros(1, *digits.shape))
    history = fit(
        model,
        digits.train,
        digits.test,
        recipe=Recipe(epochs=10, batch_size=32, optimizer="adam", lr=0.01, schedule="cosine", augment=False),
        masks=masks,
        loss=mse_loss,
    )
    assert history.top1 is None
    reached = history.curve[-1].test_loss
    assert reached is not None
    assert reached < 0.8 * known
