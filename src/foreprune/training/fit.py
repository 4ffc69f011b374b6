"""`fit`: train a network by a recipe, with or without masks. A plain loop, made for many runs of small networks."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foreprune.core.attach import Handle, attach
from foreprune.core.net import isolated_randomness, modes_kept
from foreprune.core.task import Loss
from foreprune.training.batches import Data, ImageSource, batches_of, reiterable
from foreprune.training.checkpoint import identity, read_checkpoint, save_checkpoint
from foreprune.training.evaluate import Evaluation, Tally, autocast, evaluate, loss_value, place
from foreprune.training.history import Epoch, History, TrainingDiverged
from foreprune.training.optimizers import learning_rate, make_optimizer
from foreprune.training.recipes import Recipe

_DEFAULT = Recipe()
MaskMap = Mapping[str, Tensor]
# (updates done, model, masks in force) -> masks from now on, or None for those in force
MaskSchedule = Callable[[int, nn.Module, MaskMap], MaskMap | None]


def fit(
    model: nn.Module,
    train: Data,
    test: Data | None = None,
    *,
    recipe: Recipe = _DEFAULT,
    masks: MaskMap | None = None,
    mask_schedule: MaskSchedule | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[int, nn.Module], None] | None = None,
    evaluate_every: int = 1,
) -> History:
    """Train `model` in place by `recipe` and return the curve, whose last point is the result.

    Test data is only looked at to draw the curve: no epoch, rate or checkpoint is chosen by it. Every epoch is seeded
    from `seed` and its number (torch, NumPy and `random`), so dropout, augmentation and shuffling repeat, and an
    interrupted run that is resumed ends with the same bits on a CPU as one that was not. A DataLoader with a
    `generator` of its own or with persistent workers keeps its own random state and is outside that promise. The global
    random state and the modes (train or eval) of the model's parts are afterwards what they were; gradients are freed.

    Args:
        model: trained in place; parameters without requires_grad stay as they are.
        train: an iterable of batches (input, target) such as a DataLoader, which decides batch size, order and
            augmentation itself; or one such batch; or an image set of `foreprune.zoo`, which is shuffled, batched and
            augmented as `recipe` says. Inputs are as in `evaluate`.
        test: the same, or None for no test results.
        recipe: optimizer, schedule, epochs, precision.
        masks: parameter name -> bool tensor; what they prune is set to zero and stays exactly zero.
        mask_schedule: called as (updates done, model, masks in force) before the first and after every update; masks
            that it returns replace those in force, None keeps them. Optimizer state of what is pruned is set to zero.
            Checkpoints hold the masks in force, and a resumed training asks once more at the step it resumes from.
        loss: callable (output, target) -> mean over the batch; None is cross-entropy with the recipe's label smoothing.
        seed: of everything random.
        device: where to train, None for where the model is; the model is moved there and stays.
        checkpoint: file to continue from if it exists, and to write to after every `checkpoint_every`-th and the last
            epoch, whole or not at all. Finished epochs are not reported to `on_epoch` again.
        on_epoch: called with each new point of the curve, after the checkpoint is written. What it raises ends
            the training.
        on_step: called as (updates done, model) before the first update, unless resumed, and after every update and
            change of masks. It may read the model, and must leave it and the global random state as they are. What it
            raises ends the training.
        evaluate_every: test after every so many epochs, and always after the last.

    Raises:
        TrainingDiverged: the loss of an epoch is not finite; it carries the curve so far.
        ValueError: no batches, masks or a checkpoint of another run, a damaged checkpoint, float16 without CUDA, label
            smoothing together with a loss of one's own.
        FileNotFoundError: the folder of `checkpoint` does not exist.
        TypeError: data that are not batches or can be passed over only once.
    """
    _check(recipe, loss, checkpoint_every, evaluate_every)
    train = reiterable(train, "train")
    test = None if test is None else reiterable(test, "test")
    path = None if checkpoint is None else _checkpoint_path(checkpoint)
    where = place(model, device)
    casting = autocast(where, recipe.precision)
    optimizer = make_optimizer(model, recipe)
    scaler = torch.amp.GradScaler(where.type) if recipe.precision == "float16" else None
    steps = steps_per_epoch(train, recipe, seed=seed)
    scheduled = mask_schedule is not None
    run: dict[str, Any] = {}
    if path is not None:
        run = identity(model, recipe=recipe, masks=masks, scheduled=scheduled, seed=seed, steps_per_epoch=steps)
    loop = _Loop(
        *(model, train, recipe, loss, optimizer, scaler, casting, steps, seed, where),
        *(mask_schedule, on_step, attach(masks or {}, model, optimizer)),
    )
    curve: list[Epoch] = []
    with contextlib.ExitStack() as finally_:
        finally_.enter_context(modes_kept(model))
        finally_.callback(optimizer.zero_grad, set_to_none=True)
        finally_.callback(loop.detach)
        resumed = path is not None and path.exists()
        if path is not None and resumed:
            content, curve = read_checkpoint(path, run=run)
            loop.updates = content.get("updates", len(curve) * steps)
            if scheduled:
                loop.put(content["masks"])
            model.load_state_dict(content["model"])
            optimizer.load_state_dict(content["optimizer"])
            if scaler is not None:
                scaler.load_state_dict(content["scaler"])
        loop.reached(tell=not resumed)
        for epoch in range(len(curve), recipe.epochs):
            last = epoch + 1 == recipe.epochs
            point = loop.run(epoch, tuple(curve))
            if test is not None and (last or (epoch + 1) % evaluate_every == 0):
                result = evaluate(model, test, loss=loss, device=where, precision=recipe.precision)
                point = _with_test(point, result, tuple(curve))
            curve.append(point)
            if path is not None and (last or (epoch + 1) % checkpoint_every == 0):
                save_checkpoint(
                    path,
                    run=run,
                    model=model,
                    optimizer=optimizer,
                    scaler=scaler,
                    curve=curve,
                    updates=loop.updates,
                    masks=loop.handle.masks if scheduled else None,
                )
            if on_epoch is not None:
                on_epoch(point)
    return History(curve=tuple(curve))


@dataclass(eq=False)
class _Loop:
    """What the epochs share. Only `handle`, the masks in force, and `updates`, how many are done, ever change."""

    model: nn.Module
    train: Data
    recipe: Recipe
    loss: Loss | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None
    casting: Callable[[], contextlib.AbstractContextManager[Any]]
    steps_per_epoch: int
    seed: int
    device: torch.device
    mask_schedule: MaskSchedule | None
    on_step: Callable[[int, nn.Module], None] | None
    handle: Handle
    updates: int = 0

    def put(self, masks: MaskMap) -> None:
        """Replace the masks in force."""
        self.handle.remove()
        self.handle = attach(masks, self.model, self.optimizer)

    def detach(self) -> None:
        """Take out the hooks of the masks in force, whichever they are by now."""
        self.handle.remove()

    def reached(self, *, tell: bool = True) -> None:
        """Let the schedule of masks, and whoever wants to be told, act after so many updates."""
        if self.mask_schedule is not None:
            masks = self.mask_schedule(self.updates, self.model, self.handle.masks)
            if masks is not None:
                self.put(masks)
        if tell and self.on_step is not None:
            self.on_step(self.updates, self.model)

    def run(self, epoch: int, curve: tuple[Epoch, ...]) -> Epoch:
        """Train one epoch (counted from 0). Nothing is read back from the device before its end."""
        recipe, optimizer = self.recipe, self.optimizer
        tally = Tally(top5=False)
        rate = 0.0
        began = time.perf_counter()
        self.model.train()
        with isolated_randomness(_epoch_seed(self.seed, epoch)):
            batches = batches_of(
                self.train,
                recipe.batch_size,
                seed=self.seed,
                epoch=epoch,
                augment=recipe.augment,
                device=self.device,
                module=self.model,
            )
            for index, (inputs, target, size) in enumerate(batches):
                # a loader that yields more than it announced stays at the rate of its last announced step
                step = epoch * self.steps_per_epoch + min(index, self.steps_per_epoch - 1)
                rate = learning_rate(recipe, step, self.steps_per_epoch)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.zero_grad(set_to_none=True)
                with self.casting():
                    output = inputs.call(self.model)
                    value = loss_value(self.loss, output, target, label_smoothing=recipe.label_smoothing)
                if self.scaler is None:
                    torch.autograd.backward(value)
                    optimizer.step()
                else:
                    torch.autograd.backward(self.scaler.scale(value))
                    self.scaler.step(optimizer)
                    self.scaler.update()
                tally.add(value, size, output, target)
                self.updates += 1
                self.reached()
        if not tally.samples:
            raise ValueError("train holds no samples; give at least one batch")
        result = tally.result()
        if not math.isfinite(result.loss):
            raise TrainingDiverged(epoch + 1, result.loss, curve)
        return Epoch(
            epoch=epoch + 1,
            lr=rate,
            train_loss=result.loss,
            train_top1=result.top1,
            seconds=time.perf_counter() - began,
        )


def _with_test(point: Epoch, result: Evaluation, curve: tuple[Epoch, ...]) -> Epoch:
    if not math.isfinite(result.loss):
        raise TrainingDiverged(point.epoch, result.loss, curve, where="test")
    return replace(point, test_loss=result.loss, test_top1=result.top1, test_top5=result.top5)


def _epoch_seed(seed: int, epoch: int) -> int:
    """A 63-bit seed of one epoch. Hashed, so that neighboring seeds and epochs have nothing in common."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:8], "big") >> 1


