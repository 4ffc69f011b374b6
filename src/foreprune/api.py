"""`prune` and `score`."""

from __future__ import annotations

import numbers
import warnings
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foreprune.core.cautions import warn_of_small_share, warn_of_ties, warn_of_zero_head
from foreprune.core.density import as_density, keep_count
from foreprune.core.layer_weights import check_computed
from foreprune.core.masks import Masks
from foreprune.core.method import LayerCollapse, Progress, check_scores
from foreprune.core.net import Net, isolated_randomness
from foreprune.core.prunable import Prunable
from foreprune.core.select import Scope
from foreprune.core.task import Loss, task_for
from foreprune.core.zeros import with_drawn_heads
from foreprune.methods import MethodLike, as_method

Repair = Literal["head"]


def prune(
    model: nn.Module,
    method: MethodLike,
    *,
    density: float | None = None,
    sparsity: float | None = None,
    compression: float | None = None,
    inputs: Any = None,
    data: Any = None,
    mean_image: Tensor | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    scope: Scope = "global",
    prunable: Prunable = None,
    repair: Repair | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Masks:
    """Choose which weights of `model` to keep, before training it. The model is not changed.

    After the call, also after an error, its parameters, buffers, gradients, modes and the global random state are bit
    for bit what they were.

    Args:
        model: any `torch.nn.Module`; custom forwards, tied weights and several inputs are fine.
        method: a name from `foreprune.list_methods()`; such a record itself (`foreprune.ablations.invert` makes one); a
            score of your own, a function (net, task, masks) -> {name: tensor}, larger means keep, which may look at
            whatever of `inputs` and `data` is given; or ready scores {name: tensor}, one for each prunable weight.
        density: fraction of prunable weights to keep, in (0, 1]. Exactly one of density, sparsity and compression.
        sparsity: fraction to remove, in [0, 1).
        compression: total over kept weights, at least 1.
        inputs: example inputs for data-free methods: a tensor, a tuple of them (positional) or a mapping (keywords),
            batch axis first. Only shapes and types count.
        data: for data-driven methods: one batch `(input, target)` or an iterable of batches. All of it is used and
            kept in memory, so pass a few batches, e.g. `itertools.islice(loader, 4)`. The papers use ten samples per
            class. Where labels are not needed, batches may be tensors.
        mean_image: for the methods that need it, non-negative, in the shape of one input; default: the mean of `data`.
        loss: callable (output, target) -> mean over the batch; default cross-entropy.
        seed: decides every random choice, ties included, whatever the global random state is.
        scope: "global" compares scores over all layers; "local" keeps the same fraction in every layer.
        prunable: which weights may be pruned: a predicate (name, parameter) -> bool, a list of parameter names, or
            patterns to exclude ("fc", "layer1.*", "re:.*head.*"). Default: weights of linear, convolution and recurrent
            layers, of attention and of stacked experts; never biases, embeddings (nor what is tied to one) or
            normalization. Density counts these, whatever the method.
        repair: "head" scores as if a last layer whose weights are all zero were drawn by its usual initialization, from
            the seed; without such a layer it makes no difference. The model keeps its zeros.
        progress: called as progress(done, rounds) after each round of an iterative method.
        **settings: the method's own settings, see `print(foreprune.get_method(name))`.

    Returns:
        Masks with exactly `round(density * total)` of the prunable weights kept (the method's record says so if it
        deviates). Their metadata say how they were made, and under "parameters" how many parameters the model has in
        all, prunable or not.

    Raises:
        ValueError, TypeError: bad arguments, scores that are NaN, infinite or all zero; the message says what to write
            instead.

    Warns:
        LayerCollapse: some layer has lost all its weights.
        TiedScores: at least a tenth of what is kept was drawn at random among equal scores.
        SmallShare: less than half of the parameters are prunable, by the default of `prunable`.
        ZeroHead: the last layer's weights are all zero, and so are their scores.
    """
    kept = as_density(density=density, sparsity=sparsity, compression=compression)
    found = as_method(method)
    found.check_settings(settings)
    _check_choices(scope, seed, repair)
    if progress is not None and not callable(progress):
        raise TypeError(f"progress must be callable as progress(done, rounds), not {type(progress).__name__}")
    metadata = {"method": found.name, "density": repr(kept), "seed": str(seed), "scope": scope}
    metadata |= {f"hyper.{name}": repr(value) for name, value in settings.items() if not isinstance(value, Tensor)}
    with torch.inference_mode(False), isolated_randomness(int(seed)):
        net = Net.of(model, prunable=prunable)
        keep_count(kept, net.total)
        given: dict[str, Any] = {"inputs": inputs, "data": data, "mean_image": mean_image, "loss": loss}
        task = task_for(net, found.needs, optional=found.optional, asking=found.name, seed=int(seed), **given)
        scored = net if repair is None else with_drawn_heads(net, seed=int(seed))
        made = found.make(scored, task, kept, scope=scope, progress=progress, **settings)
        check_computed(net.module, net.computed, made)
        metadata |= {"repair": repair} if scored is not net and repair else {}
        metadata |= {name: value for name, value in made.metadata.items() if name.startswith("ties.")}
        metadata["parameters"] = str(sum(value.numel() for value in net.params.values()))
        masks = made.with_metadata(metadata)
    if lost := masks.collapsed():
        warnings.warn(
            f"{found.name} at density {kept:g} leaves no weight in {len(lost)} of {len(masks)} layers: "
            f"{', '.join(lost[:5])}"
            f"{', ...' if len(lost) > 5 else ''}; keep more, or exclude them with prunable=",
            LayerCollapse,
            stacklevel=2,
        )
    warn_of_ties(masks, scored, method=found.name, stacklevel=2)
    if prunable is None:
        warn_of_small_share(net, stacklevel=2)
    return masks


def score(
    model: nn.Module,
    method: MethodLike,
    *,
    inputs: Any = None,
    data: Any = None,
    mean_image: Tensor | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    prunable: Prunable = None,
    repair: Repair | None = None,
    **settings: Any,
) -> dict[str, Tensor]:
    """One scoring pass of `method` on the dense model: name -> scores of the weight's shape, larger means keep.

    Arguments as in `prune`; the settings `rounds` and `schedule` make no difference to one pass. Scores of path methods
    (synflow and its relatives) are defined up to one common factor.

    Raises:
        ValueError: the method has no scores (layer-density methods build masks directly), or bad arguments.

    Warns:
        ZeroHead: the last layer's weights are all zero, and so are their scores.
    """
    found = as_method(method)
    if found.score is None:
        raise ValueError(
            f"method {found.name!r} builds masks directly and has no scores; use prune(model, {found.name!r}, ...)"
        )
    found.check_settings(settings)
    _check_choices("global", seed, repair)
    settings = {name: value for name, value in settings.items() if name not in ("rounds", "schedule")}
    with torch.inference_mode(False), isolated_randomness(int(seed)):
        net = Net.of(model, prunable=prunable)
        given: dict[str, Any] = {"inputs": inputs, "data": data, "mean_image": mean_image, "loss": loss}
        task = task_for(net, found.needs, optional=found.optional, asking=found.name, seed=int(seed), **given)
        scored = net if repair is None else with_drawn_heads(net, seed=int(seed))
        scores = found.score(scored, task, Masks.dense(net.weights), **settings)
        check_scores(scores, net)
        warn_of_zero_head(scored, scores, stacklevel=2)
        return {name: value.detach() for name, value in scores.items()}


def _check_choices(scope: str, seed: int, repair: str | None) -> None:
    if repair not in (None, "head"):
        raise ValueError(
            f'repair must be "head" (score as if a last layer of zeros were drawn) or None, not {repair!r}'
        )
    if scope not in ("global", "local"):
        raise ValueError(
            f'scope must be "global" (compare over all layers) or "local" (each layer by itself), not {scope!r}'
        )
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be a whole number from 0 to 2**32 - 1 (torch seeds with 32 bits), not {seed!r}")
