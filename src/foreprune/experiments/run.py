"""One run: build the network, prune it, train it, test it, write down what came out."""

from __future__ import annotations

import math
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foreprune.analysis import analyze, path_kernel_trace, unit_histograms
from foreprune.core.atomic import atomic_write
from foreprune.core.masks import Masks
from foreprune.core.net import Net, modes_kept, primary_output, set_modes
from foreprune.procedures.shared import RunContext, channels_last, dense_run, start_of, train, warn_of_collapse
from foreprune.records import (
    Epoch,
    Experiment,
    LayerRecord,
    Record,
    is_full,
    make_folder,
    now,
    run_folder,
    write_record,
)
from foreprune.zoo import datasets
from foreprune.zoo.datasets import load_cached
from foreprune.zoo.images import Images

_OUTPUT_IMAGES = 1000  # test images whose outputs are compared before and after training
_OUTPUTS_AT_ONCE = 250
_TRACE = "trace.txt"  # in the run's folder while it trains


def layers_of(model: nn.Module, masks: Masks) -> tuple[LayerRecord, ...]:
    """Counts and remaining units of every prunable block, in order."""
    counts, units = masks.block_counts(), unit_histograms(model, masks)
    return tuple(
        LayerRecord(
            name=block.name,
            shape=block.shape,
            kept=counts[block.name][0],
            total=counts[block.name][1],
            units_alive=sum(units[block.name][1:]),
            units=sum(units[block.name]),
            unit_densities=units[block.name],
        )
        for block in masks.blocks
    )


def structure_of(model: nn.Module, masks: Masks, shape: tuple[int, int, int]) -> dict[str, float | int | None]:
    """What the masks leave of the network at its initial weights, as the numbers of `Record.analysis`."""
    try:
        found = analyze(model, masks, inputs=torch.zeros(1, *shape))
    except ValueError as error:  # a network too odd to analyze can be pruned and trained all the same
        warnings.warn(f"analysis: {error}", stacklevel=2)
        return {}
    shares = [width.connected / width.units for width in found.widths.values() if width.connected is not None]
    plain = found.to_dict()
    names = ("effective_density", "log10_paths", "log10_path_norm", "log10_path_kernel_trace", "macs", "dense_macs")
    return {
        **{name: plain[name] for name in names},
        "width": sum(shares) / len(shares) if shares else None,
        "dead_layers": len(found.dead_layers),
    }


def run_experiment(
    experiment: Experiment,
    *,
    out: Path,
    data_dir: str | None = None,
    device: str = "cpu",
    environment: dict[str, Any] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    data: datasets.DataSet | None = None,
    snapshots: Sequence[int] = (),
) -> Record:
    """Carry one experiment out and write its record, which is returned; a failure is a record too.

    The run's folder holds `record.json`, `masks.safetensors` and, while it trains, `checkpoint.pt`: a run that was
    interrupted continues from there. A failure leaves its traceback in `traceback.txt`. What runs share of the dense
    training lies in `out/dense`; the dense run itself is read from there if another run
    has needed it before. Networks with 2-d convolutions are pruned as they are and trained channels last.

    Args:
        on_epoch: called with each new point of this run's own curve, not of dense trainings that it begins from.
        data: the data set, if it has been read already.
        snapshots: the steps of the dense training whose weights this or other runs need, so that one training saves
            them all: `snapshots_for(experiment, steps_needed(experiments))` of `foreprune.procedures`.
            Without, they are trained when they are missed.

    Raises:
        OSError: the disk is full.
    """
    folder = make_folder(run_folder(out, experiment))
    started = now()
    facts: dict[str, Any] = {}
    note = ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            data = data or load_cached(experiment.data, data_dir)
            if torch.device(device).type == "cuda":  # batches are cut and augmented there, not copied one by one
                data = data.to(device)
            note = data.note
            run = RunContext(experiment, data, _train_images(experiment, data), out, device, tuple(snapshots))
            facts = _measure(run, folder, on_epoch)
            status, error = "finished", None
            (folder / "traceback.txt").unlink(missing_ok=True)
        except Exception as failure:  # whatever a user's model or data can raise is this run's result
            if is_full(failure):  # no result of this run, and the next would meet it too
                raise
            status, error = "failed", f"{type(failure).__name__}: {failure}"
            facts = {"curve": getattr(failure, "curve", ())}
            atomic_write(folder / "traceback.txt", traceback.format_exc().encode())
    record = Record.model_validate(
        {
            "id": experiment.id,
            "experiment": experiment,
            "status": status,
            "error": error,
            "warnings": tuple(dict.fromkeys(str(item.message) for item in caught)),
            "environment": {
                **(environment or {}),
                **({"data_note": note} if note else {}),
                "started": started,
                "ended": now(),
            },
            **facts,
        }
    )
    write_record(out, record)
    for name in ("checkpoint.pt", _TRACE):
        (folder / name).unlink(missing_ok=True)
    return record


