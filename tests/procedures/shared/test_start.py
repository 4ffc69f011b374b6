"""Pruning at a step and the ablations of whatever prunes later."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from procedures.lively_runs import (
    KEEP,
    NAMES,
    NEW_ORDER,
    STEPS,
    context,
    experiment,
    fresh,
    masks_of,
    numbers,
    plain_fit,
    run,
    same,
    state,
)
from torch import Tensor

from foreprune import ablations
from foreprune.api import prune
from foreprune.core.masks import Masks
from foreprune.experiments import run_experiment
from foreprune.procedures.shared import (
    start_of,
)
from foreprune.zoo.datasets import load_cached
from foreprune.zoo.models import create


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


@pytest.mark.parametrize("method", ["snip", "magnitude-after", "ltr", "imp"])
def test_ablations_of_what_is_pruned_later(method: str, tmp_path: Path, dense_states: list[dict[str, Tensor]]) -> None:
    step = {"snip": 8, "magnitude-after": STEPS, "ltr": 5, "imp": 5}[method]
    changes: dict[str, object] = {"prune_at": 8} if method == "snip" else {}
    if method in ("ltr", "imp"):
        changes["hyper"] = {"rewind_to": 5}

    def start(ablation: str, **more: object) -> Any:
        return start_of(context(experiment(method, ablation=ablation, **changes, **more), tmp_path))

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
    assert old["1.bias"].any()
    assert not old["2.weight"].eq(1).all()
    for name, value in new.items():
        if name not in NAMES:  # what has been trained or counted begins anew
            assert value.eq(1 if name in ("2.weight", "2.running_var") else 0).all(), name
    if method != "imp":
        inverted = start("invert")
        assert not (inverted.masks & usual.masks).kept
        assert inverted.masks.kept == usual.masks.kept


@pytest.mark.parametrize("init", ["kaiming-normal-fan-in", "constant-variance", "xavier-uniform"])
def test_new_weights_are_drawn_as_the_first_ones_were(init: str, tmp_path: Path) -> None:
    start = start_of(context(experiment("magnitude", ablation="reinit", model="fc-16", init=init), tmp_path))
    first = create("fc-16", input_shape=(1, 8, 8), init=init, seed=0)
    for name, mask in start.masks.items():
        new, old = start.model.get_parameter(name)[mask], first.get_parameter(name)
        assert not bool((new == old[mask]).any())
        if mask.sum() > 100:
            assert float(new.detach().std()) == pytest.approx(float(old.detach().std()), rel=0.2)


def test_widening_is_an_ablation_of_a_run(tmp_path: Path) -> None:
    usual = run(experiment("phew", density=0.05, model="fc-16"), tmp_path)
    assert usual.layers[0].units_alive <= 13
    wide = run(experiment("phew", density=0.05, model="fc-16", ablation="widen", widen=0.4), tmp_path)
    assert masks_of(wide, tmp_path) == ablations.widen(masks_of(usual, tmp_path), fraction=0.4, seed=0)
    assert wide.layers[0].units_alive > usual.layers[0].units_alive


def test_ablations_that_ask_for_the_network_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[object] = []

    def note(masks: Masks, *, model: object, fraction: float, seed: int) -> Masks:
        got.append(model)
        return masks

    noting = replace(ablations.get_ablation("widen"), apply=note)
    monkeypatch.setattr("foreprune.procedures.shared.start.ablation_of", lambda _: noting)
    start = start_of(context(experiment("magnitude", ablation="widen", widen=0.5), tmp_path))
    assert got == [start.model]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"method": "gmp", "ablation": "reinit"},
            "procedure 'gmp' takes no ablation 'reinit'; allowed: none",
        ),
        ({"method": "ltr", "hyper": {"rewind": 1}}, "TypeError: procedure 'ltr' has no setting 'rewind'"),
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
