from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from foreprune.core.masks import Masks
from foreprune.experiments import check, run_experiment
from foreprune.methods import list_methods
from foreprune.records import Experiment, finished, read_records, run_folder
from foreprune.training.recipes import Recipe

SHORT = Recipe(epochs=2, batch_size=128, lr=0.1)
NONE = Recipe(epochs=0)


def experiment(method: str = "snip", **changes: object) -> Experiment:
    base = {"data": "digits", "model": "fc-16", "method": method, "density": 0.5, "recipe": SHORT}
    if method == "dense":
        base["density"] = 1.0
    return Experiment.model_validate(base | changes)


def broken_model() -> nn.Module:
    raise RuntimeError("no such luck")


def small_model(*, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    pixels = input_shape[0] * input_shape[1] * input_shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 24), nn.ReLU(), nn.Linear(24, classes))


@pytest.mark.parametrize("method", ["dense", *(found.name for found in list_methods())])
def test_every_method_runs_end_to_end(method: str, tmp_path: Path) -> None:
    hyper = {"rounds": 3} if method in ("iterative-snip", "force") or method.startswith("synflow") else {}
    record = run_experiment(experiment(method, hyper=hyper), out=tmp_path, environment={"command": "test"})
    assert record.status == "finished", record.error
    assert record.total is not None
    assert record.kept is not None
    wanted = record.total if method == "dense" else round(0.5 * record.total)
    assert record.kept == sum(layer.kept for layer in record.layers) == wanted
    assert len(record.curve) == 2
    assert record.top1 == record.curve[-1].test_top1
    assert record.environment["command"] == "test"
    folder = run_folder(tmp_path, record.experiment)
    assert sorted(path.name for path in folder.iterdir()) == ["masks.safetensors", "record.json"]
    masks = Masks.load(folder / "masks.safetensors")
    assert masks.kept == record.kept
    assert finished(tmp_path, record.experiment) == record


class Attends(nn.Module):
    """An encoder layer over the rows of an image."""

    def __init__(self, *, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(input_shape[2], 2, 12, batch_first=True, dropout=0.0)
        self.head = nn.Linear(input_shape[2], classes)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.layer(x.flatten(1, 2)).mean(1))
        return output


def test_gates_and_floor_are_settings_of_a_method(tmp_path: Path) -> None:
    kept: dict[str, int] = {}
    for hyper in ({}, {"gates": "keep"}, {"gates": "score"}, {"gates": "score", "floor": 1.0}):
        one = experiment("synflow", model=f"{__name__}:Attends", density=0.3, hyper={"rounds": 2} | hyper, recipe=NONE)
        check([one], data_dir=None)
        record = run_experiment(one, out=tmp_path)
        assert record.status == "finished", record.error
        assert record.kept == round(0.3 * 528)
        masks = Masks.load(run_folder(tmp_path, one) / "masks.safetensors")
        kept[repr(hyper)] = sum(masks.block_counts()[f"layer.self_attn.in_proj_weight[{label}]"][0] for label in "qk")
    default, whole, scored, floored = kept.values()
    assert (whole, scored) == (128, 0)
    assert 128 > default >= floored > 20


@pytest.mark.parametrize("ablation", ["shuffle", "reinit", "reinit-layer", "reinit-neuron", "invert"])
def test_ablations_change_what_they_say(ablation: str, tmp_path: Path) -> None:
    usual = run_experiment(experiment(), out=tmp_path)
    changed = run_experiment(experiment(ablation=ablation), out=tmp_path)
    assert changed.status == "finished", changed.error
    assert changed.id != usual.id
    assert changed.kept == usual.kept
    masks = [Masks.load(run_folder(tmp_path, record.experiment) / "masks.safetensors") for record in (usual, changed)]
    assert (masks[0] == masks[1]) is ablation.startswith("reinit")
    if ablation == "shuffle":
        assert masks[0].layer_counts() == masks[1].layer_counts()
    assert [point.train_loss for point in usual.curve] != [point.train_loss for point in changed.curve]


def test_equal_seeds_give_equal_results(tmp_path: Path) -> None:
    one = run_experiment(experiment(), out=tmp_path / "a")
    torch.rand(7)
    two = run_experiment(experiment(), out=tmp_path / "b")
    other = run_experiment(experiment(seed=1), out=tmp_path / "c")
    losses = [[point.train_loss for point in record.curve] for record in (one, two, other)]
    assert losses[0] == losses[1] != losses[2]
    assert one.layers == two.layers


def test_a_failure_is_a_record_with_its_traceback(tmp_path: Path) -> None:
    broken = experiment(model=f"{__name__}:broken_model")
    record = run_experiment(broken, out=tmp_path)
    assert (record.status, record.error) == ("failed", "RuntimeError: no such luck")
    assert record.top1 is None
    folder = run_folder(tmp_path, broken)
    assert "broken_model" in (folder / "traceback.txt").read_text()
    assert finished(tmp_path, broken) is None
    assert [found.status for found in read_records(tmp_path).records] == ["failed"]


def test_an_interrupted_run_continues_from_its_checkpoint(tmp_path: Path) -> None:
    whole = run_experiment(experiment(), out=tmp_path / "whole")

    def stop(point: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiment(experiment(), out=tmp_path / "cut", on_epoch=stop)
    folder = run_folder(tmp_path / "cut", experiment())
    assert (folder / "checkpoint.pt").exists()
    assert not (folder / "record.json").exists()
    seen: list[int] = []
    again = run_experiment(experiment(), out=tmp_path / "cut", on_epoch=lambda point: seen.append(point.epoch))
    assert seen == [2]
    assert [p.train_loss for p in again.curve] == [p.train_loss for p in whole.curve]
    assert again.top1 == whole.top1


def test_warnings_are_recorded(tmp_path: Path) -> None:
    record = run_experiment(experiment("magnitude", density=0.005, init="kaiming-normal-fan-in"), out=tmp_path)
    assert record.status == "finished"
    lost = [layer.name for layer in record.layers if not layer.kept]
    assert bool(lost) == any("leaves no weight" in warning for warning in record.warnings)
