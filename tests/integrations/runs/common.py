"""1,000 steps under one trainer, with one thing switched on: a program of the tests, alone or started by torchrun.

python training_runs.py TRAINER LAYOUT STEPS FOLDER FEATURE...

LAYOUT is single, ddp or fsdp2. Process 0 writes FOLDER/<feature>.json for each feature: steps taken in all, weights
that were revived after any of them, in the end, in the average and after the checkpoint was loaded, and whether the
masks were found in the checkpoint.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from contract.extras import imported
from integrations.shared import Net, Points, masks_for, network, revived, watched
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, DistributedSampler

from foreprune import Masks

FEATURES = ("resume", "compile", "ema", "clip", "accumulate", "bf16")
BATCH = 16
Found = dict[str, Any]


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.003, weight_decay=0.1)


class Ema:
    """Averages of the parameters, for modules under `fully_shard`, which cannot be copied as AveragedModel does."""

    def __init__(self, model: nn.Module) -> None:
        self.values = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    def update_parameters(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            self.values[name].lerp_(parameter.detach(), 0.01)

    def get_parameter(self, name: str) -> Tensor:
        return self.values[name]


def ema_of(model: nn.Module) -> Any:
    if sharded(model):
        return Ema(model)
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))


def average_revived(average: Any, masks: Masks) -> int:
    inside = average if isinstance(average, Ema) else next(m for m in average.modules() if isinstance(m, Net))
    return revived(inside, masks)


def sharded(model: nn.Module) -> bool:
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def allow_sharding_on_cpus() -> None:
    """accelerate shards on GPUs only, and on CPUs takes DistributedDataParallel without a word."""
    state = imported("accelerate.state")
    original = state.AcceleratorState.__init__

    def begin(self: Any, *args: Any, fsdp_plugin: Any = None, **settings: Any) -> None:
        original(self, *args, fsdp_plugin=fsdp_plugin, **settings)
        if fsdp_plugin is not None and self.distributed_type == state.DistributedType.MULTI_CPU:
            state.PartialState._shared_state["distributed_type"] = state.DistributedType.FSDP
            self.distributed_type, self.fsdp_plugin = state.DistributedType.FSDP, fsdp_plugin

    state.AcceleratorState.__init__ = begin


def batches(steps: int) -> Any:
    """Batches for so many passes of the network, on each process its own."""
    data = Points()
    sampler = DistributedSampler(data, world(), rank(), shuffle=True) if world() > 1 else None
    loader = DataLoader(data, batch_size=BATCH, shuffle=sampler is None, sampler=sampler)
    done = 0
    while True:
        for batch in loader:
            if done == steps:
                return
            done += 1
            yield batch


def loop(
    forward: Callable[..., Any],
    backward: Callable[[Tensor], object],
    optimizer: Any,
    steps: int,
    *,
    feature: str,
    clip: Callable[[], object],
    after: Callable[[], object] = lambda: None,
    around: Callable[[], AbstractContextManager[object]] | None = None,
) -> None:
    """An ordinary loop; for the feature `accumulate`, gradients of two batches are added up, by `around` if given."""
    each = 2 if feature == "accumulate" else 1
    for index, batch in enumerate(batches(steps * each)):
        with around() if around else nullcontext():
            with torch.autocast("cpu", torch.bfloat16, enabled=feature == "bf16"):
                loss = forward(**batch)["loss"]
            backward(loss if around else loss / each)
            if around or (index + 1) % each == 0:
                if feature == "clip":
                    clip()
                optimizer.step()
                optimizer.zero_grad()
                after()


def plain(layout: str, feature: str, steps: int, folder: Path) -> Found:
    def started(seed: int) -> tuple[Net, Any, Any]:
        net = network(seed)
        if layout == "fsdp2":
            from torch.distributed.fsdp import fully_shard

            for part in net.body:
                if isinstance(part, nn.Linear):
                    fully_shard(part)
            fully_shard(net)
        model: Any = torch.compile(net) if feature == "compile" else net
        if layout == "ddp":
            model = nn.parallel.DistributedDataParallel(model)
        return net, model, adamw(net)

    masks = masks_for(network())
    net, model, optimizer = started(0)
    masks.attach(model, optimizer)
    average = ema_of(net) if feature == "ema" else None
    found: Found = {"steps": 0, "revived": 0}

    def go(net: Net, model: Any, optimizer: Any, number: int) -> None:
        clip = functools.partial(nn.utils.clip_grad_norm_, net.parameters(), 0.1)
        update = functools.partial(average.update_parameters, net) if average else lambda: None
        with watched(net, masks) as seen:
            loop(model, Tensor.backward, optimizer, number, feature=feature, clip=clip, after=update)
        found["steps"] += seen.steps
        found["revived"] += seen.revived

    if feature != "resume":
        go(net, model, optimizer, steps)
    else:
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

        go(net, model, optimizer, steps // 2)
        weights, state = get_state_dict(net, optimizer)
        if world() > 1:
            dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder / "state")
        else:
            torch.save({"model": weights, "optimizer": state}, folder / "state.pt")
        if rank() == 0:
            masks.save(folder / "masks.safetensors")
        barrier()
        net, model, optimizer = started(1)
        found["carried"] = Masks.load(folder / "masks.safetensors") == masks
        Masks.load(folder / "masks.safetensors").attach(model, optimizer)
        weights, state = get_state_dict(net, optimizer)
        if world() > 1:
            dcp.load({"model": weights, "optimizer": state}, checkpoint_id=folder / "state")
        else:
            content = torch.load(folder / "state.pt", weights_only=True)
            weights, state = content["model"], content["optimizer"]
        set_state_dict(net, optimizer, model_state_dict=weights, optim_state_dict=state)
        found["loaded"] = revived(net, masks)
        go(net, model, optimizer, steps - steps // 2)
    found |= {"end": revived(net, masks), "sharded": sharded(net)}
    if average is not None:
        found["average"] = average_revived(average, masks)
    return found


def barrier() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def accelerate(layout: str, feature: str, steps: int, folder: Path) -> Found:
    library = imported("accelerate")
    from foreprune.integrations.accelerate import attach

    masks = masks_for(network())
    found: Found = {"steps": 0, "revived": 0}
    settings: dict[str, Any] = {"cpu": True, "gradient_accumulation_steps": 2 if feature == "accumulate" else 1}
    if feature == "compile":
        settings["dynamo_backend"] = "inductor"
    if feature == "bf16":
        settings["mixed_precision"] = "bf16"
    if layout == "fsdp2":
        allow_sharding_on_cpus()
        settings["fsdp_plugin"] = library.FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="size_based_wrap",
            min_num_params=500,
            cpu_ram_efficient_loading=False,
            state_dict_type="SHARDED_STATE_DICT",
        )

    def started(seed: int) -> tuple[Any, Net, Any, Any]:
        library.state.AcceleratorState._reset_state(reset_partial_state=True)
        net = network(seed)
        accelerator = library.Accelerator(**settings)
        model, optimizer = accelerator.prepare(net, adamw(net))
        attach(masks, accelerator, model, optimizer)
        inside = next(module for module in model.modules() if isinstance(module, Net))
        return accelerator, inside, model, optimizer

    accelerator, net, model, optimizer = started(0)
    average = ema_of(net) if feature == "ema" else None

    def go(accelerator: Any, net: Net, model: Any, optimizer: Any, number: int) -> None:
        clip = functools.partial(accelerator.clip_grad_norm_, model.parameters(), 0.1)
        update = functools.partial(average.update_parameters, net) if average else lambda: None
        with watched(net, masks) as seen:
            loop(
                *(model, accelerator.backward, optimizer, number),
                feature="" if feature == "bf16" else feature,
                clip=clip,
                after=update,
                around=functools.partial(accelerator.accumulate, model),
            )
        found["steps"] += seen.steps
        found["revived"] += seen.revived

    if feature == "resume":
        go(accelerator, net, model, optimizer, steps // 2)
        accelerator.save_state(str(folder / "state"))
        accelerator.wait_for_everyone()
        accelerator, net, model, optimizer = started(1)
        accelerator.load_state(str(folder / "state"))
        found["carried"] = Masks.load(folder / "state" / "masks.safetensors") == masks
        found["loaded"] = revived(net, masks)
        go(accelerator, net, model, optimizer, steps - steps // 2)
    else:
        go(accelerator, net, model, optimizer, steps)
    found |= {"end": revived(net, masks), "sharded": sharded(net)}
    if average is not None:
        found["average"] = average_revived(average, masks)
    return found


def transformers(layout: str, feature: str, steps: int, folder: Path) -> Found:
    library = imported("transformers")
    from foreprune.integrations.transformers import MaskCallback

    masks = masks_for(network())
    found: Found = {"steps": 0, "revived": 0}
    averages: list[Any] = []
    sharding: dict[str, Any] = {}
    if layout == "fsdp2":
        allow_sharding_on_cpus()
        plan = {"fsdp_version": 2, "min_num_params": 500, "cpu_ram_efficient_loading": False}
        plan["state_dict_type"] = "SHARDED_STATE_DICT"
        sharding = {"fsdp": True, "fsdp_config": plan}

    class Average(library.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
            averages[:] = [ema_of(model)]

        def on_step_end(self, *_: Any, model: Any, **__: Any) -> None:
            averages[0].update_parameters(model)

    def go(seed: int, until: int, **settings: Any) -> Net:
        net = network(seed)
        arguments = library.TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=BATCH,
            max_steps=until,
            learning_rate=0.003,
            weight_decay=0.1,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            logging_steps=100,
            save_strategy="steps" if feature == "resume" else "no",
            save_steps=steps // 2,
            max_grad_norm=0.1 if feature == "clip" else 0.0,
            gradient_accumulation_steps=2 if feature == "accumulate" else 1,
            bf16=feature == "bf16",
            torch_compile=feature == "compile",
            **sharding,
        )
        callbacks = [MaskCallback(masks), *([Average()] if feature == "ema" else [])]
        trainer = library.Trainer(net, arguments, train_dataset=Points(), callbacks=callbacks)
        with watched(net, masks) as seen:
            trainer.train(**settings)
        found["steps"] += seen.steps
        found["revived"] += seen.revived
        return net

    if feature == "resume":
        go(0, steps // 2)
        path = folder / f"checkpoint-{steps // 2}"
        found["carried"] = Masks.load(path / "masks.safetensors") == masks
        net = go(1, steps, resume_from_checkpoint=str(path))
        found["loaded"] = 0  # watched from the first step on
    else:
        net = go(0, steps)
    found |= {"end": revived(net, masks), "sharded": sharded(net)}
    if averages:
        found["average"] = average_revived(averages[0], masks)
    return found


def lightning(layout: str, feature: str, steps: int, folder: Path) -> Found:
    library = imported("lightning")
    from foreprune.integrations.lightning import MaskCallback

    masks = masks_for(network())
    found: Found = {"steps": 0, "revived": 0}

    class Lit(library.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.model = network(seed)

        def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
            loss: Tensor = self.model(**batch)["loss"]
            return loss

        def configure_model(self) -> None:
            if layout == "fsdp2" and not sharded(self.model):
                from torch.distributed.fsdp import fully_shard

                fully_shard(self.model.body[0], mesh=self.device_mesh["data_parallel"])
                fully_shard(self.model, mesh=self.device_mesh["data_parallel"])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return adamw(self)

    averages: list[Any] = []

    class Average(library.Callback):  # type: ignore[misc, name-defined]
        def on_train_start(self, trainer: Any, module: Any) -> None:
            self._average_model = ema_of(module)
            averages[:] = [self]

        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            self._average_model.update_parameters(module)

    def go(seed: int, until: int, path: Path | None = None) -> Lit:
        lit = Lit(seed)
        callbacks: list[Any] = [MaskCallback(masks.renamed(add="model."))]
        if feature == "ema" and layout == "fsdp2":  # Lightning's own copies the module
            callbacks += [Average()]
        elif feature == "ema":
            averages[:] = [library.pytorch.callbacks.EMAWeightAveraging(decay=0.99)]
            callbacks += averages
        strategy: Any = "auto"
        if layout == "ddp":
            strategy = library.pytorch.strategies.DDPStrategy(process_group_backend="gloo")
        if layout == "fsdp2":
            strategy = library.pytorch.strategies.ModelParallelStrategy(process_group_backend="gloo")
        trainer = library.Trainer(
            max_steps=until,
            accelerator="cpu",
            devices=world(),
            strategy=strategy,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=100,
            default_root_dir=str(folder),
            gradient_clip_val=0.1 if feature == "clip" else None,
            accumulate_grad_batches=2 if feature == "accumulate" else 1,
            precision="bf16-mixed" if feature == "bf16" else "32-true",
        )
        loader = DataLoader(Points(), batch_size=BATCH, shuffle=True)
        module: Any = torch.compile(lit) if feature == "compile" else lit
        with watched(lit.model, masks) as seen:
            trainer.fit(module, loader, ckpt_path=path)
        found["steps"] += seen.steps
        found["revived"] += seen.revived
        if feature == "resume" and path is None:
            trainer.save_checkpoint(folder / "half.ckpt")
        return lit

    if feature == "resume":
        go(0, steps // 2)
        path = folder / "half.ckpt"  # a folder where weights are sharded
        content = torch.load(path / "meta.pt" if path.is_dir() else path, weights_only=True)
        found["carried"] = "masks" in content["callbacks"]["MaskCallback"]
        lit = go(1, steps, folder / "half.ckpt")
        found["loaded"] = 0  # watched from the first step on
    else:
        lit = go(0, steps)
    found |= {"end": revived(lit.model, masks), "sharded": sharded(lit.model)}
    if averages:
        inside = masks.renamed(add="model.") if layout == "fsdp2" else masks
        found["average"] = average_revived(averages[0]._average_model, inside)
    return found


TRAINERS = {"plain": plain, "transformers": transformers, "lightning": lightning, "accelerate": accelerate}


def main() -> None:
    trainer, layout, steps, folder, *features = sys.argv[1:]
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if layout != "single":
        torch.distributed.init_process_group("gloo")
    for feature in features:
        torch._dynamo.reset() if feature == "compile" else None
        place = Path(folder) / feature
        place.mkdir(exist_ok=True)
        found = TRAINERS[trainer](layout, feature, int(steps), place)
        if rank() == 0:
            (Path(folder) / f"{feature}.json").write_text(json.dumps(found))
    barrier()
    os._exit(0)  # threads of gloo now and then abort while the interpreter shuts down


if __name__ == "__main__":
    main()
