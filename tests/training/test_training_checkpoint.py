"""Checkpoints: resuming gives the same bits, files of other runs are refused, damaged ones are named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from foreprune.training.fit import fit
from foreprune.training.history import Epoch, History
from foreprune.training.recipes import Recipe

INPUTS = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(0, 7, (60,), generator=torch.Generator().manual_seed(1))
DATA = DataLoader(TensorDataset(INPUTS, LABELS), batch_size=16, shuffle=True)
RECIPE = Recipe(epochs=6, lr=0.05, momentum=0.9, weight_decay=1e-3, schedule="cosine", warmup_epochs=1)
MASKS = {"0.weight": torch.rand(16, 5, generator=torch.Generator().manual_seed(2)) < 0.5}


class Stop(Exception):
    pass


def network(width: int = 16) -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(5, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 7))


def run(
    path: Path | None, *, stop_after: int = 0, seen: list[int] | None = None, **changes: object
) -> tuple[nn.Module, History]:
    model = changes.pop("model", None) or network()

    def on_epoch(point: Epoch) -> None:
        if seen is not None:
            seen.append(point.epoch)
        if point.epoch == stop_after:
            raise Stop

    settings = {"recipe": RECIPE, "masks": MASKS, "checkpoint": path, "on_epoch": on_epoch, **changes}
    history = fit(model, settings.pop("train", DATA), DATA, **settings)  # type: ignore[arg-type]
    return model, history


def bits(model: nn.Module) -> list[Tensor]:
    return [
        value.contiguous().view(torch.int64 if value.dtype == torch.int64 else torch.int32)
        for value in model.state_dict().values()
    ]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "nadam", "rmsprop"])
@pytest.mark.parametrize("stop_after", [1, 4])
def test_resuming_gives_the_same_bits(tmp_path: Path, optimizer: str, stop_after: int) -> None:
    recipe = replace(RECIPE, optimizer=optimizer, momentum=0.0, lr=0.01)
    whole, expected = run(None, recipe=recipe)
    path = tmp_path / "run.pt"
    with pytest.raises(Stop):
        run(path, stop_after=stop_after, recipe=recipe)
    torch.manual_seed(99)
    torch.rand(5)
    seen: list[int] = []
    resumed, history = run(path, seen=seen, recipe=recipe)
    assert seen == list(range(stop_after + 1, 7))
    assert all(torch.equal(a, b) for a, b in zip(bits(whole), bits(resumed), strict=True))
    assert [replace(p, seconds=0) for p in history.curve] == [replace(p, seconds=0) for p in expected.curve]
    assert int((resumed.get_parameter("0.weight")[~MASKS["0.weight"]] != 0).sum()) == 0


def test_resuming_from_an_earlier_epoch_than_the_last(tmp_path: Path) -> None:
    whole, _ = run(None)
    path = tmp_path / "run.pt"
    with pytest.raises(Stop):
        run(path, stop_after=5, checkpoint_every=3)
    seen: list[int] = []
    resumed, _ = run(path, seen=seen, checkpoint_every=3)
    assert seen == [4, 5, 6]
    assert all(torch.equal(a, b) for a, b in zip(bits(whole), bits(resumed), strict=True))


def test_a_finished_run_is_read_and_not_trained_again(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    first, expected = run(path, checkpoint_every=4)
    seen: list[int] = []
    second, history = run(path, seen=seen, checkpoint_every=4)
    assert seen == []
    assert history == expected
    assert all(torch.equal(a, b) for a, b in zip(bits(first), bits(second), strict=True))
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.pt"]  # no temporary file is left


def test_a_checkpoint_is_plain_data(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    run(path)
    content = torch.load(path, weights_only=True)
    assert content["format"] == "foreprune-checkpoint/1"
    assert len(content["curve"]) == 6
    assert json.loads(content["run"])["seed"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": replace(RECIPE, epochs=9)}, r"recipe.epochs is 6 there and 9 here"),
        ({"recipe": replace(RECIPE, lr=0.1)}, r"recipe.lr is 0.05 there and 0.1 here"),
        (
            {"recipe": replace(RECIPE, schedule="milestones", milestones=(2,))},
            r"recipe.schedule is 'cosine' there and 'milestones' here",
        ),
        ({"seed": 1}, r"seed is 0 there and 1 here"),
        ({"masks": None}, r"it has masks and this run has no masks"),
        ({"masks": {"0.weight": ~MASKS["0.weight"]}}, r"its masks differ"),
        ({"masks": {"4.weight": torch.ones(7, 16, dtype=torch.bool)}}, r"its masks differ"),
        ({"model": network(20), "masks": None}, r"the names or shapes of the model's tensors differ"),
        ({"train": DataLoader(DATA.dataset, batch_size=10)}, r"batches per epoch is 4 there and 6 here"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = tmp_path / "run.pt"
    with pytest.raises(Stop):
        run(path, stop_after=1)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"run.pt belongs to another run: {message}; give another path, or delete it"):
        run(path, **changes)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["truncated", "empty", "noise", "flipped", "text"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "run.pt"
    with pytest.raises(Stop):
        run(path, stop_after=1)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "empty":
        content = bytearray()
    elif damage == "noise":
        content = bytearray(range(256)) * 4
    elif damage == "text":
        content = bytearray(b"not a checkpoint")
    else:
        stored = torch.load(path, weights_only=True)["model"]["4.bias"]
        content[bytes(content).index(stored.numpy().tobytes())] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"checkpoint .*run.pt is damaged \(.+\); delete it to train from the start"):
        run(path)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (print, ("run",))

    path = tmp_path / "run.pt"
    torch.save({"format": "foreprune-checkpoint/1", "model": Trap()}, path)
    with pytest.raises(ValueError, match=r"run.pt is damaged .*delete it"):
        run(path)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    torch.save({"state_dict": network().state_dict()}, path)
    with pytest.raises(
        ValueError, match=r"run.pt is no training checkpoint of format 'foreprune-checkpoint/1' \(found None\)"
    ):
        run(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match=r"is no training checkpoint .* \(found 'list'\)"):
        run(path)
    torch.save({"format": "foreprune-checkpoint/1", "run": "{}", "curve": []}, path)
    with pytest.raises(ValueError, match=r"is damaged \('model'\)"):
        run(path)


def test_a_missing_folder_is_reported_before_training(tmp_path: Path) -> None:
    seen: list[int] = []
    with pytest.raises(FileNotFoundError, match=r"the folder .*missing for the checkpoint does not exist; create it"):
        run(tmp_path / "missing" / "run.pt", seen=seen)
    with pytest.raises(ValueError, match=r"is a folder; name a file in it, such as .*checkpoint.pt"):
        run(tmp_path, seen=seen)
    assert seen == []


def test_a_failed_write_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.pt"
    with pytest.raises(Stop):
        run(path, stop_after=2)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        run(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.pt"]
