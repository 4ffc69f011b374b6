"""Masks and weights that a run begins its training from: pruned at initialization, at a step of training, or after it.

The order of the data. A network at its initial weights trains in the order of its seed, which is that of the dense run:
runs of one seed are paired, whenever their masks were found. Weights that have seen data already (`prune_at`,
magnitude-after, rewinding to a step above 0) would see the same batches in the same order again; they train in an order
of their own.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from foreprune import ablations
from foreprune.api import prune
from foreprune.core.density import apportion, keep_count
from foreprune.core.masks import Masks
from foreprune.core.method import LayerCollapse, Scope
from foreprune.core.net import Net
from foreprune.core.seeds import generator_for
from foreprune.core.select import keep_top, keep_top_per_layer
from foreprune.methods import method as find_method
from foreprune.procedures.dense import Setting, check_step, dense_weights, network, train
from foreprune.procedures.procedures import END, check_procedure, gradual_count, hyper_of, round_counts
from foreprune.procedures.snapshots import Snapshot, load_into, lock, read_snapshot, state_of, write_snapshot
from foreprune.records.store import make_folder, remove_unfinished
from foreprune.training.fit import MaskMap

_REINIT_SEEDS = 1_000_003  # torch seeds its generator with 32 bits, so 2**32 more would be the same draw
_ORDER_SEEDS = 2_000_003


@dataclass(frozen=True, eq=False)
class Start:
    """Where the training that counts begins.

    Attributes:
        model: the network, on its device, with the weights to train from (pruned ones not yet zero).
        masks: what is kept of it, at first.
        order: seed of the order of the data.
        seconds: time it took to choose the masks, trainings not counted; None if they are chosen while it trains.
        schedule: changes the masks in training, or None.
    """

    model: nn.Module
    masks: Masks
    order: int
    seconds: float | None
    schedule: Gradual | None = None


def start_of(setting: Setting) -> Start:
    """Prune as the experiment says: method or procedure, at its step, then the ablation.

    Raises:
        TypeError, ValueError: settings that do not fit; whatever the method raises.
    """
    experiment = setting.experiment
    check_procedure(experiment)
    model = network(setting)
    if experiment.method == "dense":
        return Start(model, Masks.dense(Net.of(model).weights), experiment.seed, 0.0)
    if experiment.method == "gmp":
        gradual = gradual_of(setting, model)
        return Start(model, gradual.masks, experiment.seed, None, gradual)
    hyper = hyper_of(experiment)
    step = experiment.prune_at
    if experiment.method == "magnitude-after":
        step = END
    elif experiment.method in ("ltr", "imp"):
        step = int(hyper["rewind_to"] or 0)
    if step > 0:
        check_step(step, setting.steps)
    if experiment.method == "imp":
        masks, seconds = iterative_masks(setting)
    else:
        scored_at = END if experiment.method == "ltr" else step
        _load(setting, model, scored_at)
        begun = time.perf_counter()
        masks = prune_for(setting, model)
        seconds = time.perf_counter() - begun
    if experiment.method in ("ltr", "imp"):
        model = network(setting)
        _load(setting, model, step)
    if experiment.ablation == "shuffle":
        masks = ablations.shuffle(masks, seed=experiment.seed)
    elif experiment.ablation == "widen":
        masks = ablations.widen(masks, fraction=experiment.widen, seed=experiment.seed)
    reinitialize_for(setting, model, masks)
    return Start(model, masks, _order(setting, step), seconds)


def prune_for(setting: Setting, model: nn.Module) -> Masks:
    """The masks of the method of one experiment, from its training images and the weights of `model` as they are.

    The procedures that prune by magnitude once, whenever they do, are the method "magnitude" here.
    """
    experiment = setting.experiment
    by_magnitude = experiment.method in ("magnitude-after", "ltr")
    found = find_method("magnitude" if by_magnitude else experiment.method)
    hyper: dict[str, Any] = {} if by_magnitude else dict(experiment.hyper)
    batches = setting.train.scoring_batches(
        per_class=experiment.samples_per_class, seed=experiment.seed, device=setting.device
    )
    if "mean_image" in found.hyper:
        hyper.setdefault("mean_image", setting.train.mean_image(batches))
    return prune(
        model,
        ablations.invert(found) if experiment.ablation == "invert" else found,
        density=experiment.density,
        inputs=batches[0][0][:1],
        data=batches if "labels" in found.needs else None,
        loss=setting.data.loss_function,
        seed=experiment.seed,
        scope=experiment.scope,
        **hyper,
    )


def reinitialize_for(setting: Setting, model: nn.Module, masks: Masks) -> None:
    """Give the pruned network new weights, where that is the ablation. Buffers stay."""
    schemes: dict[str, ablations.Scheme] = {"reinit": "dense", "reinit-layer": "layer", "reinit-neuron": "neuron"}
    experiment = setting.experiment
    if experiment.ablation in schemes:
        # another draw than the one that was scored, which has the same seed
        seed = experiment.seed + _REINIT_SEEDS
        weights = ablations.reinitialize(model, masks, scheme=schemes[experiment.ablation], seed=seed)
        model.load_state_dict(weights, strict=False)


def keep_largest(weights: Mapping[str, Tensor], keep: int, *, among: Masks, scope: Scope, seed: int) -> Masks:
    """Of the weights that `among` keeps, the `keep` largest in magnitude, over all layers or the same share of each."""
    scores = {name: weights[name].detach().abs() for name in among}
    generator = generator_for("ties", seed)
    if scope == "global":
        return keep_top(scores, keep, generator=generator, among=among)
    share = keep / among.total
    counts = among.layer_counts()
    room = {name: kept for name, (kept, _) in counts.items()}
    each = apportion({name: share * total for name, (_, total) in counts.items()}, room, keep)
    return keep_top_per_layer(scores, each, generator=generator, among=among)


@dataclass(eq=False)
class Gradual:
    """The schedule of gradual magnitude pruning, for `fit`: the same masks whenever the training is interrupted.

    Attributes:
        count: updates done -> how many weights are kept from then on, None for no change.
        scope, seed: as in `keep_largest`; the seed draws ties.
        masks: those in force.
    """

    count: Callable[[int], int | None]
    scope: Scope
    seed: int
    masks: Masks
    _known: bool = field(default=False, init=False)

    def __call__(self, step: int, model: nn.Module, masks: MaskMap) -> Masks | None:
        if not self._known:  # a resumed training begins with masks that were made before
            self.masks, self._known = Masks(masks, metadata=self.masks.metadata), True
        keep = self.count(step)
        if keep is None or keep == self.masks.kept:
            return None
        weights = dict(model.named_parameters())
        kept = keep_largest(weights, keep, among=self.masks, scope=self.scope, seed=self.seed)
        self.masks = kept.with_metadata(self.masks.metadata)
        return self.masks


def gradual_of(setting: Setting, model: nn.Module) -> Gradual:
    """The schedule of one run, at the beginning of which everything is kept."""
    experiment = setting.experiment
    hyper: dict[str, Any] = hyper_of(experiment)
    masks = Masks.dense(Net.of(model).weights).with_metadata(_metadata(setting))
    keep = keep_count(experiment.density, masks.total)
    count = partial(gradual_count, steps=setting.steps, keep=keep, total=masks.total, **hyper)
    return Gradual(count, experiment.scope, experiment.seed, masks)


def iterative_masks(setting: Setting) -> tuple[Masks, float]:
    """Masks of iterative magnitude pruning, and the seconds it took to choose them, without the trainings.

    What a round has trained is kept beside the dense training, for runs of other densities: all but the last round are
    the same for them.
    """
    experiment = setting.experiment
    hyper: dict[str, Any] = hyper_of(experiment)
    dense = Masks.dense(Net.of(network(setting)).weights)
    keep = keep_count(experiment.density, dense.total)
    counts = round_counts(experiment.density, total=dense.total, keep=keep, rate=hyper["rate"])
    name = f"imp-rewind{hyper['rewind_to']}-rate{hyper['rate']!r}-{experiment.scope}"
    rounds = _Rounds(setting, make_folder(setting.dense_folder / name), counts, dense, hyper["rewind_to"])
    last = len(counts) - 1
    found = rounds.read(last)
    if found is None:
        with lock(rounds.folder / "lock") as alone:
            if alone:
                remove_unfinished(rounds.folder)
            found = rounds.trained(last)
    weights, masks = found
    begun = time.perf_counter()
    masks = rounds.pruned(weights, counts[last], masks).with_metadata(_metadata(setting))
    seconds = time.perf_counter() - begun
    warn_of_collapse(setting, masks)
    return masks, seconds


def warn_of_collapse(setting: Setting, masks: Masks) -> None:
    """Warn, as `prune` does for methods, if a procedure has left a layer without weights."""
    if lost := masks.collapsed():
        warnings.warn(
            f"{setting.experiment.method} at density {setting.experiment.density:g} leaves no weight in {len(lost)} of "
            f"{len(masks)} layers: {', '.join(lost[:5])}{', ...' if len(lost) > 5 else ''}; keep more",
            LayerCollapse,
            stacklevel=2,
        )


@dataclass(frozen=True, eq=False)
class _Rounds:
    """The trainings between the rounds of iterative magnitude pruning. Round 0 is the dense training."""

    setting: Setting
    folder: Path
    counts: tuple[int, ...]
    dense: Masks
    rewind_to: int

    def read(self, number: int) -> tuple[dict[str, Tensor], Masks] | None:
        """Weights at the end of a round that has been trained, and its masks."""
        if number == 0:
            return dense_weights(self.setting, END), self.dense
        found = read_snapshot(self._path(number), about=self._about(number))
        return None if found is None else _parted(found)

    def trained(self, number: int) -> tuple[dict[str, Tensor], Masks]:
        """The same, trained now if need be, with all rounds before it that are missing."""
        if found := self.read(number):
            return found
        weights, masks = self.trained(number - 1)
        masks = self.pruned(weights, self.counts[number - 1], masks)
        model = network(self.setting)
        _load(self.setting, model, self.rewind_to)
        checkpoint = self.folder / f"round-{number}.pt"
        try:
            train(self.setting, model, order=_order(self.setting, self.rewind_to), masks=masks, checkpoint=checkpoint)
        except OSError:
            raise
        except Exception:
            checkpoint.unlink(missing_ok=True)
            raise
        state = state_of(model)
        tensors = {f"weights/{name}": value for name, value in state.items()}
        tensors |= {f"masks/{name}": mask.cpu() for name, mask in masks.items()}
        write_snapshot(self._path(number), tensors, about=self._about(number))
        checkpoint.unlink(missing_ok=True)
        return state, masks

    def pruned(self, weights: Mapping[str, Tensor], keep: int, among: Masks) -> Masks:
        """The masks of a round, from the weights at the end of the one before."""
        experiment = self.setting.experiment
        return keep_largest(weights, keep, among=among.to("cpu"), scope=experiment.scope, seed=experiment.seed)

    def _path(self, number: int) -> Path:
        return self.folder / f"round-{number}.safetensors"

    def _about(self, number: int) -> dict[str, str]:
        return {"round": f"{self.folder.parent.name}/{self.folder.name}/{number}"}


def _parted(found: Snapshot) -> tuple[dict[str, Tensor], Masks]:
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "masks": {}}
    for key, value in found.tensors.items():
        part, _, name = key.partition("/")
        parts[part][name] = value
    return parts["weights"], Masks(parts["masks"])


def _load(setting: Setting, model: nn.Module, step: int) -> None:
    if step:
        load_into(model, dense_weights(setting, step), source=setting.dense_folder)


def _order(setting: Setting, step: int) -> int:
    """The seed of the order of the data for weights of that step of the dense training."""
    return setting.experiment.seed + (_ORDER_SEEDS if step else 0)


def _metadata(setting: Setting) -> dict[str, str]:
    experiment = setting.experiment
    hyper = {f"hyper.{name}": repr(value) for name, value in experiment.hyper.items()}
    own = {"density": repr(experiment.density), "seed": str(experiment.seed), "scope": experiment.scope}
    return {"method": experiment.method, **own, **hyper}