def _train_images(experiment: Experiment, data: datasets.DataSet) -> Images:
    if experiment.train_size:
        return data.train.subset(experiment.train_size, seed=experiment.seed)
    return data.train


def _measure(run: RunContext, folder: Path, on_epoch: Callable[[Epoch], None] | None) -> dict[str, Any]:
    start = start_of(run)
    model, masks, schedule = start.model, start.masks, start.schedule
    if schedule is None:
        _save_masks(run, masks, folder)
        left = structure_of(model, masks, run.data.shape)
    channels_last(model)
    masks.apply_(model)
    weights, outputs = _weights(model, masks), _outputs(run, model)
    if run.experiment.method == "dense":
        history = dense_run(run, model, on_epoch=on_epoch)
    else:
        history = train(
            run,
            model,
            order=start.order,
            masks=masks,
            mask_schedule=schedule,
            checkpoint=folder / "checkpoint.pt",
            on_epoch=on_epoch if schedule is not None else _noting_trace(run, model, masks, folder / _TRACE, on_epoch),
        )
    if schedule is not None:
        masks = schedule.masks
        warn_of_collapse(run, masks)
        _save_masks(run, masks, folder)
        left = structure_of(run.network(), masks, run.data.shape)
    moved = _weight_distance(weights, _weights(model, masks), masks)
    changed = float(torch.linalg.vector_norm(_outputs(run, model) - outputs, dim=1).mean())
    return {
        "top1": history.top1,
        "top5": history.top5,
        "kept": masks.kept,
        "total": masks.total,
        "layers": layers_of(model, masks),
        "analysis": {
            **left,
            "weight_distance": _finite(moved),
            "output_distance": _finite(changed),
            **_noted_trace(folder / _TRACE),
        },
        "curve": history.curve,
        "seconds_prune": start.seconds,
        "seconds_train": history.seconds,
    }


def _noting_trace(
    run: RunContext, model: nn.Module, masks: Masks, path: Path, on_epoch: Callable[[Epoch], None] | None
) -> Callable[[Epoch], None]:
    """`on_epoch`, which also leaves log10 of the path kernel's trace after the first epoch in a file, where a run that
    is continued later finds it."""

    def note(epoch: Epoch) -> None:
        if epoch.epoch == 1:
            try:
                found = path_kernel_trace(model, masks, inputs=torch.zeros(1, *run.data.shape, device=run.device)).log10
            except ValueError:  # no sum over paths: `structure_of` has warned of it
                found = math.nan
            atomic_write(path, repr(found).encode())
        if on_epoch is not None:
            on_epoch(epoch)

    return note


def _noted_trace(path: Path) -> dict[str, float | None]:
    return {"log10_path_kernel_trace_1": _finite(float(path.read_text()))} if path.exists() else {}


def _save_masks(run: RunContext, masks: Masks, folder: Path) -> None:
    masks.save(folder / "masks.safetensors", metadata={"experiment": run.experiment.id})


def _weights(model: nn.Module, masks: Masks) -> dict[str, Tensor]:
    return {name: model.get_parameter(name).detach().to(torch.float64, copy=True) for name in masks}


def _weight_distance(first: dict[str, Tensor], last: dict[str, Tensor], masks: Masks) -> float:
    """Euclidean distance of all kept weights together."""
    return math.sqrt(sum(float((last[name] - first[name])[masks[name]].square().sum()) for name in masks))


def _outputs(run: RunContext, model: nn.Module) -> Tensor:
    """Outputs (N, everything else) of the first test images; modes and buffers stay.

    Batch normalization uses the statistics of each batch, everything else is in evaluation mode: the running statistics
    of a network that was not trained are those of no data. A last batch of one image, which has no statistics, is left
    out of networks with batch normalization.
    """
    net, found = Net.of(model), list[Tensor]()
    batches = run.data.test.batches(_OUTPUTS_AT_ONCE, seed=None, epoch=0, augment=False, device=run.device)
    with modes_kept(model), torch.no_grad():
        set_modes(model, batchnorm="train")
        normalized = any(part.training for part in model.modules())
        for images, _ in batches:
            if not (found and normalized and len(images) == 1):
                found.append(primary_output(net(net.params, images)).double().flatten(1))
            if sum(map(len, found)) >= _OUTPUT_IMAGES:
                break
    return torch.cat(found)[:_OUTPUT_IMAGES]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
