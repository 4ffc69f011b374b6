"""The Trainer of Lightning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from contract.extras import imported
from integrations.runs.common import AVERAGES, BATCH, CLIP, Average, Cell, adamw, sharded, world
from integrations.shared import Net, Points, network
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader


def run(cell: Cell) -> None:
    averages: list[Average] = []
    if cell.feature == "resume":
        path = cell.folder / "half.ckpt"  # a folder where weights are sharded
        _train(cell, averages, seed=0, until=cell.steps // 2)
        content = torch.load(path / "meta.pt" if path.is_dir() else path, weights_only=True)
        cell.found["carried"] = "masks" in content["callbacks"]["MaskCallback"]
        net = _train(cell, averages, seed=1, until=cell.steps, path=path)
    else:
        net = _train(cell, averages, seed=0, until=cell.steps)
    cell.end(net, *averages)


def _module(cell: Cell, library: Any, seed: int) -> Any:
    class Lit(library.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = network(seed)

        def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
            loss: Tensor = self.model(**batch)["loss"]
            return loss

        def configure_model(self) -> None:
            if cell.layout == "fsdp2" and not sharded(self.model):
                fully_shard(self.model.body[0], mesh=self.device_mesh["data_parallel"])
                fully_shard(self.model, mesh=self.device_mesh["data_parallel"])
                if cell.feature == "compile":  # with this strategy the trainer refuses compiled modules
                    self.model.compile()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return adamw(self)

    return Lit()


def _train(cell: Cell, averages: list[Average], *, seed: int, until: int, path: Path | None = None) -> Net:
    library = imported("lightning")
    from foreprune.integrations.lightning import MaskCallback

    class Beside(library.Callback):  # type: ignore[misc, name-defined]
        """After the masks: look at what was loaded, keep an average."""

        def on_train_start(self, trainer: Any, module: Any) -> None:
            if path is not None:
                cell.loaded(module.model)
            if not cell.masked:
                cell.masks.apply_(module.model)
            if cell.feature in AVERAGES and own not in callbacks:
                averages[:] = [Average(module.model, cell.feature)]

        def on_train_batch_end(self, *_: Any) -> None:
            for average in averages:
                average.update()

    strategy: Any = "auto"
    if cell.layout == "ddp":
        strategy = library.pytorch.strategies.DDPStrategy(process_group_backend="gloo")
    if cell.layout == "fsdp2":
        strategy = library.pytorch.strategies.ModelParallelStrategy(  # by default the processes of a node share tensors
            data_parallel_size=world(), tensor_parallel_size=1, process_group_backend="gloo"
        )
    callbacks: list[Any] = [MaskCallback(cell.masks.renamed(add="model."))] if cell.masked else []
    own = library.pytorch.callbacks.EMAWeightAveraging(decay=0.99)
    if cell.feature == "ema" and cell.layout != "fsdp2":  # it copies the module
        callbacks += [own]
    trainer = library.Trainer(
        max_steps=until,
        accelerator="cpu",
        devices=world(),
        strategy=strategy,
        callbacks=[*callbacks, Beside()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=100,
        default_root_dir=str(cell.folder),
        gradient_clip_val=CLIP if cell.feature == "clip" else None,
        accumulate_grad_batches=2 if cell.feature == "accumulate" else 1,
        precision="bf16-mixed" if cell.feature == "bf16" else "32-true",
    )
    module = _module(cell, library, seed)
    loader = DataLoader(Points(), batch_size=BATCH, shuffle=True)
    compiled = cell.feature == "compile" and cell.layout != "fsdp2"
    with cell.watched(module.model):
        trainer.fit(torch.compile(module) if compiled else module, loader, ckpt_path=path)
    if cell.feature == "resume" and path is None:
        trainer.save_checkpoint(cell.folder / "half.ckpt")
    if own in callbacks:
        averages[:] = [Average(module.model, cell.feature, made=own._average_model)]
    net: Net = module.model
    return net
