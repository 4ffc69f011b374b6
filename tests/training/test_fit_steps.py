"""Acting at given steps of training: who is told, and masks that change on the way, interrupted or not."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from foreprune.training.fit import fit
from foreprune.training.history import Epoch
from foreprune.training.optimizers import learning_rate
from foreprune.training.recipes import Recipe

INPUTS = torch.randn(48, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(0, 7, (48,), generator=torch.Generator().manual_seed(1))
BATCHES = list(zip(INPUTS.split(20), LABELS.split(20), strict=True))  # three of 20, 20, 8
LOADER = DataLoader(TensorDataset(INPUTS, LABELS), batch_size=16, shuffle=True)
RECIPE = Recipe(epochs=4, lr=0.1, momentum=0.9, weight_decay=1e-3)
NAME = "0.weight"
COUNTS = {0: 80, 2: 60, 3: 50, 7: 33, 8: 12}  # updates done -> weights kept of 16 x 5


class Stop(Exception):
    pass


def network() -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 7))


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def smallest_out(step: int, model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    if step not in COUNTS:
        return None
    scores = model.get_parameter(NAME).detach().abs().masked_fill(~masks[NAME], -1.0)
    mask = torch.zeros(80, dtype=torch.bool)
    mask[scores.flatten().argsort(descending=True)[: COUNTS[step]]] = True
    return {NAME: mask.view(16, 5)}


DENSE = {NAME: torch.ones(16, 5, dtype=torch.bool)}


def test_every_step_is_told_from_zero_to_the_last() -> None:
    seen: list[tuple[int, dict[str, Tensor]]] = []
    model = network()
    first = state(model)
    history = fit(model, BATCHES, recipe=RECIPE, on_step=lambda step, found: seen.append((step, state(found))))
    assert [step for step, _ in seen] == list(range(13))
    assert same(seen[0][1], first)
    assert same(seen[-1][1], state(model))
    assert not any(same(one[1], other[1]) for one, other in itertools.pairwise(seen))
    silent = network()
    quiet = fit(silent, BATCHES, recipe=RECIPE)
    assert same(state(silent), state(model))
    assert [p.train_loss for p in quiet.curve] == [p.train_loss for p in history.curve]


def test_without_epochs_the_beginning_is_told() -> None:
    seen: list[int] = []
    fit(network(), BATCHES, recipe=Recipe(epochs=0), on_step=lambda step, _: seen.append(step))
    assert seen == [0]


def test_what_is_raised_at_a_step_ends_the_training_there() -> None:
    model = network().eval()

    def stop(step: int, _: nn.Module) -> None:
        if step == 4:
            raise Stop

    with pytest.raises(Stop):
        fit(model, BATCHES, recipe=RECIPE, masks=DENSE, on_step=stop)
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    whole: list[dict[str, Tensor]] = []
    fit(network(), BATCHES, recipe=RECIPE, on_step=lambda _, found: whole.append(state(found)))
    assert same(state(model), whole[4])


def test_a_resumed_training_counts_on(tmp_path: Path) -> None:
    seen: list[int] = []
    path = tmp_path / "run.pt"

    def stop(point: Epoch) -> None:
        if point.epoch == 2:
            raise Stop

    with pytest.raises(Stop):
        fit(network(), LOADER, recipe=RECIPE, checkpoint=path, on_epoch=stop)
    fit(network(), LOADER, recipe=RECIPE, checkpoint=path, on_step=lambda step, _: seen.append(step))
    assert seen == [7, 8, 9, 10, 11, 12]


def test_a_loader_that_yields_more_than_it_announces_is_counted_as_it_is(tmp_path: Path) -> None:
    class Modest(list[tuple[Tensor, Tensor]]):
        def __len__(self) -> int:
            return 2

    seen: list[int] = []
    path = tmp_path / "run.pt"
    fit(network(), Modest(BATCHES), recipe=RECIPE, checkpoint=path, on_step=lambda step, _: seen.append(step))
    assert seen == list(range(13))
    assert torch.load(path, weights_only=True)["updates"] == 12


def test_changing_masks_are_what_a_plain_loop_makes_of_them() -> None:
    model, plain = network(), network()
    kept: list[int] = []
    fit(
        model,
        BATCHES,
        recipe=RECIPE,
        masks=DENSE,
        mask_schedule=smallest_out,
        on_step=lambda _, found: kept.append(int(torch.count_nonzero(found.get_parameter(NAME)))),
    )
    assert kept == [80, 80, 60, 50, 50, 50, 50, 33, 12, 12, 12, 12, 12]

    plain[3].p = 0.0
    quiet = network()
    quiet[3].p = 0.0
    fit(quiet, BATCHES, recipe=RECIPE, masks=DENSE, mask_schedule=smallest_out)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3, fused=True)
    mask = DENSE[NAME]
    for step in range(13):
        if (new := smallest_out(step, plain, {NAME: mask})) is not None:
            mask = new[NAME]
            plain[0].weight.data[~mask] = 0
            if step:
                optimizer.state[plain[0].weight]["momentum_buffer"][~mask] = 0
        if step == 12:
            break
        inputs, labels = BATCHES[step % 3]
        optimizer.param_groups[0]["lr"] = learning_rate(RECIPE, step, 3)
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(inputs), labels).backward()
        plain[0].weight.grad *= mask
        optimizer.step()
        plain[0].weight.data *= mask
    assert same(state(quiet), state(plain))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "nadam", "rmsprop"])
def test_no_optimizer_brings_weights_back_or_remembers_them(optimizer: str, tmp_path: Path) -> None:
    recipe = Recipe(epochs=4, lr=0.01, optimizer=optimizer, weight_decay=1e-3)
    path = tmp_path / "run.pt"
    model = network()
    fit(model, BATCHES, recipe=recipe, masks=DENSE, mask_schedule=smallest_out, checkpoint=path)
    dead = model.get_parameter(NAME) == 0
    assert int(dead.sum()) == 80 - 12
    content = torch.load(path, weights_only=True)
    assert torch.equal(content["masks"][NAME], ~dead)
    buffers = [value for value in content["optimizer"]["state"].get(0, {}).values() if value.shape == (16, 5)]
    assert all(int(torch.count_nonzero(value[dead])) == 0 for value in buffers)
    assert bool(buffers) == (optimizer != "sgd")


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_changing_masks_survive_an_interruption(optimizer: str, stop_after: int, tmp_path: Path) -> None:
    recipe = replace(RECIPE, optimizer=optimizer, momentum=0.9 if optimizer == "sgd" else 0.0)
    asked: list[tuple[int, int]] = []

    def schedule(step: int, model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        asked.append((step, int(masks[NAME].sum())))
        return smallest_out(step, model, masks)

    whole = network()
    fit(whole, LOADER, recipe=recipe, masks=DENSE, mask_schedule=schedule)
    expected = list(asked)
    asked.clear()

    def stop(point: Epoch) -> None:
        if point.epoch == stop_after:
            raise Stop

    path = tmp_path / "run.pt"
    settings = {"recipe": recipe, "masks": DENSE, "mask_schedule": schedule, "checkpoint": path}
    with pytest.raises(Stop):
        fit(network(), LOADER, on_epoch=stop, **settings)
    resumed_at = 3 * stop_after
    assert asked == expected[: resumed_at + 1]
    asked.clear()
    resumed = network()
    fit(resumed, LOADER, **settings)
    assert [step for step, _ in asked] == list(range(resumed_at, 13))
    assert asked[1:] == expected[resumed_at + 1 :]
    assert same(state(resumed), state(whole))


def test_masks_may_come_back_if_the_schedule_says_so() -> None:
    half = torch.arange(80).view(16, 5) % 2 == 0
    seen: list[Tensor] = []

    def schedule(step: int, _: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        return {0: {NAME: half}, 3: {NAME: ~half}}.get(step)

    fit(
        network(),
        BATCHES,
        recipe=RECIPE,
        mask_schedule=schedule,
        on_step=lambda _, found: seen.append(found.get_parameter(NAME) != 0),
    )
    assert all(torch.equal(alive, half) for alive in seen[:3])
    assert not seen[3].any()
    assert all(bool(alive.any()) and not (alive & half).any() for alive in seen[4:])


@pytest.mark.parametrize(("first", "words"), [(True, "follow a schedule"), (False, "do not follow a schedule")])
def test_a_checkpoint_with_and_one_without_a_schedule_are_two_things(first: bool, words: str, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    schedules = [smallest_out if used else None for used in (first, not first)]
    fit(network(), BATCHES, recipe=RECIPE, masks=DENSE, mask_schedule=schedules[0], checkpoint=path)
    with pytest.raises(ValueError, match=rf"belongs to another run: its masks {words}; give another path"):
        fit(network(), BATCHES, recipe=RECIPE, masks=DENSE, mask_schedule=schedules[1], checkpoint=path)


def test_checkpoints_of_before_are_still_read(tmp_path: Path) -> None:
    """They know nothing of updates or schedules."""
    path = tmp_path / "run.pt"

    def stop(point: Epoch) -> None:
        if point.epoch == 2:
            raise Stop

    with pytest.raises(Stop):
        fit(network(), BATCHES, recipe=RECIPE, checkpoint=path, on_epoch=stop)
    content = torch.load(path, weights_only=True)
    assert "scheduled" not in json.loads(content["run"])
    assert "masks" not in content
    del content["updates"]
    torch.save(content, path)
    seen: list[int] = []
    fit(network(), BATCHES, recipe=RECIPE, checkpoint=path, on_step=lambda step, _: seen.append(step))
    assert seen == [7, 8, 9, 10, 11, 12]
    content["updates"] = "many"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"run.pt is damaged \(the number of updates is no number\); delete it"):
        fit(network(), BATCHES, recipe=RECIPE, checkpoint=path)
