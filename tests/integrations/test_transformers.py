"""Masks under the Trainer of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from contract.extras import imported
from integrations.shared import Net, Points, masks_for, network, revived, watched

from foreprune import Masks

try:
    transformers = imported("transformers")
    from foreprune.integrations.transformers import MaskCallback
except ImportError as error:
    pytest.skip(str(error), allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers and accelerate themselves


def trainer_of(folder: Path, model: Net, *callbacks: Any, **settings: Any) -> Any:
    arguments = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 16,
        "max_steps": 12,
        "learning_rate": 0.01,
        "weight_decay": 0.1,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 4,
        "seed": 0,
        **settings,
    }
    data = Points()
    return transformers.Trainer(
        model,
        transformers.TrainingArguments(**arguments),
        train_dataset=data,
        eval_dataset=data,
        callbacks=[*callbacks],
    )


class Reporter:
    """A logger of the trainer: keeps what it is told."""

    def __new__(cls) -> Any:
        rows: list[dict[str, float]] = []

        def on_log(self: Any, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            rows.append(dict(logs))

        return type("Rows", (transformers.TrainerCallback,), {"on_log": on_log, "rows": rows})()


def test_pruned_weights_stay_zero_and_the_others_train(tmp_path: Path) -> None:
    model = network()
    masks = masks_for(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    callback = MaskCallback(masks)
    assert isinstance(callback, transformers.TrainerCallback)
    trainer = trainer_of(tmp_path, model, callback)
    with watched(model, masks) as seen:
        trainer.train()
    assert (seen.steps, seen.revived, revived(model, masks)) == (12, 0, 0)
    assert all(bool((model.get_parameter(n) != before[n])[mask].all()) for n, mask in masks.items())
    assert callback.handle is None
    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())
    with watched(model, masks) as seen:
        trainer.train()  # a second time
    assert (seen.steps, seen.revived) == (12, 0)


def test_masks_travel_in_checkpoints(tmp_path: Path) -> None:
    model = network()
    masks = masks_for(model)
    settings = {"save_strategy": "steps", "save_steps": 4}
    trainer_of(tmp_path / "whole", model, MaskCallback(masks), **settings).train()
    for step in (4, 8, 12):
        assert Masks.load(tmp_path / "whole" / f"checkpoint-{step}" / "masks.safetensors") == masks

    for given in (masks, None):
        other = network(seed=1)
        with watched(other, masks) as seen:
            trainer = trainer_of(tmp_path / "whole", other, MaskCallback(given), **settings)
            trainer.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-8"))
        assert (seen.steps, seen.revived) == (4, 0)
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in other.state_dict().items())


def test_a_checkpoint_that_lies_elsewhere_is_compared_too(tmp_path: Path) -> None:
    model = network()
    masks = masks_for(model)
    settings = {"save_strategy": "steps", "save_steps": 4}
    trainer_of(tmp_path / "first", model, MaskCallback(masks), **settings).train()
    place = str(tmp_path / "first" / "checkpoint-4")
    trainer_of(tmp_path / "second", network(), MaskCallback(masks)).train(resume_from_checkpoint=place)
    others = masks_for(model, density=0.5)
    with pytest.raises(ValueError, match=r"^the checkpoint at step 4 was trained with other masks than those given"):
        trainer_of(tmp_path / "second", network(), MaskCallback(others)).train(resume_from_checkpoint=place)
    with pytest.raises(ValueError, match=r"step 4 has lost its masks: there is no masks.safetensors in .*Masks.load"):
        trainer_of(tmp_path / "second", network(), MaskCallback()).train(resume_from_checkpoint=place)
    trainer_of(tmp_path / "second", network(), MaskCallback(), resume_from_checkpoint=place).train(place)


def test_other_masks_and_missing_masks_are_errors(tmp_path: Path) -> None:
    model = network()
    masks, others = masks_for(model), masks_for(model, density=0.5)
    settings = {"save_strategy": "steps", "save_steps": 4}
    trainer_of(tmp_path, model, MaskCallback(masks), **settings).train()
    message = rf"step 12 was trained with other masks \({masks.kept} of .* kept\) than those given \({others.kept} of"
    fresh = network()
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        trainer_of(tmp_path, fresh, MaskCallback(others), **settings).train(resume_from_checkpoint=True)
    assert not any(parameter._post_accumulate_grad_hooks for parameter in fresh.parameters())
    assert before.keys() == fresh.state_dict().keys()

    trainer_of(tmp_path / "dense", network(), **settings).train()
    for given in (masks, None):
        with pytest.raises(ValueError, match=r"^the checkpoint at step 12 holds no masks, so its weights were not"):
            trainer_of(tmp_path / "dense", network(), MaskCallback(given), **settings).train(
                resume_from_checkpoint=True
            )
    with pytest.raises(ValueError, match=r"^MaskCallback\(\) without masks .* begins anew; give MaskCallback\(masks\)"):
        trainer_of(tmp_path, network(), MaskCallback()).train()
    with pytest.raises(TypeError, match=r"^MaskCallback takes foreprune.Masks, or None for those .* not dict"):
        MaskCallback(dict(masks))


def test_callback_states_may_be_restored(tmp_path: Path) -> None:
    model = network()
    masks = masks_for(model)
    settings = {"save_strategy": "steps", "save_steps": 4, "restore_callback_states_from_checkpoint": True}
    trainer_of(tmp_path, model, MaskCallback(masks), **settings).train()
    other = network(seed=1)
    with watched(other, masks) as seen:
        trainer_of(tmp_path, other, MaskCallback(masks), **settings).train(str(tmp_path / "checkpoint-8"))
    assert (seen.steps, seen.revived) == (4, 0)


def test_the_best_model_is_masked(tmp_path: Path) -> None:
    model = network()
    masks = masks_for(model)
    settings = {
        "load_best_model_at_end": True,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "save_strategy": "steps",
        "save_steps": 4,
        "save_total_limit": 1,
        "metric_for_best_model": "loss",
    }
    trainer = trainer_of(tmp_path, model, MaskCallback(masks), **settings)
    trainer.train()
    assert trainer.state.best_model_checkpoint is not None
    assert revived(model, masks) == 0
    assert sum(1 for _ in tmp_path.glob("checkpoint-*/masks.safetensors")) == len(list(tmp_path.glob("checkpoint-*")))


def test_numbers_go_to_the_log_and_to_reporters(tmp_path: Path) -> None:
    model = network()
    masks = masks_for(model)
    first = Reporter()
    trainer = trainer_of(tmp_path, model, first, save_strategy="steps", save_steps=4)
    callback = MaskCallback(masks).add_to(trainer)
    assert callback.add_to(trainer) is callback
    assert trainer.callback_handler.callbacks.count(callback) == 1
    trainer.train()
    rows = [row for row in first.rows if "loss" in row]
    assert len(rows) == 3
    for row in rows:
        assert row["masks/density"] == pytest.approx(masks.density)
        assert row["masks/revived_weights"] == 0
        assert row["masks/dead_units"] == sum(int((~mask).all(1).sum()) for mask in masks.values())
    history = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["masks/revived_weights"] for row in history] == [0, 0, 0]
    written = json.loads((tmp_path / "checkpoint-12" / "trainer_state.json").read_text())
    assert sum("masks/density" in row for row in written["log_history"]) == 3


def test_numbers_need_not_be_logged(tmp_path: Path) -> None:
    model = network()
    trainer = trainer_of(tmp_path, model, MaskCallback(masks_for(model), log=False))
    trainer.train()
    assert not any("masks/density" in row for row in trainer.state.log_history)


def test_an_interrupted_training_can_begin_again(tmp_path: Path) -> None:
    class Stop(RuntimeError):
        pass

    def stop(*_: Any, **__: Any) -> None:
        raise Stop

    model = network()
    masks = masks_for(model)
    broken = type("Broken", (transformers.TrainerCallback,), {"on_epoch_end": stop})()
    trainer = trainer_of(tmp_path, model, MaskCallback(masks), broken)
    with pytest.raises(Stop):
        trainer.train()
    trainer.remove_callback(broken)
    with watched(model, masks) as seen:
        trainer.train()
    assert (seen.steps, seen.revived) == (12, 0)
    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())
