"""Pruning later: against loops written out, from one dense training for all, whatever is interrupted or damaged."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foreprune.procedures.dense as dense_module
from foreprune import ablations
from foreprune.api import prune
from foreprune.core.masks import Masks
from foreprune.experiments.run import run_experiment
from foreprune.procedures.dense import Setting, dense_run, dense_weights
from foreprune.procedures.later import Gradual, keep_largest, start_of
from foreprune.procedures.procedures import END, dense_of, gradual_count, round_counts, snapshots_for, steps_needed
from foreprune.procedures.snapshots import read_snapshot
from foreprune.records.spec import Epoch, Experiment, Record
from foreprune.records.store import run_folder
from foreprune.training.fit import fit
from foreprune.training.recipes import Recipe
from foreprune.zoo.datasets import load_cached
from foreprune.zoo.models import create

RECIPE = Recipe(
    epochs=3, batch_size=256, lr=0.1, momentum=0.9, weight_decay=1e-3
)  # of 1,442 images: 6 steps, 18 in all
STEPS = 18
NEW_ORDER = 2_000_003


def lively_model(*, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """With buffers and randomness of its own."""
    pixels = input_shape[0] * input_shape[1] * input_shape[2]
    return nn.Sequential(
        nn.Flatten(), nn.Linear(pixels, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, classes)
    )


MODEL = f"{__name__}:lively_model"


def experiment(method: str = "snip", **changes: object) -> Experiment:
    base = {"data": "digits", "model": MODEL, "method": method, "density": 0.3, "recipe": RECIPE}
    return Experiment.model_validate(base | {"density": 1.0} | changes if method == "dense" else base | changes)


def setting(found: Experiment, out: Path, snapshots: tuple[int, ...] = ()) -> Setting:
    data = load_cached("digits", None)
    return Setting(found, data, data.train, out, "cpu", snapshots)


def fresh(seed: int = 0) -> nn.Module:
    return create(MODEL, input_shape=(1, 8, 8), classes=10, seed=seed)


def plain_fit(model: nn.Module, *, seed: int = 0, masks: Mapping[str, Tensor] | None = None, **more: Any) -> Any:
    data = load_cached("digits", None)
    return fit(model, data.train, data.test, recipe=RECIPE, seed=seed, masks=masks, **more)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def dense_states() -> list[dict[str, Tensor]]:
    """Parameters and buffers after 0, 1, ..., 18 updates of one uninterrupted dense training."""
    states: list[dict[str, Tensor]] = []
    plain_fit(fresh(), on_step=lambda _, model: states.append(state(model)))
    assert len(states) == STEPS + 1
    return states


@pytest.fixture(scope="module")
def dense_curve() -> list[tuple[float | None, ...]]:
    return numbers(plain_fit(fresh()).curve)


def numbers(curve: tuple[Epoch, ...]) -> list[tuple[float | None, ...]]:
    return [(p.lr, p.train_loss, p.train_top1, p.test_loss, p.test_top1, p.test_top5) for p in curve]


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """One word for each training that begins: "dense", "masked" or "scheduled"."""
    seen: list[str] = []
    real = dense_module.fit

    def counted(*args: Any, **settings: Any) -> Any:
        kind = "scheduled" if settings["mask_schedule"] else "masked" if settings["masks"] else "dense"
        seen.append(kind)
        return real(*args, **settings)

    monkeypatch.setattr(dense_module, "fit", counted)
    return seen


def run(found: Experiment, out: Path, **more: Any) -> Record:
    record = run_experiment(found, out=out, **more)
    assert record.status == "finished", record.error
    return record


def masks_of(record: Record, out: Path) -> Masks:
    return Masks.load(run_folder(out, record.experiment) / "masks.safetensors")


def by_magnitude(states: Mapping[str, Tensor], keep: int, among: Mapping[str, Tensor] | None = None) -> Masks:
    """The `keep` largest by a sort; there are no ties."""
    names = ["1.weight", "5.weight"]
    scores = {name: states[name].abs() for name in names}
    if among is not None:
        scores = {name: torch.where(among[name], score, -1.0) for name, score in scores.items()}
    limit = torch.cat([score.flatten() for score in scores.values()]).sort(descending=True).values[keep - 1]
    return Masks({name: score >= limit for name, score in scores.items()})


KEEP = round(0.3 * 16 * 74)


# ------------------------------------------------------------------------------------------- against loops written out


@pytest.mark.parametrize("step", [1, 8, STEPS])
@pytest.mark.parametrize("method", ["snip", "magnitude", "random"])
def test_pruned_at_a_step(method: str, step: int, tmp_path: Path, dense_states: list[dict[str, Tensor]]) -> None:
    record = run(experiment(method, prune_at=step), tmp_path)
    model = fresh()
    model.load_state_dict(dense_states[step])
    batches = load_cached("digits", None).train.scoring_batches(per_class=10, seed=0, device="cpu")
    masks = prune(model, method, density=0.3, inputs=batches[0][0][:1], data=batches, seed=0)
    assert masks_of(record, tmp_path) == masks
    assert record.kept == KEEP
    assert numbers(record.curve) == numbers(plain_fit(model, masks=masks, seed=NEW_ORDER).curve)


def test_scores_are_those_of_the_weights_and_buffers_at_the_step(tmp_path: Path) -> None:
    kept = [masks_of(run(experiment(prune_at=step), tmp_path), tmp_path) for step in (0, 1, 8)]
    assert kept[0] != kept[1] != kept[2] != kept[0]


def test_magnitude_after_training(tmp_path: Path, dense_states: list[dict[str, Tensor]]) -> None:
    record = run(experiment("magnitude-after"), tmp_path)
    masks = by_magnitude(dense_states[-1], KEEP)
    assert masks_of(record, tmp_path) == masks
    model = fresh()
    model.load_state_dict(dense_states[-1])
    assert numbers(record.curve) == numbers(plain_fit(model, masks=masks, seed=NEW_ORDER).curve)


@pytest.mark.parametrize("step", [0, 7])
def test_lottery_ticket_rewinding(step: int, tmp_path: Path, dense_states: list[dict[str, Tensor]]) -> None:
    found = experiment("ltr", hyper={"rewind_to": step})
    start = start_of(setting(found, tmp_path))
    masks = by_magnitude(dense_states[-1], KEEP)
    assert start.masks == masks
    assert same(state(start.model), dense_states[step])  # kept or not; training sets the others to zero
    record = run(found, tmp_path)
    assert masks_of(record, tmp_path) == masks
    model = fresh()
    model.load_state_dict(dense_states[step])
    assert numbers(record.curve) == numbers(plain_fit(model, masks=masks, seed=NEW_ORDER if step else 0).curve)


@pytest.mark.parametrize("step", [0, 5])
def test_iterative_magnitude_pruning(step: int, tmp_path: Path, dense_states: list[dict[str, Tensor]]) -> None:
    record = run(experiment("imp", density=0.45, hyper={"rewind_to": step, "rate": 0.3}), tmp_path)
    total = 16 * 74
    order = NEW_ORDER if step else 0
    weights, masks = dense_states[-1], None
    for keep in (round(0.7 * total), round(0.49 * total)):
        masks = by_magnitude(weights, keep, masks)
        model = fresh()
        model.load_state_dict(dense_states[step])
        plain_fit(model, masks=masks, seed=order)
        weights = state(model)
    masks = by_magnitude(weights, round(0.45 * total), masks)
    assert masks_of(record, tmp_path) == masks
    assert record.kept == round(0.45 * total)
    model = fresh()
    model.load_state_dict(dense_states[step])
    assert numbers(record.curve) == numbers(plain_fit(model, masks=masks, seed=order).curve)


def test_one_round_of_iterative_pruning_is_rewinding(tmp_path: Path) -> None:
    hyper = {"rewind_to": 5}
    one = run(experiment("imp", density=0.85, hyper=hyper), tmp_path)
    two = run(experiment("ltr", density=0.85, hyper=hyper), tmp_path)
    assert masks_of(one, tmp_path) == masks_of(two, tmp_path)
    assert numbers(one.curve) == numbers(two.curve)


def test_gradual_magnitude_pruning(tmp_path: Path) -> None:
    found = experiment("gmp", hyper={"begin": 0.1, "end": 0.7, "every": 4})
    record = run(found, tmp_path)
    total = 16 * 74
    chain: list[Masks] = [Masks({name: torch.ones_like(fresh().get_parameter(name)) > 0 for name in NAMES})]
    counts: list[int] = []

    def schedule(step: int, model: nn.Module, masks: Mapping[str, Tensor]) -> Masks | None:
        keep = gradual_count(step, steps=STEPS, keep=KEEP, total=total, begin=0.1, end=0.7, every=4)
        if keep is None:
            return None
        counts.append(keep)
        chain.append(by_magnitude(state(model), keep, chain[-1]))
        return chain[-1]

    model = fresh()
    history = plain_fit(model, masks=chain[0], mask_schedule=schedule)
    assert numbers(record.curve) == numbers(history.curve)
    assert counts[0] == total
    assert counts[-1] == KEEP
    assert len(counts) == 4
    assert [masks.kept for masks in chain[1:]] == counts
    assert all(later & earlier == later for earlier, later in itertools.pairwise(chain))
    assert masks_of(record, tmp_path) == chain[-1]
    assert record.kept == KEEP == sum(layer.kept for layer in record.layers)
    assert record.seconds_prune is None
    assert record.analysis["macs"] == KEEP  # of the final masks, and so of a network that is linear layers only
    assert masks_of(record, tmp_path).metadata["method"] == "gmp"


NAMES = ("1.weight", "5.weight")


def test_gradual_pruning_in_every_layer_alike(tmp_path: Path) -> None:
    record = run(experiment("gmp", scope="local", hyper={"every": 3}), tmp_path)
    assert [(layer.kept, layer.total) for layer in record.layers] == [(307, 1024), (48, 160)]
    assert record.kept == KEEP == 355


def test_gradual_pruning_never_takes_a_weight_back_that_is_no_smaller_than_a_kept_one() -> None:
    """A kept weight can be exactly zero, as pruned ones are."""
    model = nn.Linear(10, 10)
    counts = dict(enumerate((60, 40, 20, 5)))
    gradual = Gradual(counts.get, "global", 0, Masks.dense({"weight": model.weight.detach()}))
    chain = [gradual.masks]
    for step in range(5):
        found = gradual(step, model, chain[-1])
        with torch.no_grad():
            model.weight.zero_().view(-1)[(found or chain[-1])["weight"].flatten().nonzero()[0]] = 1.0
        assert (found is None) == (step == 4)
        chain.append(found or chain[-1])
    assert [masks.kept for masks in chain] == [100, 60, 40, 20, 5, 5]
    assert all(later & earlier == later for earlier, later in itertools.pairwise(chain))
    resumed = Gradual(counts.get, "global", 0, Masks.dense({"weight": model.weight.detach()}))
    assert resumed(1, model, chain[2]) is None
    assert resumed.masks == chain[2]
    assert resumed(2, model, chain[2]) == chain[3]


@pytest.mark.parametrize("method", ["gmp", "imp", "ltr"])
def test_a_layer_that_is_lost_is_said(method: str, tmp_path: Path) -> None:
    hyper = {"rate": 0.9} if method == "imp" else {}
    record = run(experiment(method, density=1 / 1184, hyper=hyper), tmp_path)
    (lost,) = [layer.name for layer in record.layers if not layer.kept]
    assert len([said for said in record.warnings if f"leaves no weight in 1 of 2 layers: {lost}" in said]) == 1


def test_the_largest_are_kept_among_those_that_are_left() -> None:
    weights = {"a": torch.tensor([[-5.0, 4.0, 0.0], [3.0, -2.0, 1.0]]), "b": torch.tensor([[0.5, -9.0]])}
    among = Masks({"a": torch.tensor([[False, True, True], [True, True, True]]), "b": torch.tensor([[True, False]])})
    kept = keep_largest(weights, 3, among=among, scope="global", seed=0)
    assert kept["a"].tolist() == [[False, True, False], [True, True, False]]
    assert not kept["b"].any()
    local = keep_largest(weights, 4, among=among, scope="local", seed=0)
    assert local.layer_counts() == {"a": (3, 6), "b": (1, 2)}
    assert local["a"].tolist() == [[False, True, False], [True, True, False]]
    assert local["b"].tolist() == [[True, False]]
    with pytest.raises(ValueError, match="cannot keep 7 of 6 weights"):
        keep_largest(weights, 7, among=among, scope="global", seed=0)


# ------------------------------------------------------------------------------------------------------------ ablations


@pytest.mark.parametrize("method", ["snip", "magnitude-after", "ltr", "imp"])
def test_ablations_of_what_is_pruned_later(method: str, tmp_path: Path, dense_states: list[dict[str, Tensor]]) -> None:
    step = {"snip": 8, "magnitude-after": STEPS, "ltr": 5, "imp": 5}[method]
    changes: dict[str, object] = {"prune_at": 8} if method == "snip" else {}
    if method in ("ltr", "imp"):
        changes["hyper"] = {"rewind_to": 5}

    def start(ablation: str, **more: object) -> Any:
        return start_of(setting(experiment(method, ablation=ablation, **changes, **more), tmp_path))

    usual = start("none")
    shuffled = start("shuffle")
    assert shuffled.masks == ablations.shuffle(usual.masks, seed=0) != usual.masks
    assert same(state(shuffled.model), dense_states[step])
    widened = start("widen", widen=0.5)
    assert widened.masks == ablations.widen(usual.masks, fraction=0.5, seed=0)
    drawn = start("reinit")
    assert drawn.masks == usual.masks
    new, old = state(drawn.model), dense_states[step]
    for name in NAMES:
        mask = usual.masks[name]
        assert not new[name][~mask].any()
        assert not bool((new[name][mask] == old[name][mask]).any())
        assert not bool((new[name][mask] == fresh().get_parameter(name)[mask]).any())
    assert torch.equal(new["2.running_mean"], old["2.running_mean"])
    if method != "imp":
        inverted = start("invert")
        assert not (inverted.masks & usual.masks).kept
        assert inverted.masks.kept == usual.masks.kept


def test_widening_is_an_ablation_of_a_run(tmp_path: Path) -> None:
    usual = run(experiment("phew", density=0.05, model="fc-16"), tmp_path)
    assert usual.layers[0].units_alive <= 13
    wide = run(experiment("phew", density=0.05, model="fc-16", ablation="widen", widen=0.4), tmp_path)
    assert masks_of(wide, tmp_path) == ablations.widen(masks_of(usual, tmp_path), fraction=0.4, seed=0)
    assert wide.layers[0].units_alive > usual.layers[0].units_alive


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"method": "gmp", "ablation": "reinit"},
            "procedure 'gmp' takes no ablation 'reinit'; allowed: none",
        ),
        ({"method": "ltr", "hyper": {"rewind": 1}}, "TypeError: procedure 'ltr' has no hyperparameter 'rewind'"),
        (
            {"method": "ltr", "hyper": {"rewind_to": 19}},
            "there is no step 19 in the dense training: it has 18",
        ),
        ({"prune_at": 19}, "it has 18 optimizer steps; prune or rewind at one of 0 to 18"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_training(
    changes: dict[str, object], message: str, tmp_path: Path, trainings: list[str]
) -> None:
    record = run_experiment(experiment(**changes), out=tmp_path)  # type: ignore[arg-type]
    assert record.status == "failed"
    assert record.error is not None
    assert message in record.error
    assert trainings == []


# ---------------------------------------------------------------------------------------------- one training for all


SWEEP = (
    experiment("dense"),
    experiment("snip", prune_at=4),
    experiment("random", prune_at=11),
    experiment("magnitude-after"),
    experiment("ltr", hyper={"rewind_to": 7}),
    experiment("imp", density=0.7, hyper={"rewind_to": 4}),
    experiment("gmp"),
)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_list_of_runs_trains_the_dense_network_once(
    backwards: bool,
    tmp_path: Path,
    trainings: list[str],
    dense_states: list[dict[str, Tensor]],
    dense_curve: list[tuple[float | None, ...]],
) -> None:
    needed = steps_needed(SWEEP)
    records = {}
    for found in reversed(SWEEP) if backwards else SWEEP:
        records[found.method] = run(found, tmp_path, snapshots=snapshots_for(found, needed))
    # imp: from 0.8 to 0.7 there is one training between
    assert sorted(trainings) == ["dense", *["masked"] * 6, "scheduled"]
    assert numbers(records["dense"].curve) == dense_curve
    assert records["dense"].top1 == dense_curve[-1][4]
    moved = [dense_states[-1][name].double() - dense_states[0][name].double() for name in NAMES]
    distance = sum(float(change.square().sum()) for change in moved) ** 0.5
    assert records["dense"].analysis["weight_distance"] == pytest.approx(distance, rel=1e-12)
    folder = tmp_path / "dense" / dense_of(SWEEP[0]).id
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "end.safetensors",
        "imp-rewind4-rate0.2-global",
        "lock",
        *[f"step-{step}.safetensors" for step in (11, 4, 7)],
    ]
    for step in (4, 7, 11):
        found = read_snapshot(folder / f"step-{step}.safetensors", about={"step": str(step)})
        assert found is not None
        assert same(found.tensors, dense_states[step])
    for record in records.values():
        assert sorted(path.name for path in run_folder(tmp_path, record.experiment).iterdir()) == [
            "masks.safetensors",
            "record.json",
        ]


def test_without_a_list_steps_are_trained_when_they_are_missed(
    tmp_path: Path, trainings: list[str], dense_states: list[dict[str, Tensor]]
) -> None:
    steps: list[int] = []
    for step in (8, 3, 14, 18, 14, 5):
        assert same(dense_weights(setting(experiment(), tmp_path), step), dense_states[step])
        steps.append(len(trainings))
    # 3 lies before the checkpoint of the training to 8, so there is a second training for it; to 14 and to the end it
    # goes on from the checkpoint; 5 begins anew
    assert steps == [1, 3, 4, 5, 5, 6]
    assert same(dense_weights(setting(experiment(), tmp_path), 0), dense_states[0])
    assert same(dense_weights(setting(experiment(), tmp_path), END), dense_states[-1])
    assert len(trainings) == 6


def test_an_early_step_is_not_trained_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[int] = []
    real = dense_module.fit

    def watched(*args: Any, on_step: Any, **settings: Any) -> Any:
        def note(step: int, model: nn.Module) -> None:
            reached.append(step)
            on_step(step, model)

        return real(*args, on_step=note, **settings)

    monkeypatch.setattr(dense_module, "fit", watched)
    dense_weights(setting(experiment(), tmp_path, snapshots=(3, 8, 99)), 3)
    assert reached == list(range(9))
    folder = setting(experiment(), tmp_path).dense_folder
    assert not (folder / "end.safetensors").exists()
    assert (folder / "step-8.safetensors").exists()
    assert not (folder / "step-99.safetensors").exists()
    reached.clear()
    dense_run(setting(experiment(), tmp_path))
    assert reached == list(range(7, 19))  # from the checkpoint of the first epoch
    assert not (folder / "checkpoint.pt").exists()


def test_the_dense_run_goes_on_where_it_was_interrupted(
    tmp_path: Path, dense_curve: list[tuple[float | None, ...]], dense_states: list[dict[str, Tensor]]
) -> None:
    def stop(point: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiment(experiment("dense"), out=tmp_path, on_epoch=stop, snapshots=(4, 11, END))
    folder = setting(experiment(), tmp_path).dense_folder
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.pt", "lock", "step-4.safetensors"]
    seen: list[int] = []
    record = run(experiment("dense"), tmp_path, on_epoch=lambda p: seen.append(p.epoch), snapshots=(4, 11, END))
    assert seen == [2, 3]
    assert numbers(record.curve) == dense_curve
    assert same(dense_weights(setting(experiment(), tmp_path), 11), dense_states[11])
    assert sorted(path.name for path in folder.iterdir()) == [
        "end.safetensors",
        "lock",
        "step-11.safetensors",
        "step-4.safetensors",
    ]


def test_a_later_run_goes_on_where_it_was_interrupted(tmp_path: Path, trainings: list[str]) -> None:
    def stop(point: Epoch) -> None:
        if point.epoch == 2:
            raise KeyboardInterrupt

    for found in (experiment(prune_at=5), experiment("gmp", hyper={"every": 4}), experiment("ltr")):
        whole = run(found, tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            run_experiment(found, out=tmp_path / "cut", on_epoch=stop)
        seen: list[int] = []
        again = run(found, tmp_path / "cut", on_epoch=lambda point, seen=seen: seen.append(point.epoch))
        assert seen == [3]
        assert numbers(again.curve) == numbers(whole.curve)
        assert masks_of(again, tmp_path / "cut") == masks_of(whole, tmp_path / "whole")
        assert again.layers == whole.layers
        assert again.analysis == whole.analysis


def test_rounds_are_shared_and_go_on_where_they_were_interrupted(
    tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = experiment("imp", density=0.6), experiment("imp", density=0.5)
    whole = run(many, tmp_path / "whole")
    assert trainings == ["dense", *["masked"] * 4]  # 0.8, 0.64, 0.512, and the run's own
    trainings.clear()
    run(few, tmp_path / "shared")
    assert trainings == ["dense", *["masked"] * 3]
    trainings.clear()
    again = run(many, tmp_path / "shared")
    assert trainings == ["masked"] * 2
    assert numbers(again.curve) == numbers(whole.curve)

    real = dense_module.fit
    begun: list[str] = []

    def cut(*args: Any, **settings: Any) -> Any:
        begun.append("fit")
        if len(begun) == 3:  # dense, first round, second round
            settings["on_epoch"] = stop
        return real(*args, **settings)

    def stop(point: Epoch) -> None:
        if point.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(dense_module, "fit", cut)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(many, out=tmp_path / "cut")
    folder = setting(many, tmp_path / "cut").dense_folder / "imp-rewind0-rate0.2-global"
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "round-1.safetensors", "round-2.pt"]
    resumed = run(many, tmp_path / "cut")
    assert len(begun) == 3 + 3
    assert numbers(resumed.curve) == numbers(whole.curve)
    assert not list(folder.glob("*.pt"))


@pytest.mark.parametrize("damage", ["flipped", "truncated", "noise", "other step", "tail of a write"])
def test_a_damaged_snapshot_is_made_again(
    damage: str, tmp_path: Path, trainings: list[str], dense_states: list[dict[str, Tensor]]
) -> None:
    usual = run(experiment(prune_at=8), tmp_path)
    path = setting(experiment(), tmp_path).dense_folder / "step-8.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-3] ^= 1
    elif damage == "truncated":
        content = content[:-5]
    elif damage == "noise":
        content = bytearray(range(256))
    elif damage == "other step":
        dense_weights(setting(experiment(), tmp_path), 9)
        content = bytearray(path.with_name("step-9.safetensors").read_bytes())
    if damage == "tail of a write":
        path.rename(path.with_name(".step-8.safetensors.0123456789ab.tmp"))
    else:
        path.write_bytes(bytes(content))
    trainings.clear()
    shutil.rmtree(run_folder(tmp_path, usual.experiment))
    again = run(experiment(prune_at=8), tmp_path)
    assert trainings[-1] == "masked"
    assert trainings[:-1]
    assert set(trainings[:-1]) == {"dense"}
    assert numbers(again.curve) == numbers(usual.curve)
    said = [warning for warning in again.warnings if "step-8.safetensors is damaged" in warning]
    assert bool(said) == (damage != "tail of a write")
    assert all("it is made again" in warning for warning in said)
    found = read_snapshot(path, about={})
    assert found is not None
    assert same(found.tensors, dense_states[8])
    assert not list(path.parent.glob(".*.tmp"))


def test_a_damaged_end_is_made_again_with_its_curve(
    tmp_path: Path, dense_curve: list[tuple[float | None, ...]]
) -> None:
    run(experiment("magnitude-after"), tmp_path)
    path = setting(experiment(), tmp_path).dense_folder / "end.safetensors"
    path.write_bytes(path.read_bytes().replace(b"train_loss", b"train_lost", 1))
    record = run(experiment("dense"), tmp_path)
    assert any("its content does not fit its digest" in warning for warning in record.warnings)
    assert numbers(record.curve) == dense_curve


def test_weights_of_another_network_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(experiment(prune_at=8), tmp_path)

    def wider(*, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 17), nn.ReLU(), nn.Linear(17, classes))

    monkeypatch.setitem(globals(), "lively_model", wider)
    record = run_experiment(experiment("random", prune_at=8), out=tmp_path)
    assert record.error is not None
    assert "holds weights of another network than the model builds now" in record.error
    assert "delete it to train again" in record.error


def test_a_dense_training_that_fails_is_named(tmp_path: Path) -> None:
    wild = replace(RECIPE, lr=1e30)
    record = run_experiment(experiment("magnitude-after", recipe=wild), out=tmp_path)
    assert record.error is not None
    assert record.error.startswith("ValueError: the dense training that this run begins from failed: training diverged")
    assert record.curve == ()
    failed = run_experiment(experiment("dense", recipe=wild), out=tmp_path)
    assert failed.error is not None
    assert failed.error.startswith("TrainingDiverged: ")


def test_two_at_once_train_once(tmp_path: Path, trainings: list[str], dense_states: list[dict[str, Tensor]]) -> None:
    ready = threading.Barrier(2)
    found: list[dict[str, Tensor]] = []
    load_cached("digits", None)

    def ask() -> None:
        ready.wait()
        found.append(dense_weights(setting(experiment(), tmp_path), END))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trainings == ["dense"]
    assert len(found) == 2
    assert all(same(one, dense_states[-1]) for one in found)


def test_without_locks_the_result_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dense_states: list[dict[str, Tensor]]
) -> None:
    """Another process has trained the same meanwhile, and has even removed its checkpoint."""

    @contextlib.contextmanager
    def no_lock(_: Path) -> Iterator[bool]:
        yield False

    monkeypatch.setattr(dense_module, "lock", no_lock)
    inner = iter([True])
    real = dense_module.fit

    def with_another(*args: Any, **settings: Any) -> Any:
        if next(inner, False):
            assert same(dense_weights(setting(experiment(), tmp_path), END), dense_states[-1])
        return real(*args, **settings)

    monkeypatch.setattr(dense_module, "fit", with_another)
    assert same(dense_weights(setting(experiment(), tmp_path, (4, END)), 4), dense_states[4])
    assert same(dense_weights(setting(experiment(), tmp_path), END), dense_states[-1])


def test_another_order_and_another_recipe_are_another_training(tmp_path: Path, trainings: list[str]) -> None:
    longer = replace(RECIPE, epochs=4)
    for found in (experiment(prune_at=5), experiment(prune_at=5, seed=1), experiment(prune_at=5, recipe=longer)):
        run(found, tmp_path)
    run(experiment(prune_at=5, density=0.1, scope="local", samples_per_class=3), tmp_path)
    assert trainings.count("dense") == 3


def test_the_rounds_of_a_run_are_what_they_are_named() -> None:
    assert round_counts(0.5, total=1184, keep=592, rate=0.2) == (947, 758, 606, 592)
