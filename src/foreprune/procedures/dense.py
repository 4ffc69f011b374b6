"""The dense training: one for each data set, network, seed and recipe, shared by every run that begins from it.

Layout under an output folder: `dense/<id of the dense experiment>/` holds `step-<k>.safetensors`, the weights and
buffers after k updates, and `end.safetensors`, those after the last, with the curve of the training. While it trains
there is a `checkpoint.pt`, and a lock file keeps a second process from training the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from foreprune.procedures.procedures import END, dense_of
from foreprune.procedures.snapshots import Snapshot, lock, read_snapshot, state_of, write_snapshot
from foreprune.records.spec import Epoch, Experiment
from foreprune.records.store import make_folder, remove_unfinished
from foreprune.training.fit import MaskMap, MaskSchedule, fit, steps_per_epoch
from foreprune.training.history import History
from foreprune.zoo import datasets
from foreprune.zoo.images import Images
from foreprune.zoo.models import create

DENSE = "dense"


@dataclass(frozen=True, eq=False)
class Setting:
    """One run with all it stands on.

    Attributes:
        experiment: the run.
        data: its data set.
        train: the training images, those of `train_size` only.
        out: output folder.
        device: where to compute.
        snapshots: steps at which a dense training that has to be done saves its weights.
    """

    experiment: Experiment
    data: datasets.DataSet
    train: Images
    out: Path
    device: str
    snapshots: tuple[int, ...] = ()

    @property
    def steps(self) -> int:
        """Optimizer steps of one training by the recipe."""
        recipe = self.experiment.recipe
        return recipe.epochs * steps_per_epoch(self.train, recipe)

    @property
    def dense_folder(self) -> Path:
        """Where the dense training keeps what it shares."""
        return self.out / DENSE / dense_of(self.experiment).id


def network(setting: Setting) -> nn.Module:
    """The network at its initial weights."""
    experiment, data = setting.experiment, setting.data
    return create(
        experiment.model, input_shape=data.shape, classes=data.classes, init=experiment.init, seed=experiment.seed
    ).to(setting.device)


def channels_last(model: nn.Module) -> None:
    """Lay out the kernels of 2-d convolutions channels last, in place: faster to train on a CPU, equal in value."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def train(
    setting: Setting,
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
    recipe = setting.experiment.recipe
    channels_last(model)
    return fit(
        model,
        setting.train,
        setting.data.test,
        recipe=recipe,
        masks=masks,
        mask_schedule=mask_schedule,
        loss=setting.data.loss_function,
        seed=order,
        device=setting.device,
        checkpoint=checkpoint,
        checkpoint_every=max(1, recipe.epochs // 10),
        on_epoch=on_epoch,
        on_step=on_step,
    )


def dense_weights(setting: Setting, step: int) -> dict[str, Tensor]:
    """Parameters and buffers of the dense training after `step` updates (`END`: after the last), on the CPU.

    Read from disk, where a training has left them; else the dense network is trained that far, from its checkpoint if
    there is one, and saves what `setting.snapshots` asks for on the way.

    Raises:
        ValueError: the training is shorter, or it failed.
    """
    if step == 0:
        return state_of(network(setting))
    check_step(step, setting.steps)
    try:
        return _shared(setting, step).tensors
    except ValueError as error:
        raise ValueError(f"the dense training that this run begins from failed: {error}") from error


def dense_run(
    setting: Setting, *, on_epoch: Callable[[Epoch], None] | None = None
) -> tuple[History, dict[str, Tensor]]:
    """The curve and the last weights of the dense training, which is done now unless another run has needed it before.

    Raises:
        TrainingDiverged: as `fit`.
    """
    end = _shared(setting, END, on_epoch=on_epoch)
    return History.from_json(end.about["history"]), end.tensors


def check_step(step: int, steps: int) -> None:
    """Raise ValueError unless a training of `steps` updates has a step of that number."""
    if step > steps:
        raise ValueError(
            f"there is no step {step:,} in the dense training: it has {steps:,} optimizer steps; "
            f"prune or rewind at one of 0 to {steps}"
        )


class _Enough(Exception):
    """No step to come is needed."""


def _shared(setting: Setting, step: int, *, on_epoch: Callable[[Epoch], None] | None = None) -> Snapshot:
    step = _canonical(setting, step)
    if found := _read(setting, step):
        return found
    folder = make_folder(setting.dense_folder)
    with lock(folder / "lock") as alone:
        if alone:
            remove_unfinished(folder)
        if found := _read(setting, step):  # another process has made it meanwhile
            return found
        wanted = {_canonical(setting, other) for other in setting.snapshots if other <= setting.steps}
        missing = {step} | {other for other in wanted - {0} if not _read(setting, other)}
        _make(setting, missing, on_epoch=on_epoch)
        if made := _read(setting, step):
            return made
    raise OSError(f"{_path(setting, step)} was written and cannot be read back; look at the disk")


def _canonical(setting: Setting, step: int) -> int:
    return END if step == setting.steps else step


def _path(setting: Setting, step: int) -> Path:
    return setting.dense_folder / ("end.safetensors" if step == END else f"step-{step}.safetensors")


def _about(setting: Setting, step: int) -> dict[str, str]:
    return {"experiment": dense_of(setting.experiment).id, "step": str(setting.steps if step == END else step)}


def _read(setting: Setting, step: int) -> Snapshot | None:
    return read_snapshot(_path(setting, step), about=_about(setting, step))


def _make(setting: Setting, missing: set[int], *, on_epoch: Callable[[Epoch], None] | None) -> None:
    """Train the dense network as far as the last missing step and save the missing ones."""
    checkpoint = setting.dense_folder / "checkpoint.pt"
    try:
        _train_dense(setting, missing, checkpoint=checkpoint, on_epoch=on_epoch)
        if missing:  # steps before a checkpoint of a training that did not save them
            _train_dense(setting, missing, checkpoint=None, on_epoch=None)
    except OSError:  # no fault of the training: it goes on when there is room on the disk again
        raise
    except Exception:
        checkpoint.unlink(missing_ok=True)  # a failure begins anew next time, in case the checkpoint is the reason
        raise
    if _path(setting, END).exists():
        checkpoint.unlink(missing_ok=True)


def _train_dense(
    setting: Setting, missing: set[int], *, checkpoint: Path | None, on_epoch: Callable[[Epoch], None] | None
) -> None:
    """Train until no missing step lies ahead, and take out of `missing` what has been saved."""

    def on_step(step: int, model: nn.Module) -> None:
        if step in missing:
            write_snapshot(_path(setting, step), state_of(model), about=_about(setting, step))
            missing.discard(step)
        if not any(other == END or other > step for other in missing):
            raise _Enough

    model = network(setting)
    try:
        history = train(
            setting,
            model,
            order=setting.experiment.seed,
            checkpoint=checkpoint,
            on_epoch=on_epoch,
            on_step=on_step,
        )
    except _Enough:
        return
    if END in missing:
        about = {**_about(setting, END), "history": history.to_json()}
        write_snapshot(_path(setting, END), state_of(model), about=about)
        missing.discard(END)