def steps_per_epoch(train: Data, recipe: Recipe, *, seed: int = 0) -> int:
    """Optimizer steps in one epoch; 1 if the data cannot tell how many they are and the schedule does not ask."""
    if isinstance(train, ImageSource):
        return max(1, recipe.steps_per_epoch(len(train)))
    try:
        return max(1, len(train))  # type: ignore[arg-type]
    except TypeError:  # a generator of batches, or a DataLoader over an IterableDataset
        if recipe.schedule != "cosine" and not recipe.warmup_epochs:
            return 1
    with isolated_randomness(_epoch_seed(seed, 0)):
        return max(1, sum(1 for _ in train))


def _check(recipe: Recipe, loss: Loss | None, checkpoint_every: int, evaluate_every: int) -> None:
    if not isinstance(recipe, Recipe):
        raise TypeError(
            f"recipe must be a Recipe, not {type(recipe).__name__}; "
            "for one by name write foreprune.training.recipes.recipe('digits')"
        )
    if loss is not None and recipe.label_smoothing:
        raise ValueError(
            f"label_smoothing={recipe.label_smoothing:g} belongs to the default cross-entropy; "
            "put it into your own loss, or leave loss=None"
        )
    for name, value in (("checkpoint_every", checkpoint_every), ("evaluate_every", evaluate_every)):
        if value < 1:
            raise ValueError(f"{name} counts epochs and must be 1 or more, not {value}")


def _checkpoint_path(checkpoint: str | os.PathLike[str]) -> Path:
    """The path, if a file can be written there: better to know before the first epoch than after it."""
    path = Path(checkpoint)
    if path.is_dir():
        raise ValueError(f"checkpoint {path} is a folder; name a file in it, such as {path / 'checkpoint.pt'}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} for the checkpoint does not exist; create it first")
    return path
