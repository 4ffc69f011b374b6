"""How the masks of a run are chosen: by a method, or by magnitude among those that are left."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from foreprune.api import collapse_notice, prune
from foreprune.core.by_score import LayerCollapse
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.seeds import generator_for
from foreprune.core.select import Scope, keep_best
from foreprune.methods import as_method
from foreprune.procedures.registered import ablation_of
from foreprune.procedures.shared.run_context import RunContext
from foreprune.records import Scalar


def prune_with(
    run: RunContext, model: nn.Module, method: str, settings: Mapping[str, Scalar] | None = None
) -> tuple[Masks, float]:
    """The masks of `method` from the run's training images and the weights of `model` as they are, and the seconds
    that took. Where the run's ablation changes scores, those of the changed method."""
    begun = time.perf_counter()
    experiment = run.experiment
    found = as_method(method)
    given: dict[str, Any] = dict(settings or {})
    batches = run.train.scoring_batches(per_class=experiment.samples_per_class, seed=experiment.seed, device=run.device)
    if "mean image" in found.needs:
        given["mean_image"] = run.train.mean_image(batches)
    ablation = ablation_of(experiment)
    masks = prune(
        model,
        ablation.apply(found) if ablation and ablation.changes == "method" else found,
        density=experiment.density,
        inputs=batches[0][0][:1],
        data=batches,
        loss=run.data.loss_function,
        seed=experiment.seed,
        scope=experiment.scope,
        **given,
    )
    return masks, time.perf_counter() - begun


def unpruned(run: RunContext, model: nn.Module) -> Masks:
    """Masks that keep everything; their metadata say how the run is pruned."""
    experiment = run.experiment
    own = {"density": repr(experiment.density), "seed": str(experiment.seed), "scope": experiment.scope}
    hyper = {f"hyper.{name}": repr(value) for name, value in experiment.hyper.items()}
    return Net.of(model).dense().with_metadata({"method": experiment.method, **own, **hyper})


def keep_largest(weights: Mapping[str, Tensor], keep: int, *, among: Masks, scope: Scope, seed: int) -> Masks:
    """Of the weights that `among` keeps, the `keep` largest in magnitude, over all layers or the same share of each."""
    scores = {name: weights[name].detach().abs() for name in among}
    return keep_best(scores, keep, scope=scope, generator=generator_for("ties", seed), among=among)


def warn_of_collapse(run: RunContext, masks: Masks) -> None:
    """Warn, as `prune` does for methods, if a procedure has left a layer without weights."""
    if lost := collapse_notice(masks):
        warnings.warn(
            f"{run.experiment.method} at density {run.experiment.density:g} {lost}; keep more",
            LayerCollapse,
            stacklevel=2,
        )
