from __future__ import annotations

import pytest
from pydantic import ValidationError

from foreprune.records import Experiment, Record
from foreprune.training.recipes import Recipe


def test_ids_are_pinned() -> None:
    """A changed id would orphan every record ever written."""
    plain = Experiment(data="digits", model="lenet-300-100", method="snip", density=0.1)
    assert plain.id == "digits_lenet-300-100_snip_d0.1_s0_d2e70d0eb1"
    rich = Experiment(
        data="mnist",
        model="my.package:build",
        method="grasp",
        density=0.02,
        seed=3,
        hyper={"keep": "magnitude"},
        recipe=Recipe(epochs=5),
    )
    assert rich.id == "mnist_my.package-build_grasp_d0.02_s3_d9746b4bfa"


def test_id_depends_on_every_setting_and_not_on_how_it_was_given() -> None:
    base = {"data": "digits", "model": "m", "method": "snip", "density": 0.1}
    changes = [
        {"seed": 1},
        {"density": 0.2},
        {"scope": "local"},
        {"prune_at": 1},
        {"ablation": "shuffle"},
        {"ablation": "widen"},
        {"ablation": "widen", "widen": 0.5},
        {"hyper": {"batchnorm": "eval"}},
        {"init": "xavier-normal"},
        {"samples_per_class": 5},
        {"train_size": 100},
        {"recipe": {"epochs": 3}},
    ]
    ids = {Experiment.model_validate(base | change).id for change in [{}, *changes]}
    assert len(ids) == 1 + len(changes)
    assert Experiment.model_validate(base | {"seed": 0, "scope": "global"}).id == Experiment.model_validate(base).id


def test_nonsense_is_refused() -> None:
    for change in ({"density": 0.0}, {"density": 1.5}, {"seed": -1}, {"scope": "layer"}, {"typo": 1}):
        with pytest.raises(ValidationError):
            Experiment.model_validate({"data": "d", "model": "m", "method": "snip"} | change)
    with pytest.raises(ValidationError, match="the dense reference keeps every weight"):
        Experiment(data="d", model="m", method="dense", density=0.5)
    with pytest.raises(ValidationError, match="nothing to ablate"):
        Experiment(data="d", model="m", method="dense", ablation="shuffle")
    with pytest.raises(ValidationError, match="never pruned: prune_at must be 0, not 7"):
        Experiment(data="d", model="m", method="dense", prune_at=7)
    with pytest.raises(ValidationError, match=r"widen=0\.5 belongs to ablation='widen', not 'shuffle'"):
        Experiment(data="d", model="m", method="snip", density=0.1, ablation="shuffle", widen=0.5)


def test_density_of_a_record_comes_from_counts() -> None:
    experiment = Experiment(data="d", model="m", method="snip", density=0.3)
    record = Record(id=experiment.id, experiment=experiment, status="finished", kept=3, total=11)
    assert record.density == 3 / 11
    assert Record(id=experiment.id, experiment=experiment, status="failed", error="x").density is None
