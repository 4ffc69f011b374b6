"""How the masks of a run are chosen: by a method, or by magnitude among those that are left."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from foreprune.api import prune
from foreprune.core.density import apportion
from foreprune.core.masks import Masks
from foreprune.core.method import LayerCollapse, Scope
from foreprune.core.net import Net
from foreprune.core.seeds import generator_for
from foreprune.core.select import keep_top, keep_top_per_layer
from foreprune.methods import method as find_method
from foreprune.procedures.ablating import ABLATIONS
from foreprune.procedures.shared.run_context import RunContext
from foreprune.records import Scalar
from foreprune.zoo.build import loss_of, mean_image, scoring_batches


def prune_with(
    run: RunContext, model: nn.Module, method: str, settings: Mapping[str, Scalar] | None = None
) -> tuple[Masks, float]:
    """The masks of `method` from the run's training images and the weights of `model` as they are, and the seconds
    that took. Where the run's ablation changes scores, those of the changed method."""
    begun = time.perf_counter()
    experiment = run.experiment
    found = find_method(method)
    given: dict[str, Any] = dict(settings or {})
    batches = scoring_batches(
        run.train, per_class=experiment.samples_per_class, seed=experiment.seed, device=run.device
    )
    if "mean_image" in found.hyper:
        given.setdefault("mean_image", mean_image(run.train, batches))
    ablation = ABLATIONS.get(experiment.ablation)
    masks = prune(
        model,
        ablation.apply(found) if ablation and ablation.changes == "scores" else found,
        density=experiment.density,
        inputs=batches[0][0][:1],
        data=batches if "labels" in found.needs else None,
        loss=loss_of(run.data),
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
    return Masks.dense(Net.of(model).weights).with_metadata({"method": experiment.method, **own, **hyper})


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


def warn_of_collapse(run: RunContext, masks: Masks) -> None:
    """Warn, as `prune` does for methods, if a procedure has left a layer without weights."""
    if lost := masks.collapsed():
        warnings.warn(
            f"{run.experiment.method} at density {run.experiment.density:g} leaves no weight in {len(lost)} of "
            f"{len(masks)} layers: {', '.join(lost[:5])}{', ...' if len(lost) > 5 else ''}; keep more",
            LayerCollapse,
            stacklevel=2,
        )
