"""`prune` and `score`."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foreprune.core.budget import Density, as_densities, grouped
from foreprune.core.by_score import LayerCollapse, Progress, check_scores
from foreprune.core.cautions import warn_of_small_share, warn_of_ties, warn_of_zero_head
from foreprune.core.collective import same_everywhere
from foreprune.core.masks import Masks
from foreprune.core.method import Method
from foreprune.core.net import Net, isolated_randomness
from foreprune.core.normalized import with_norms
from foreprune.core.prunable import Prunable
from foreprune.core.select import Scope
from foreprune.core.settings import check_scope_and_seed
from foreprune.core.sharding import is_sharded
from foreprune.core.task import Loss, task_for
from foreprune.core.unscored import Gates, emptied_rows
from foreprune.core.zeros import with_drawn_heads
from foreprune.methods import MethodLike, as_method, list_methods

Repair = Literal["head"]
SELECTION = ("gates", "floor", "repair")  # arguments of `prune` that say how scores are used, whatever the method


def prune(
    model: nn.Module,
    method: MethodLike,
    *,
    density: float | Mapping[str, float] | None = None,
    sparsity: float | None = None,
    compression: float | None = None,
    inputs: Any = None,
    data: Any = None,
    mean_image: Tensor | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    scope: Scope = "global",
    gates: Gates = "erk",
    floor: float = 0.0,
    prunable: Prunable = None,
    repair: Repair | None = None,
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
        density: fraction of prunable weights to keep, in (0, 1]. Exactly one of density, sparsity and compression. A
            mapping from patterns, as of `prunable`, to densities gives parts of the network their own, each with an
            exact count: {"*.qkv[q,k]": 0.5, "head": 1.0, "*": 0.1}. The first pattern that fits decides, "*" last.
        sparsity: fraction to remove, in [0, 1).
        compression: total over kept weights, at least 1.
        inputs: example inputs for data-free methods: a tensor, a tuple of them (positional) or a mapping (keywords),
            batch axis first. Only shapes and types count.
        data: for data-driven methods: one batch `(input, target)` or an iterable of batches. All of it is used and
            kept in memory, so pass a few batches, e.g. `itertools.islice(loader, 4)`. The papers use ten samples per
            class. An input is a tensor, a tuple of tensors or a mapping; `(a, b, target)` and mappings with "labels"
            are batches too. Where labels are not needed, batches may be inputs alone.
        mean_image: for the methods that need it, non-negative, in the shape of one input; default: the mean of `data`.
        loss: callable (output, target) -> mean over the batch; default cross-entropy, or what the model computes itself
            where batches are mappings with labels that its forward takes, as in transformers.
        seed: decides every random choice, ties included, whatever the global random state is.
        scope: "global" compares scores over all blocks; "local" keeps the same fraction in every block. A block is the
            weight of a layer, or where one tensor holds several layers (queries, keys and values; the gates of an LSTM;
            experts) that of one of them, "attn.qkv.weight[q]".
        gates: what becomes of blocks that a score says nothing of: those whose scores are all zero on the dense network
            while others are not (on paths, whatever only feeds gates), and with every method that looks at inputs or
            data the queries and keys of attention, whose gradients are small before training. "erk": they keep what
            Erdős-Rényi-kernel densities would keep of them, their largest weights. "keep": they are kept whole.
            "score": scores decide, as published, and prune them first.
        floor: what every block keeps at least, in [0, 1], as a share of what Erdős-Rényi-kernel densities would keep
            of it; the rest goes by score over all blocks.
        prunable: which weights may be pruned: a predicate (name, parameter) -> bool, a list of names of parameters or
            blocks, or patterns to exclude ("fc", "layer1.*", "*.qkv[q,k]", "re:.*head.*") and types of modules
            (nn.Conv2d). Default: weights of linear, convolution and recurrent layers, of attention and of stacked
            experts; never biases, embeddings (nor what is tied to one) or normalization. Density counts these, whatever
            the method.
        repair: "head" scores as if a last layer whose weights are all zero were drawn by its usual initialization, from
            the seed; without such a layer it makes no difference. The model keeps its zeros.
        progress: called as progress(done, rounds) after each round of an iterative method.
        group: a process group of torch.distributed, all of whose processes make the same call, each with `data` of its
            own: scores are those of all batches together, and masks the same everywhere. Default: `data` are all there
            are. A model under `fully_shard` is pruned by all of its processes in any case, and the masks are sharded as
            it is.
        **settings: the method's own settings, see `print(foreprune.get_method(name))`.

    Returns:
        Masks with exactly `round(density * total)` of the prunable weights kept, for each pattern if there are several
        densities (the method's record says so if it deviates). Their metadata say how they were made, and under
        "parameters" how many parameters the model has in all, prunable or not.

    Raises:
        ValueError, TypeError: bad arguments, scores that are NaN, infinite or all zero; the message says what to write
            instead.

    Warns:
        LayerCollapse: some layer has lost all its weights.
        UnscoredBlocks: `gates` has decided about some blocks.
        TiedScores: at least a tenth of what is kept was drawn at random among equal scores.
        KeptForNorm: weight normalization needs a weight in each of its parts.
        SmallShare: less than half of the parameters are prunable, by the default of `prunable`.
        ZeroHead: the last layer's weights are all zero, and so are their scores.
    """
    kept = as_densities(density=density, sparsity=sparsity, compression=compression)
    found = as_method(method)
    found.check_settings(settings)
    check_scope_and_seed(scope, seed)
    check_selection(gates=gates, floor=floor, repair=repair)
    _check_repairable(repair, model)
    if progress is not None and not callable(progress):
        raise TypeError(f"progress must be callable as progress(done, rounds), not {type(progress).__name__}")
    metadata = {"method": found.name, "density": repr(kept), "seed": str(seed), "scope": scope}
    metadata |= {"gates": gates} if gates != "erk" else {}
    metadata |= {"floor": repr(floor)} if floor else {}
    metadata |= {f"hyper.{name}": repr(value) for name, value in settings.items() if not isinstance(value, Tensor)}
    _check_group(found, group)
    with torch.inference_mode(False), isolated_randomness(int(seed)):
        spread = _is_spread(model)
        net = _view(model, prunable, group)
        for lot in grouped(net.blocks, kept, slots=net.slots):
            _ = lot.keep  # raises if there is nothing to keep
        given: dict[str, Any] = {"inputs": inputs, "data": data, "mean_image": mean_image, "loss": loss}
        task = task_for(
            net, found.needs, optional=found.optional, asking=found.name, seed=int(seed), group=group, **given
        )
        make: Callable[..., Masks] = found.make
        if spread:
            from foreprune.sharded import make_sharded

            make = partial(make_sharded, found)
        scored = net if repair is None else with_drawn_heads(net, seed=int(seed))
        made = make(scored, task, kept, scope=scope, gates=gates, floor=floor, progress=progress, **settings)
        made = made if spread else with_norms(net, made, stacklevel=2)
        metadata |= {"repair": repair} if scored is not net and repair else {}
        metadata |= {name: value for name, value in made.metadata.items() if name.startswith("ties.")}
        metadata["parameters"] = str(net.size)
        masks = made.with_metadata(metadata)
        if group is not None and not spread and not same_everywhere(masks.values(), [group], net.device):
            raise ValueError(
                "the processes found different masks, so their weights or arguments differ: load the same weights in "
                "all of them first, or wrap the model in DistributedDataParallel, which does"
            )
    if lost := collapse_notice(masks):
        warnings.warn(
            f"{found.name} at density {_shown(kept)} {lost}; keep more, or exclude them with prunable=",
            LayerCollapse,
            stacklevel=2,
        )
    if found.needs | found.optional and not spread and (emptied := emptied_rows(masks, net)):
        names = ", ".join(f"{rows} rows of {name}" for name, rows in emptied.items())
        warnings.warn(
            f"{found.name} at density {_shown(kept)} leaves no weight in {names}, where they lie as queries and keys "
            'do in a fused projection: call such a layer "qkv" if they come one after the other, which makes each of '
            "them a layer of its own here, or use 'erk'",
            LayerCollapse,
            stacklevel=2,
        )
    warn_of_ties(masks, scored, method=found.name, stacklevel=2)
    if prunable is None and not spread:
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
    check_scope_and_seed("global", seed)
    check_selection(repair=repair)
    _check_repairable(repair, model)
    settings = {name: value for name, value in settings.items() if name not in ("rounds", "schedule")}
    with torch.inference_mode(False), isolated_randomness(int(seed)):
        net = _view(model, prunable)
        given: dict[str, Any] = {"inputs": inputs, "data": data, "mean_image": mean_image, "loss": loss}
        task = task_for(net, found.needs, optional=found.optional, asking=found.name, seed=int(seed), **given)
        if _is_spread(model):
            from foreprune.sharded import ShardedNet, scores_sharded

            assert isinstance(net, ShardedNet)
            return {name: value.detach() for name, value in scores_sharded(found, net, task, **settings).items()}
        scored = net if repair is None else with_drawn_heads(net, seed=int(seed))
        scores = found.score(scored, task, net.dense(), **settings)
        check_scores(scores, net)
        warn_of_zero_head(scored, scores, stacklevel=2)
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
    if looks and not method.summed:
        others = ", ".join(other.name for other in list_methods() if other.summed)
        raise ValueError(
            f"method {method.name!r} is no sum over batches that processes could share; give every process the same "
            f"data without group=, or use one of {others}"
        )


