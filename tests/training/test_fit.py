"""Training: the loop against a plain one, seeds, masks, precision, divergence, and accuracy on real images."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from foreprune.training.fit import fit
from foreprune.training.history import Epoch, History, TrainingDiverged
from foreprune.training.optimizers import learning_rate, make_optimizer
from foreprune.training.recipes import RECIPES, Recipe

INPUTS = torch.randn(48, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(0, 7, (48,), generator=torch.Generator().manual_seed(1))
BATCHES = list(zip(INPUTS.split(20), LABELS.split(20), strict=True))  # 20, 20, 8
SHORT = Recipe(epochs=3, lr=0.1, momentum=0.9, weight_decay=1e-3)


class Images:
    """A small stand-in for an image set; remembers how it was asked."""

    def __init__(self, inputs: Tensor = INPUTS, labels: Tensor = LABELS) -> None:
        self.inputs, self.labels = inputs, labels
        self.asked: list[dict[str, object]] = []

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, batch_size: int, *, seed: int | None, epoch: int, augment: bool, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        self.asked.append({"batch_size": batch_size, "seed": seed, "epoch": epoch, "augment": augment})
        order = torch.arange(len(self))
        if seed is not None:
            order = torch.randperm(len(self), generator=torch.Generator().manual_seed(1000 * seed + epoch))
        for index in order.split(batch_size):
            yield self.inputs[index].to(device), self.labels[index].to(device)


def network(*, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 7))


def same(first: nn.Module, second: nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[key]) for key, value in first.state_dict().items())


def test_the_loop_does_what_a_plain_loop_does() -> None:
    recipe = Recipe(
        epochs=3, lr=0.1, momentum=0.9, weight_decay=1e-3, schedule="cosine", warmup_epochs=1.0, label_smoothing=0.1
    )
    ours, plain = network(), network()
    history = fit(ours, BATCHES, recipe=recipe)

    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3, fused=True)
    for epoch in range(3):
        total, correct = 0.0, 0
        for index, (inputs, labels) in enumerate(BATCHES):
            optimizer.param_groups[0]["lr"] = learning_rate(recipe, 3 * epoch + index, 3)
            optimizer.zero_grad()
            output = plain(inputs)
            loss = nn.functional.cross_entropy(output, labels, label_smoothing=0.1)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(labels)
            correct += int((output.argmax(1) == labels).sum())
        point = history.curve[epoch]
        assert point.epoch == epoch + 1
        assert point.lr == learning_rate(recipe, 3 * epoch + 2, 3)
        assert point.train_loss == pytest.approx(total / 48, rel=1e-6)
        assert point.train_top1 == correct / 48
        assert (point.test_loss, point.test_top1, point.test_top5) == (None, None, None)
        assert point.seconds > 0
    assert same(ours, plain)
    assert history.top1 is None
    assert history.top5 is None
    assert history.seconds == pytest.approx(sum(point.seconds for point in history.curve))


def test_an_image_set_is_asked_for_what_the_recipe_says() -> None:
    train, test = Images(), Images()
    recipe = Recipe(epochs=2, batch_size=20, augment=True)
    history = fit(network(), train, test, recipe=recipe, seed=5)
    assert train.asked == [{"batch_size": 20, "seed": 5, "epoch": epoch, "augment": True} for epoch in (0, 1)]
    assert [(asked["seed"], asked["augment"]) for asked in test.asked] == [(None, False)] * 2
    assert history.top1 == history.curve[-1].test_top1 is not None
    assert history.top5 == history.curve[-1].test_top5 is not None


def test_test_data_are_looked_at_every_so_often_and_in_the_end() -> None:
    history = fit(network(), BATCHES, BATCHES, recipe=Recipe(epochs=5, lr=0.01), evaluate_every=2)
    assert [point.test_top1 is not None for point in history.curve] == [False, True, False, True, True]


def test_one_batch_will_do() -> None:
    curves = [
        fit(network(), data, data, recipe=SHORT).curve
        for data in ((INPUTS, LABELS), [INPUTS, LABELS], [(INPUTS, LABELS)])
    ]
    first, *others = ([replace(point, seconds=0) for point in curve] for curve in curves)
    assert len(first) == 3
    assert all(other == first for other in others)


def test_the_result_is_the_last_epoch_not_the_best() -> None:
    curve = tuple(
        Epoch(epoch=n, lr=0.1, train_loss=1.0, train_top1=0.5, test_loss=1.0, test_top1=top1, test_top5=0.9, seconds=1)
        for n, top1 in ((1, 0.8), (2, 0.6))
    )
    assert History(curve=curve).top1 == 0.6
    assert History(curve=curve).seconds == 2
    assert History().top1 is None
    assert History.from_json(History(curve).to_json(indent=2)) == History(curve)
    with pytest.raises(TypeError, match="unexpected keyword argument 'top1'"):
        History.from_json(History(curve).to_json().replace("test_top1", "top1"))


def test_the_seed_decides_and_nothing_else_does() -> None:
    recipe = Recipe(epochs=2, lr=0.05)
    loader = DataLoader(TensorDataset(INPUTS, LABELS), batch_size=16, shuffle=True)
    runs = []
    for seed in (0, 0, 1):
        model = network(dropout=0.5)
        torch.manual_seed(len(runs))  # the global state before must not matter
        fit(model, loader, recipe=recipe, seed=seed)
        runs.append(model)
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_every_epoch_has_its_own_randomness() -> None:
    orders: list[Tensor] = []
    model = network()
    model[0].register_forward_hook(lambda _module, inputs, _output: orders.append(inputs[0][:, 0].clone()))
    fit(model, DataLoader(TensorDataset(INPUTS, LABELS), batch_size=48, shuffle=True), recipe=SHORT)
    assert len({tuple(order.tolist()) for order in orders}) == len(orders) == 3


def test_looking_at_test_data_changes_nothing() -> None:
    noisy = DataLoader(TensorDataset(INPUTS, LABELS), batch_size=16, shuffle=True)
    ours, other = network(dropout=0.5), network(dropout=0.5)
    fit(ours, BATCHES, noisy, recipe=SHORT)
    fit(other, BATCHES, recipe=SHORT, on_epoch=lambda _: torch.rand(3))
    assert same(ours, other)


def test_global_random_state_modes_and_gradients_are_left_alone() -> None:
    model = network(dropout=0.5)
    model[1].eval()
    modes = [module.training for module in model.modules()]
    torch.manual_seed(3)
    before = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002
    shuffled = DataLoader(TensorDataset(INPUTS, LABELS), batch_size=16, shuffle=True)
    fit(model, shuffled, shuffled, recipe=SHORT)
    after = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_error_in_a_callback_restores_modes_and_removes_the_mask() -> None:
    model = network().eval()
    masks = {"0.weight": torch.rand(16, 5, generator=torch.Generator().manual_seed(0)) < 0.5}

    def stop(_: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, BATCHES, recipe=SHORT, masks=masks, on_epoch=stop)
    assert not any(module.training for module in model.modules())
    assert not model[0].weight._post_accumulate_grad_hooks
    assert int((model[0].weight[~masks["0.weight"]] != 0).sum()) == 0


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "nadam", "rmsprop"])
def test_masked_weights_stay_zero_and_hooks_go(optimizer: str) -> None:
    recipe = Recipe(epochs=70, optimizer=optimizer, lr=0.01, weight_decay=1e-2)
    model = network()
    generator = torch.Generator().manual_seed(0)
    masks = {
        name: torch.rand(model.get_parameter(name).shape, generator=generator) < 0.3
        for name in ("0.weight", "4.weight")
    }
    fit(model, BATCHES, recipe=recipe, masks=masks)  # 210 steps
    for name, mask in masks.items():
        weight = model.get_parameter(name).detach()
        assert int((weight[~mask] != 0).sum()) == 0
        assert int((weight[mask] != 0).sum()) == int(mask.sum())
        assert not model.get_parameter(name)._post_accumulate_grad_hooks


def test_masks_count_even_without_epochs() -> None:
    model = network()
    history = fit(model, BATCHES, recipe=Recipe(epochs=0), masks={"0.weight": torch.zeros(16, 5, dtype=torch.bool)})
    assert history == History()
    assert int((model[0].weight != 0).sum()) == 0


def test_inputs_by_keyword_and_outputs_with_logits() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 7)

        def forward(self, *, first: Tensor, second: Tensor) -> dict[str, Tensor]:
            return {"logits": self.layer(first + second)}

    pairs = [({"first": x, "second": x}, y) for x, y in BATCHES]
    mappings = [{"first": x, "second": x, "labels": y} for x, y in BATCHES]
    curves = []
    for data in (pairs, mappings):
        torch.manual_seed(0)
        curves.append(fit(Model(), data, data, recipe=SHORT).curve)
    strip = [[replace(point, seconds=0) for point in curve] for curve in curves]
    assert strip[0] == strip[1]
    assert curves[0][-1].test_top1 is not None


def test_a_loss_of_ones_own() -> None:
    targets = [(x, x.sum(1, keepdim=True)) for x, _ in BATCHES]
    model = nn.Linear(5, 1)
    history = fit(model, targets, targets, recipe=Recipe(epochs=30, lr=0.1), loss=nn.functional.mse_loss)
    assert history.curve[-1].test_loss < 1e-3
    assert history.top1 is None
    assert history.curve[-1].train_top1 is None
    with pytest.raises(ValueError, match=r"loss must return one number .* got \(20, 1\); use reduction='mean'"):
        fit(model, targets, loss=nn.MSELoss(reduction="none"))
    with pytest.raises(ValueError, match=r"label_smoothing=0.1 belongs to the default cross-entropy"):
        fit(model, targets, recipe=Recipe(label_smoothing=0.1), loss=nn.functional.mse_loss)


def test_batches_that_cannot_be_counted() -> None:
    class Stream(IterableDataset[tuple[Tensor, Tensor]]):
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            yield from zip(INPUTS, LABELS, strict=True)

    loader = DataLoader(Stream(), batch_size=20)
    for recipe in (SHORT, replace(SHORT, schedule="cosine")):
        counted, uncounted = network(), network()
        fit(counted, BATCHES, recipe=recipe)
        history = fit(uncounted, loader, recipe=recipe)
        assert same(counted, uncounted)
        assert history.curve[-1].lr == learning_rate(recipe, 8, 3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precisions_on_a_cpu(precision: str) -> None:
    model = network()
    recipe = Recipe(epochs=30, lr=0.1, momentum=0.9, precision=precision)
    seen: list[torch.dtype] = []
    model[4].register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    history = fit(model, BATCHES, BATCHES, recipe=recipe, evaluate_every=100)
    assert set(seen) == {getattr(torch, precision)}
    assert model[0].weight.dtype == torch.float32
    assert history.curve[-1].train_loss < 0.7 * history.curve[0].train_loss


def test_float16_needs_cuda() -> None:
    with pytest.raises(ValueError, match=r"precision='float16' needs a CUDA device.*write precision='bfloat16'"):
        fit(network(), BATCHES, recipe=Recipe(precision="float16"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_named() -> None:
    with pytest.raises(ValueError, match=r"device='cuda', but there is no CUDA device here; write device='cpu'"):
        fit(network(), BATCHES, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_training_on_cuda(precision: str) -> None:
    model = network()
    masks = {"0.weight": torch.rand(16, 5, generator=torch.Generator().manual_seed(0)) < 0.5}
    recipe = Recipe(epochs=40, lr=0.1, momentum=0.9, precision=precision)
    before = torch.cuda.get_rng_state()
    history = fit(model, Images(), Images(), recipe=recipe, masks=masks, device="cuda")
    assert torch.equal(before, torch.cuda.get_rng_state())
    assert model[0].weight.device.type == "cuda"
    assert int((model[0].weight.cpu()[~masks["0.weight"]] != 0).sum()) == 0
    assert history.curve[-1].train_loss < 0.7 * history.curve[0].train_loss


def test_divergence_is_an_error_that_keeps_the_curve() -> None:
    class Rising(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 7)
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.layer(x) * (float("nan") if self.calls > 7 else 1.0)  # in the third epoch

    with pytest.raises(
        TrainingDiverged, match=r"diverged in epoch 3: the training loss is nan; lower recipe.lr"
    ) as error:
        fit(Rising(), BATCHES, recipe=Recipe(epochs=9, lr=0.01))
    assert isinstance(error.value, ValueError)
    assert error.value.epoch == 3
    assert [point.epoch for point in error.value.curve] == [1, 2]


def test_a_test_loss_that_is_not_finite_is_divergence_too() -> None:
    broken = [(INPUTS * float("inf"), LABELS)]
    with pytest.raises(TrainingDiverged, match=r"epoch 1: the test loss is nan") as error:
        fit(network(), BATCHES, broken, recipe=SHORT)
    copied = pickle.loads(pickle.dumps(error.value))
    assert (copied.epoch, copied.curve, str(copied)) == (1, (), str(error.value))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"train": iter(BATCHES)}, TypeError, r"train is an iterator, which is used up after one pass; .* DataLoader"),
        (
            {"train": INPUTS},
            TypeError,
            r"train must be a batch \(input, target\), an iterable of batches or an image set, not Ten",
        ),
        ({"train": 3}, TypeError, r"train must be a batch .* not int"),
        ({"test": iter(BATCHES)}, TypeError, r"test is an iterator"),
        ({"train": [(INPUTS, LABELS, LABELS)]}, TypeError, r"each batch must be a pair \(input, target\)"),
        ({"train": []}, ValueError, r"train holds no samples; give at least one batch"),
        ({"recipe": "digits"}, TypeError, r"recipe must be a Recipe, not str; .*recipe\('digits'\)"),
        ({"evaluate_every": 0}, ValueError, r"evaluate_every counts epochs and must be 1 or more, not 0"),
        ({"checkpoint_every": -1}, ValueError, r"checkpoint_every counts epochs"),
        ({"model": "resnet"}, TypeError, r"model must be a torch.nn.Module, not str"),
        ({"masks": {"9.weight": torch.ones(2, dtype=torch.bool)}}, ValueError, r"masks belong to another model"),
    ],
)
def test_errors_say_what_to_write(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    settings = {"model": network(), "train": BATCHES, "test": None, **arguments}
    model, train, test = (settings.pop(name) for name in ("model", "train", "test"))
    with pytest.raises(error, match=message):
        fit(model, train, test, **settings)  # type: ignore[arg-type]


def test_a_model_without_anything_to_train() -> None:
    model = network().requires_grad_(False)
    with pytest.raises(ValueError, match=r"no parameter with requires_grad=True"):
        fit(model, BATCHES)


def test_frozen_parameters_are_not_trained() -> None:
    model = network()
    model[0].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    assert sum(len(group["params"]) for group in make_optimizer(model, SHORT).param_groups) == 4
    fit(model, BATCHES, recipe=SHORT)
    assert torch.equal(model[0].weight, before["0.weight"])
    assert not torch.equal(model[4].weight, before["4.weight"])


def digits() -> tuple[Images, Images]:
    sklearn = pytest.importorskip("sklearn.datasets")
    images, labels = sklearn.load_digits(return_X_y=True)
    pixels = torch.tensor(images, dtype=torch.float32) / 16 - 0.3
    classes = torch.tensor(labels)
    return Images(pixels[360:], classes[360:]), Images(pixels[:360], classes[:360])


@pytest.mark.parametrize(("density", "accuracy"), [(1.0, 0.95), (0.1, 0.92)])
def test_digits_are_learned(density: float, accuracy: float) -> None:
    train, test = digits()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
    generator = torch.Generator().manual_seed(0)
    masks = {
        name: torch.rand(model.get_parameter(name).shape, generator=generator) < density
        for name in ("0.weight", "2.weight")
    }
    recipe = replace(RECIPES["digits"], epochs=30)
    history = fit(model, train, test, recipe=recipe, masks=masks, evaluate_every=100)
    assert history.top1 > accuracy
    assert history.top5 > 0.99
