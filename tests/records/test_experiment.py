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


# what version 0.1.0 wrote, when recipes and epochs were pydantic's
WRITTEN_BY_0_1 = (
    '{"format":"foreprune-record/1","id":"cifar-10_resnet-20_snip_d0.1_s2_23dac9e6b9","experiment":{"data":"cifar-10",'
    '"model":"resnet-20","method":"snip","density":0.1,"seed":2,"hyper":{},"scope":"global","prune_at":0,'
    '"ablation":"none","widen":1.0,"init":"kaiming-normal-fan-in","samples_per_class":10,"train_size":0,"recipe":'
    '{"epochs":30,"batch_size":128,"optimizer":"sgd","lr":1.0,"momentum":0.9,"nesterov":true,"weight_decay":0.00001,'
    '"schedule":"milestones","milestones":[10,20],"gamma":0.1,"warmup_epochs":1.0,"label_smoothing":0.0,'
    '"precision":"float32","augment":true}},"status":"finished","error":null,"top1":0.5,"top5":null,"kept":null,'
    '"total":null,"layers":[],"analysis":{},"curve":[{"epoch":1,"lr":1.0,"train_loss":2.5,"train_top1":0.25,'
    '"test_loss":null,"test_top1":null,"test_top5":null,"seconds":3.0}],"seconds_prune":null,"seconds_train":null,'
    '"warnings":[],"attempts":1,"environment":{"versions":{"torch":"2.13"}}}'
)


def test_records_of_version_0_1_load_and_are_written_alike() -> None:
    record = Record.model_validate_json(WRITTEN_BY_0_1)
    assert record.experiment.id == record.id
    assert record.experiment.recipe.milestones == (10, 20)
    assert record.curve[0].train_top1 == 0.25
    assert record.model_dump_json() == WRITTEN_BY_0_1
    built = Experiment(
        data="cifar-10",
        model="resnet-20",
        method="snip",
        density=0.1,
        seed=2,
        recipe=Recipe(
            epochs=30,
            lr=1,
            momentum=0.9,
            nesterov=True,
            schedule="milestones",
            milestones=(10, 20),
            warmup_epochs=1,
            weight_decay=1e-5,
        ),
    )
    assert built == record.experiment
    assert built.id == record.id


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"batch_size":128', '"batch_sizes":128', r"batch_sizes\n +Unexpected keyword argument"),
        ('"momentum":0.9', '"momentum":9', r"momentum must be at least 0 and below 1, not 9"),
        ('"optimizer":"sgd"', '"optimizer":"lion"', r"optimizer\n +Input should be 'sgd'"),
        ('"train_top1":0.25', '"top1":0.25', r"train_top1"),
        ('"train_loss":2.5', '"train_loss":NaN', r"train_loss\n +Input should be a finite number"),
    ],
)
def test_recipes_and_curves_of_records_are_checked(before: str, after: str, message: str) -> None:
    assert before in WRITTEN_BY_0_1
    with pytest.raises(ValidationError, match=message):
        Record.model_validate_json(WRITTEN_BY_0_1.replace(before, after))