def _shown(density: Density) -> str:
    return repr(density) if isinstance(density, Mapping) else f"{density:g}"


def collapse_notice(masks: Masks) -> str:
    """ "leaves no weight in 1 of 3 layers: fc", or blocks where a tensor holds several layers; empty if none is."""
    if not (lost := masks.collapsed_blocks()):
        return ""
    blocks = masks.blocks
    what = "blocks" if any(block.spans for block in blocks) else "layers"
    names = f"{', '.join(lost[:5])}{', ...' if len(lost) > 5 else ''}"
    return f"leaves no weight in {len(lost)} of {len(blocks)} {what}: {names}"


def check_selection(*, gates: str = "erk", floor: float = 0.0, repair: str | None = None) -> None:
    """Raise ValueError for a value of these arguments that `prune` does not take."""
    if gates not in ("erk", "keep", "score"):
        raise ValueError(
            'gates must be "erk" (blocks without a score keep their Erdős-Rényi-kernel share), "keep" (all of it) or '
            f'"score" (what their zeros are worth), not {gates!r}'
        )
    if isinstance(floor, bool) or not isinstance(floor, numbers.Real) or not 0 <= floor <= 1:
        raise ValueError(f"floor must be in [0, 1], a share of every block's Erdős-Rényi-kernel count, not {floor!r}")
    if repair not in (None, "head"):
        raise ValueError(
            f'repair must be "head" (score as if a last layer of zeros were drawn) or None, not {repair!r}'
        )


def _check_repairable(repair: str | None, model: nn.Module) -> None:
    if repair and _is_spread(model):
        raise ValueError("repair= is for models in one process, and this one is under fully_shard; draw its head first")
