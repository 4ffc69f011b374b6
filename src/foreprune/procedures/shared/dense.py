"""The dense training: one for each data set, network, seed and recipe, shared by every run that begins from it.

Layout under an output folder: `dense/<id of the dense experiment>/` holds `step-<k>.safetensors`, the weights and
buffers after k updates, and `end.safetensors`, those after the last, with the curve of the training. While it trains
there is a `checkpoint.pt`, and a lock file keeps a second process from training the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from foreprune.procedures.dense_steps import dense_of
from foreprune.procedures.registered import END
from foreprune.procedures.shared.run_context import RunContext
from foreprune.procedures.shared.snapshots import (
    Snapshot,
    load_into,
    lock,
    read_snapshot,
    state_of,
    write_snapshot,
)
from foreprune.records import Epoch, make_folder, remove_unfinished
from foreprune.training.fit import MaskMap, MaskSchedule, fit
from foreprune.training.history import History

_ORDER_SEEDS = 2_000_003


def channels_last(model: nn.Module) -> None:
    """Lay out the kernels of 2-d convolutions channels last, in place: faster to train on a CPU, equal in value."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def train(
    run: RunContext,
    model: nn.Module,
    *,
    order: int,
    checkpoint: Path | None,
    masks: MaskMap | None = None,
    mask_schedule: MaskSchedule | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[int, nn.Module], None] | None = None,
) -> History:
    """Train `model` in place by the recipe, channels last; `order` is the seed of the order of the data."""
    recipe = run.experiment.recipe
    channels_last(model)
    return fit(
        model,
        run.train,
        run.data.test,
        recipe=recipe,
        masks=masks,
        mask_schedule=mask_schedule,
        loss=run.data.loss_function,
        seed=order,
        device=run.device,
        checkpoint=checkpoint,
        checkpoint_every=max(1, recipe.epochs // 40),
        on_epoch=on_epoch,
        on_step=on_step,
    )


@contextlib.contextmanager
def deleted_on_failure(checkpoint: Path) -> Iterator[None]:
    """A training that fails begins anew next time, in case its checkpoint is the reason; not where the disk is."""
    try:
        yield
    except OSError:  # it goes on when there is room on the disk again
        raise
    except Exception:
        checkpoint.unlink(missing_ok=True)
        raise


def dense_weights(run: RunContext, step: int) -> dict[str, Tensor]:
    """Parameters and buffers of the dense training after `step` updates (`END`: after the last), on the CPU.

    Read from disk, where a training has left them; else the dense network is trained that far, from its checkpoint if
    there is one, and saves what `run.snapshots` asks for on the way.

    Raises:
        ValueError: the training is shorter, or it failed.
    """
    if step == 0:
        return state_of(run.network())
    check_step(step, run.steps)
    try:
        return _shared(run, step).tensors
    except ValueError as error:
        raise ValueError(f"the dense training that this run begins from failed: {error}") from error


def network_at(run: RunContext, step: int) -> nn.Module:
    """The network, on its device, with the weights and buffers of the dense training after `step` updates."""
    model = run.network()
    if step:
        load_into(model, dense_weights(run, step), source=run.dense_folder)
    return model


def order_at(run: RunContext, step: int) -> int:
    """The seed of the order of the data for weights of that step of the dense training.

    A network at its initial weights trains in the order of its seed, which is that of the dense run: runs of one seed
    are paired, whenever their masks were found. Weights that have seen data would see the same batches in the same
    order again; they train in an order of their own.
    """
    return run.experiment.seed + (_ORDER_SEEDS if step else 0)


def dense_run(run: RunContext, model: nn.Module, *, on_epoch: Callable[[Epoch], None] | None = None) -> History:
    """Load the last weights of the dense training into `model` and return its curve. It is done now unless another run
    has needed it before.

    Raises:
        TrainingDiverged: as `fit`.
    """
    end = _shared(run, END, on_epoch=on_epoch)
    load_into(model, end.tensors, source=run.dense_folder)
    return History.from_json(end.about["history"])


def check_step(step: int, steps: int) -> None:
    """Raise ValueError unless a training of `steps` updates has a step of that number."""
    if step > steps:
        raise ValueError(
            f"there is no step {step:,} in the dense training: it has {steps:,} optimizer steps; "
            f"prune or rewind at one of 0 to {steps}"
        )


class _Enough(Exception):
    """No step to come is needed."""


def _shared(run: RunContext, step: int, *, on_epoch: Callable[[Epoch], None] | None = None) -> Snapshot:
    step = _canonical(run, step)
    if found := _read(run, step):
        return found
    folder = make_folder(run.dense_folder)
    with lock(folder / "lock") as alone:
        if alone:
            remove_unfinished(folder)
        if found := _read(run, step):  # another process has made it meanwhile
            return found
        wanted = {_canonical(run, other) for other in run.snapshots if other <= run.steps}
        missing = {step} | {other for other in wanted - {0} if not _read(run, other)}
        _make(run, missing, on_epoch=on_epoch)
        if made := _read(run, step):
            return made
    raise OSError(f"{_path(run, step)} was written and cannot be read back; look at the disk")


def _canonical(run: RunContext, step: int) -> int:
    return END if step == run.steps else step


def _path(run: RunContext, step: int) -> Path:
    return run.dense_folder / ("end.safetensors" if step == END else f"step-{step}.safetensors")


def _about(run: RunContext, step: int) -> dict[str, str]:
    return {"experiment": dense_of(run.experiment).id, "step": str(run.steps if step == END else step)}


def _read(run: RunContext, step: int) -> Snapshot | None:
    return read_snapshot(_path(run, step), about=_about(run, step))


def _make(run: RunContext, missing: set[int], *, on_epoch: Callable[[Epoch], None] | None) -> None:
    """Train the dense network until no missing step lies ahead; `missing` ends up empty, what it held on disk."""

    def on_step(step: int, model: nn.Module) -> None:
        if step in missing:
            write_snapshot(_path(run, step), state_of(model), about=_about(run, step))
            missing.discard(step)
        if not any(other == END or other > step for other in missing):
            raise _Enough

    def until_enough(checkpoint: Path | None, on_epoch: Callable[[Epoch], None] | None = None) -> None:
        model, order = run.network(), run.experiment.seed
        with contextlib.suppress(_Enough):
            history = train(run, model, order=order, checkpoint=checkpoint, on_epoch=on_epoch, on_step=on_step)
            if END in missing:
                about = {**_about(run, END), "history": history.to_json()}
                write_snapshot(_path(run, END), state_of(model), about=about)
                missing.discard(END)

    checkpoint = run.dense_folder / "checkpoint.pt"
    with deleted_on_failure(checkpoint):
        until_enough(checkpoint, on_epoch)
        if missing:  # steps before a checkpoint of a training that did not save them
            until_enough(None)
    if _path(run, END).exists():
        checkpoint.unlink(missing_ok=True)
