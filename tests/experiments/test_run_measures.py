"""What a run measures beside accuracy, each against a slow and obvious count; and what it trains by."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import foreprune.procedures.shared.dense as dense_module
import foreprune.procedures.shared.pruning as pruning_module
from foreprune.analysis import path_kernel_trace
from foreprune.api import prune
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.experiments import run_experiment
from foreprune.experiments.run import _outputs, layers_of
from foreprune.procedures.shared import RunContext
from foreprune.records import Epoch, Experiment, run_folder
from foreprune.training.fit import fit
from foreprune.training.recipes import Recipe
from foreprune.zoo.datasets import load_cached
from foreprune.zoo.models import create

SHORT = Recipe(epochs=2, batch_size=256, lr=0.1, momentum=0.9)


def experiment(method: str = "snip", **changes: object) -> Experiment:
    base = {"data": "digits", "model": "fc-16", "method": method, "density": 0.3, "recipe": SHORT}
    return Experiment.model_validate(base | {"density": 1.0} | changes if method == "dense" else base | changes)


def small_conv(*, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, classes),
    )


CONV = f"{__name__}:small_conv"


def test_every_layer_of_a_record_has_its_units() -> None:
    model = nn.Sequential(nn.Linear(5, 5), nn.ConvTranspose2d(4, 8, 3))
    mask = torch.zeros(4, 8, 3, 3, dtype=torch.bool)
    mask[:, :2] = True
    first, second = layers_of(model, Masks({"0.weight": torch.eye(5, dtype=torch.bool), "1.weight": mask}))
    assert (first.units, first.units_alive, first.kept, first.shape) == (5, 5, 5, (5, 5))
    assert first.unit_densities == (0, 0, 0, 0, 5, *[0] * 16)  # one weight of five: 0.2
    assert (second.units, second.units_alive) == (8, 2)
    assert second.unit_densities == (6, *[0] * 19, 2)


def test_every_layer_of_a_fused_tensor_has_a_row() -> None:
    model = nn.MultiheadAttention(4, 2, bias=False)
    mask = torch.ones(12, 4, dtype=torch.bool)
    mask[:4] = False
    mask[1, 2] = True
    mask[8, 1:] = False
    masks = Masks({"in_proj_weight": mask, "out_proj.weight": torch.ones(4, 4).bool()}, blocks=Net.of(model).blocks)
    found = {layer.name: layer for layer in layers_of(model, masks)}
    assert list(found) == [*(f"in_proj_weight[{label}]" for label in "qkv"), "out_proj.weight"]
    counts = [(layer.shape, layer.kept, layer.total, layer.units, layer.units_alive) for layer in found.values()]
    assert counts == [((4, 4), kept, 16, 4, alive) for kept, alive in ((1, 1), (16, 4), (13, 4), (16, 4))]
    assert found["in_proj_weight[q]"].unit_densities == (3, 0, 0, 0, 0, 1, *[0] * 15)
    assert found["in_proj_weight[v]"].unit_densities == (0, 0, 0, 0, 0, 1, *[0] * 14, 3)


@pytest.mark.parametrize("method", ["snip", "dense"])
@pytest.mark.parametrize("model", ["fc-16", CONV])
def test_distances_from_the_first_step_to_the_last(method: str, model: str, tmp_path: Path) -> None:
    record = run_experiment(experiment(method, model=model), out=tmp_path)
    assert record.status == "finished", record.error
    data = load_cached("digits", None)
    masks = Masks.load(run_folder(tmp_path, record.experiment) / "masks.safetensors")
    network = create(model, input_shape=data.shape, classes=10)
    masks.apply_(network)
    if model == CONV:
        network.to(memory_format=torch.channels_last)
    before = {name: network.get_parameter(name).detach().clone() for name in masks}
    images = torch.cat([x for x, _ in data.test.batches(100)])[:1000]

    def outputs() -> Tensor:
        """Batch normalization by hand, of the first 250 images and of the other 105."""
        with torch.no_grad():
            network.eval()
            if model != CONV:
                return network(images)
            parts = []
            for x in images.split(250):
                h = network[0](x)
                mean, var = h.mean((0, 2, 3), keepdim=True), h.var((0, 2, 3), correction=0, keepdim=True)
                scale, shift = (p[:, None, None] for p in (network[1].weight, network[1].bias))
                parts.append(network[2:]((h - mean) / (var + network[1].eps).sqrt() * scale + shift))
            return torch.cat(parts)

    at_first = outputs()
    fit(network.train(), data.train, recipe=SHORT, masks=masks)
    moved = sum(float((network.get_parameter(name).detach() - before[name]).double().square().sum()) for name in masks)
    assert record.analysis["weight_distance"] == pytest.approx(math.sqrt(moved), rel=1e-6)
    changes = [float(torch.linalg.vector_norm(late - early)) for late, early in zip(outputs(), at_first, strict=True)]
    assert len(changes) == len(data.test) == 355
    assert record.analysis["output_distance"] == pytest.approx(sum(changes) / len(changes), rel=1e-5)


def test_outputs_are_compared_without_dropout_and_leave_the_network_as_it_is(tmp_path: Path) -> None:
    data = load_cached("digits", None)
    run = RunContext(experiment(model="mlp-bn-16"), data, data.train, tmp_path, "cpu")
    model = nn.Sequential(run.network(), nn.Dropout(0.5))
    model[0].bn2.eval()
    modes = [part.training for part in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = _outputs(run, model)
    assert torch.equal(found, _outputs(run, model))
    assert found.shape == (355, 10)
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm1d):  # running statistics are not looked at
                part.running_mean.fill_(7)
                part.running_var.fill_(0.01)
    assert torch.equal(found, _outputs(run, model))


@pytest.mark.parametrize(("model", "counted"), [("mlp-bn-16", 250), ("fc-16", 251)])
def test_a_last_image_alone_has_no_statistics(model: str, counted: int, tmp_path: Path) -> None:
    data = load_cached("digits", None)
    run = RunContext(
        experiment(model=model), replace(data, test=data.test.subset(251, seed=0)), data.train, tmp_path, "cpu"
    )
    assert len(_outputs(run, run.network())) == counted


@pytest.mark.parametrize("method", ["dense", "grasp"])
def test_outputs_do_not_hang_on_the_scale_of_what_is_normalized(method: str, tmp_path: Path) -> None:
    """By running statistics of 0 and 1 they would grow with the product of all layers."""
    data = load_cached("digits", None)
    run = RunContext(experiment(model="resnet-8"), data, data.train, tmp_path, "cpu")
    model = run.network()
    if method == "grasp":
        batches = data.train.scoring_batches(per_class=10, seed=0, device="cpu")
        prune(model, method, density=0.3, data=batches).apply_(model)
    found = _outputs(run, model)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.Conv2d):
                part.weight.mul_(100)
    torch.testing.assert_close(_outputs(run, model), found, rtol=1e-2, atol=1e-2)
    assert 0.1 < float(torch.linalg.vector_norm(found, dim=1).mean()) < 30


TRACE = "log10_path_kernel_trace_1"


@pytest.mark.parametrize("model", ["fc-16", CONV])
def test_the_trace_after_the_first_epoch(model: str, tmp_path: Path) -> None:
    """That of the weights which one epoch of the same training ends with."""
    record = run_experiment(experiment(model=model), out=tmp_path)
    data = load_cached("digits", None)
    folder = run_folder(tmp_path, record.experiment)
    masks = Masks.load(folder / "masks.safetensors")
    network = create(model, input_shape=data.shape, classes=10)
    masks.apply_(network)
    if model == CONV:
        network.to(memory_format=torch.channels_last)
    fit(network.train(), data.train, recipe=replace(SHORT, epochs=1), masks=masks)
    expected = path_kernel_trace(network, masks, inputs=torch.zeros(1, *data.shape)).log10
    assert record.analysis[TRACE] == pytest.approx(expected, abs=1e-6)
    assert record.analysis[TRACE] != pytest.approx(record.analysis["log10_path_kernel_trace"], abs=1e-3)
    assert sorted(path.name for path in folder.iterdir()) == ["masks.safetensors", "record.json"]


def test_the_trace_after_the_first_epoch_outlives_an_interruption(tmp_path: Path) -> None:
    whole = run_experiment(experiment(), out=tmp_path / "whole")

    def stop(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiment(experiment(), out=tmp_path / "parts", on_epoch=stop)
    assert run_experiment(experiment(), out=tmp_path / "parts").analysis == whole.analysis


def test_without_an_epoch_or_fixed_masks_there_is_no_such_trace(tmp_path: Path) -> None:
    for run in (experiment(recipe=Recipe(epochs=0)), experiment("gmp", hyper={"every": 2}), experiment("dense")):
        record = run_experiment(run, out=tmp_path)
        assert record.status == "finished", record.error
        assert TRACE not in record.analysis


def test_at_most_a_thousand_images_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = run_experiment(experiment(), out=tmp_path / "a")
    monkeypatch.setattr("foreprune.experiments.run._OUTPUT_IMAGES", 30)
    few = run_experiment(experiment(), out=tmp_path / "b")
    monkeypatch.setattr("foreprune.experiments.run._OUTPUTS_AT_ONCE", 7)
    in_parts = run_experiment(experiment(), out=tmp_path / "c")
    assert usual.analysis["output_distance"] != few.analysis["output_distance"]
    assert in_parts.analysis["output_distance"] == pytest.approx(few.analysis["output_distance"], rel=1e-6)


def test_nothing_moves_without_epochs(tmp_path: Path) -> None:
    record = run_experiment(experiment(recipe=Recipe(epochs=0)), out=tmp_path)
    assert record.status == "finished", record.error
    assert (record.analysis["weight_distance"], record.analysis["output_distance"]) == (0.0, 0.0)


def test_convolutions_are_pruned_as_they_are_and_trained_channels_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []

    def kernel(model: nn.Module) -> bool:
        return model[3].weight.is_contiguous(memory_format=torch.channels_last)

    real_prune, real_fit = pruning_module.prune, dense_module.fit

    def prune_and_look(model: nn.Module, *args: Any, **settings: Any) -> Masks:
        seen.append(("prune", kernel(model)))
        return real_prune(model, *args, **settings)

    def fit_and_look(model: nn.Module, *args: Any, **settings: Any) -> Any:
        seen.append(("fit", kernel(model)))
        return real_fit(model, *args, **settings)

    monkeypatch.setattr(pruning_module, "prune", prune_and_look)
    monkeypatch.setattr(dense_module, "fit", fit_and_look)
    record = run_experiment(experiment("magnitude-after", model=CONV), out=tmp_path)
    assert record.status == "finished", record.error
    assert seen == [("fit", True), ("prune", False), ("fit", True)]


def test_a_convolutional_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    def stop(point: object) -> None:
        raise KeyboardInterrupt

    for method in ("dense", "magnitude-after", "gmp"):
        found = experiment(method, model=CONV)
        whole = run_experiment(found, out=tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            run_experiment(found, out=tmp_path / "cut", on_epoch=stop)
        again = run_experiment(found, out=tmp_path / "cut")
        assert [p.train_loss for p in again.curve] == [p.train_loss for p in whole.curve]
        assert again.analysis == whole.analysis
        assert again.layers == whole.layers


REGRESSION = Recipe(epochs=3, batch_size=128, optimizer="adam", lr=0.01, augment=False)


@pytest.mark.parametrize("method", ["dense", "snip", "grasp", "synflow", "magnitude-after", "gmp"])
def test_regression_is_scored_and_trained_by_the_squared_error(method: str, tmp_path: Path) -> None:
    found = experiment(method, data="digits-transformation", recipe=REGRESSION)
    record = run_experiment(found, out=tmp_path)
    assert record.status == "finished", record.error
    assert (record.top1, record.top5) == (None, None)
    assert record.test_loss == record.curve[-1].test_loss
    assert record.test_loss is not None
    assert record.test_loss < record.curve[0].test_loss
    assert record.kept == (record.total if method == "dense" else round(0.3 * record.total))


def test_the_scores_of_regression_are_those_of_its_loss(tmp_path: Path) -> None:
    found = experiment("snip", data="digits-transformation", recipe=REGRESSION)
    record = run_experiment(found, out=tmp_path)
    data = load_cached("digits-transformation", None)
    assert data.loss == "squared-error"
    network = create("fc-16", input_shape=data.shape, classes=data.classes)
    batches = data.train.scoring_batches(per_class=10, seed=0, device="cpu")
    masks = prune(network, "snip", density=0.3, data=batches, loss=F.mse_loss)
    assert Masks.load(run_folder(tmp_path, found) / "masks.safetensors") == masks
    history = fit(network, data.train, data.test, recipe=REGRESSION, masks=masks, loss=F.mse_loss)
    assert [p.test_loss for p in history.curve] == [p.test_loss for p in record.curve]
    with torch.no_grad():
        images, targets = next(data.test.batches(len(data.test)))
        by_hand = float((network.eval()(images) - targets).double().square().mean())
    assert record.test_loss == pytest.approx(by_hand, rel=1e-5)
