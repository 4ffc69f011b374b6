"""`prune` and `score`."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from foreprune.core.collective import same_everywhere
from foreprune.core.density import as_density, keep_count
from foreprune.core.masks import Masks
from foreprune.core.method import LayerCollapse, Method, Progress, check_scores
from foreprune.core.net import Net, isolated_randomness
from foreprune.core.prunable import Prunable
from foreprune.core.select import Scope
from foreprune.core.sharding import is_sharded
from foreprune.core.task import Loss, task_for
from foreprune.methods import MethodLike, as_method

# they look at data by sums over batches only
_SUMMED = ("force", "grasp", "iterative-snip", "snip", "synflow-dist", "synflow-l2-dist")


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
    progress: Progress | None = None,
    group: Any = None,
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
            patterns to exclude ("fc", "layer1.*", "re:.*head.*"). Default: weights of linear and convolution layers
            (transposed ones too) and of attention; never biases, embeddings or normalization. Density counts these.
        progress: called as progress(done, rounds) after each round of an iterative method.
        group: a process group of torch.distributed, all of whose processes make the same call, each with `data` of its
            own: scores are those of all batches together, and masks the same everywhere. Default: `data` are all there
            are. A model under `fully_shard` is pruned by all of its processes in any case, and the masks are sharded as
            it is.
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
    """
    kept = as_density(density=density, sparsity=sparsity, compression=compression)
    found = as_method(method)
    found.check_settings(settings)
    _check_scope_and_seed(scope, seed)
    if progress is not None and not callable(progress):
        raise TypeError(f"progress must be callable as progress(done, rounds), not {type(progress).__name__}")
    metadata = {"method": found.name, "density": repr(kept), "seed": str(seed), "scope": scope}
    metadata |= {f"hyper.{name}": repr(value) for name, value in settings.items() if not isinstance(value, Tensor)}
    _check_group(found, group)
    with torch.inference_mode(False), isolated_randomness(int(seed)):
        spread = _is_spread(model)
        net = _view(model, prunable, group)
        keep_count(kept, net.total)
        given: dict[str, Any] = {"inputs": inputs, "data": data, "mean_image": mean_image, "loss": loss}
        task = task_for(
            net, found.needs, optional=found.optional, asking=found.name, seed=int(seed), group=group, **given
        )
        make: Callable[..., Masks] = found.make
        if spread:
            from foreprune.sharded import make_sharded

            make = partial(make_sharded, found)
        made = make(net, task, kept, scope=scope, progress=progress, **settings)
        metadata["parameters"] = str(net.size)
        masks = made.with_metadata(metadata)
        if group is not None and not spread and not same_everywhere(masks.values(), [group], net.device):
            raise ValueError(
                "the processes found different masks, so their weights or arguments differ: load the same weights in "
                "all of them first, or wrap the model in DistributedDataParallel, which does"
            )
    if lost := masks.collapsed():
        warnings.warn(
            f"{found.name} at density {kept:g} leaves no weight in {len(lost)} of {len(masks)} layers: "
            f"{', '.join(lost[:5])}"
            f"{', ...' if len(lost) > 5 else ''}; keep more, or exclude them with prunable=",
            LayerCollapse,
            stacklevel=2,
        )
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
    **settings: Any,
) -> dict[str, Tensor]:
    """One scoring pass of `method` on the dense model: name -> scores of the weight's shape, larger means keep.

    Arguments as in `prune`; the settings `rounds` and `schedule` make no difference to one pass. Scores of path methods
    (synflow and its relatives) are defined up to one common factor.

    Raises:
        ValueError: the method has no scores (layer-density methods build masks directly), or bad arguments.
    """
    found = as_method(method)
    if found.score is None:
        raise ValueError(
            f"method {found.name!r} builds masks directly and has no scores; use prune(model, {found.name!r}, ...)"
        )
    found.check_settings(settings)
    _check_scope_and_seed("global", seed)
    settings = {name: value for name, value in settings.items() if name not in ("rounds", "schedule")}
    with torch.inference_mode(False), isolated_randomness(int(seed)):
        net = _view(model, prunable)
        given: dict[str, Any] = {"inputs": inputs, "data": data, "mean_image": mean_image, "loss": loss}
        task = task_for(net, found.needs, optional=found.optional, asking=found.name, seed=int(seed), **given)
        if _is_spread(model):
            from foreprune.sharded import ShardedNet, scores_sharded

            assert isinstance(net, ShardedNet)
            return {name: value.detach() for name, value in scores_sharded(found, net, task, **settings).items()}
        scores = found.score(net, task, Masks.dense(net.weights), **settings)
        check_scores(scores, net)
        return {name: value.detach() for name, value in scores.items()}


def _is_spread(model: nn.Module) -> bool:
    """Whether its parameters are spread over processes."""
    return isinstance(model, nn.Module) and any(map(is_sharded, model.parameters()))


def _view(model: nn.Module, prunable: Prunable, group: Any = None) -> Net:
    if not _is_spread(model):
        return Net.of(model, prunable=prunable)
    from foreprune.sharded import ShardedNet

    net = ShardedNet.of(model, prunable=prunable)
    return net if group is None else net.summing()


def _check_group(method: Method, group: Any) -> None:
    if group is None:
        return
    if not hasattr(group, "rank") or not hasattr(group, "size"):
        raise TypeError(
            f"group must be a process group such as torch.distributed.group.WORLD, not {type(group).__name__}; call "
            "torch.distributed.init_process_group first"
        )
    looks = (method.needs | method.optional) & {"images", "labels", "mean image"}
    if looks and method.name not in _SUMMED:
        raise ValueError(
            f"method {method.name!r} is no sum over batches that processes could share; give every process the same "
            f"data without group=, or use one of {', '.join(_SUMMED)}"
        )


def _check_scope_and_seed(scope: str, seed: int) -> None:
    if scope not in ("global", "local"):
        raise ValueError(
            f'scope must be "global" (compare over all layers) or "local" (each layer by itself), not {scope!r}'
        )
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be a whole number from 0 to 2**32 - 1 (torch seeds with 32 bits), not {seed!r}")
