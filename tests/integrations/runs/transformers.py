"""The Trainer of transformers."""

from __future__ import annotations

from typing import Any

from contract.extras import imported
from integrations.runs.common import AVERAGES, BATCH, CLIP, Average, Cell, allow_sharding_on_cpus, net_in
from integrations.shared import Net, Points, network

from foreprune import Masks


def run(cell: Cell) -> None:
    library = imported("transformers")
    averages: list[Average] = []
    if cell.layout == "fsdp2":
        allow_sharding_on_cpus()
    if cell.feature == "resume":
        _train(cell, library, averages, seed=0, until=cell.steps // 2)
        path = cell.folder / f"checkpoint-{cell.steps // 2}"
        cell.found["carried"] = Masks.load(path / "masks.safetensors") == cell.masks
        net = _train(cell, library, averages, seed=1, until=cell.steps, resume_from_checkpoint=str(path))
    else:
        net = _train(cell, library, averages, seed=0, until=cell.steps)
    cell.end(net, *averages)


def _train(cell: Cell, library: Any, averages: list[Average], *, seed: int, until: int, **settings: Any) -> Net:
    from foreprune.integrations.transformers import MaskCallback

    class Beside(library.TrainerCallback):  # type: ignore[misc, name-defined]
        """After the masks: look at what was loaded, keep an average."""

        def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
            if settings:
                cell.loaded(net_in(model))
            if not cell.masked:
                cell.masks.apply_(net_in(model))
            if cell.feature in AVERAGES:
                averages[:] = [Average(net_in(model), cell.feature)]

        def on_step_end(self, *_: Any, **__: Any) -> None:
            for average in averages:
                average.update()

    sharding: dict[str, Any] = {}
    if cell.layout == "fsdp2":
        plan = {"fsdp_version": 2, "min_num_params": 500, "cpu_ram_efficient_loading": False}
        sharding = {"fsdp": True, "fsdp_config": {**plan, "state_dict_type": "SHARDED_STATE_DICT"}}
    arguments = library.TrainingArguments(
        output_dir=str(cell.folder),
        per_device_train_batch_size=BATCH,
        max_steps=until,
        learning_rate=0.003,
        weight_decay=0.1,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        logging_steps=100,
        save_strategy="steps" if cell.feature == "resume" else "no",
        save_steps=cell.steps // 2,
        max_grad_norm=CLIP if cell.feature == "clip" else 0.0,
        gradient_accumulation_steps=2 if cell.feature == "accumulate" else 1,
        bf16=cell.feature == "bf16",
        torch_compile=cell.feature == "compile",
        **sharding,
    )
    callbacks = [*([MaskCallback(cell.masks)] if cell.masked else []), Beside()]
    net = network(seed)
    trainer = library.Trainer(net, arguments, train_dataset=Points(), callbacks=callbacks)
    with cell.watched(net):
        trainer.train(**settings)
    return net
