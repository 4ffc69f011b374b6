"""The front door: `prune` and `score`."""

from __future__ import annotations

import numbers
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from foreprune.core.density import as_density, keep_count
from foreprune.core.masks import Masks
from foreprune.core.method import LayerCollapse, Method, Progress, Scope
from foreprune.core.net import Net, isolated_randomness
from foreprune.core.prunable import Prunable
from foreprune.core.seeds import generator_for
from foreprune.core.task import Loss, Task, as_inputs, materialize
from foreprune.methods import method as find_method


def prune(
    model: nn.Module,
    method: str | Method,
    *,
    density: float | None = None,
    sparsity: float | None = None,
    compression: float | None = None,
    inputs: Any = None,
    data: Any = None,
    loss: Loss | None = None,
    seed: int = 0,
    scope: Scope = "global",
    prunable: Prunable = None,
    progress: Progress | None = None,
    **hyper: Any,
) -> Masks:
    """Choose which weights of `model` to keep, before training it. The model is not changed.

    After the call, also after an error, its parameters, buffers, gradients, modes and the global random state are bit
    for bit what they were.

    Args:
        model: any `torch.nn.Module`; custom forwards, tied weights and several inputs are fine.
        method: a name from `foreprune.methods()`, or such a record itself (`foreprune.ablations.invert` makes one).
        density: fraction of prunable weights to keep, in (0, 1]. Exactly one of density, sparsity and compression.
        sparsity: fraction to remove, in [0, 1).
        compression: total over kept weights, at least 1.
        inputs: example inputs for data-free methods: a tensor, a tuple of them (positional) or a mapping (keywords),
            batch axis first. Only shapes and types count.
        data: for data-driven methods: one batch `(input, target)` or an iterable of batches. All of it is used and
            kept in memory, so pass a few batches, e.g. `itertools.islice(loader, 4)`. The papers use ten samples per
            class.
        loss: callable (output, target) -> mean over the batch; default cross-entropy.
        seed: decides every random choice, ties included, whatever the global random state is.
        scope: "global" compares scores over all layers; "local" keeps the same fraction in every layer.
        prunable: which weights may be pruned: a predicate (name, parameter) -> bool, a list of parameter names, or
            patterns to exclude ("fc", "layer1.*", "re:.*head.*"). Default: weights of linear and convolution layers
            and of attention.
        progress: called as progress(done, rounds) after each round of an iterative method.
        **hyper: the method's own hyperparameters, see `print(foreprune.method(name))`.

    Returns:
        Masks with exactly `round(density * total)` weights kept (the method's record says so if it deviates).

    Raises:
        ValueError, TypeError: bad arguments, scores that are NaN, infinite or all zero; the message says what to write
        instead.

    Warns:
        LayerCollapse: some layer has lost all its weights.
    """
    kept = as_density(density=density, sparsity=sparsity, compression=compression)
    found = method if isinstance(method, Method) else find_method(method)
    found.check_hyper(hyper)
    _check_scope_and_seed(scope, seed)
    metadata = {"method": found.name, "density": repr(kept), "seed": str(seed), "scope": scope}
    metadata |= {f"hyper.{name}": repr(value) for name, value in hyper.items() if not isinstance(value, Tensor)}
    with torch.inference_mode(False), isolated_randomness(int(seed)):
        net = Net.of(model, prunable=prunable)
        keep_count(kept, net.total)
        task = _task(found, net, inputs=inputs, data=data, loss=loss, seed=int(seed))
        made = found.make(net, task, kept, scope=scope, progress=progress, **hyper)
        masks = made.with_metadata(metadata)
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
    method: str | Method,
    *,
    inputs: Any = None,
    data: Any = None,
    loss: Loss | None = None,
    seed: int = 0,
    prunable: Prunable = None,
    **hyper: Any,
) -> dict[str, Tensor]:
    """One scoring pass of `method` on the dense model: name -> scores of the weight's shape, larger means keep.

    Arguments as in `prune`. Scores of path methods (synflow and its relatives) are defined up to one common factor.

    Raises:
        ValueError: the method has no scores (layer-density methods build masks directly), or bad arguments.
    """
    found = method if isinstance(method, Method) else find_method(method)
    if found.score is None:
        raise ValueError(
            f"method {found.name!r} builds masks directly and has no scores; use prune(model, {found.name!r}, ...)"
        )
    found.check_hyper(hyper)
    _check_scope_and_seed("global", seed)
    hyper = {name: value for name, value in hyper.items() if name not in ("rounds", "schedule")}
    with torch.inference_mode(False), isolated_randomness(int(seed)):
        net = Net.of(model, prunable=prunable)
        task = _task(found, net, inputs=inputs, data=data, loss=loss, seed=int(seed))
        scores = found.score(net, task, Masks.dense(net.weights), **hyper)
        return {name: value.detach() for name, value in scores.items()}


def _check_scope_and_seed(scope: str, seed: int) -> None:
    if scope not in ("global", "local"):
        raise ValueError(
            f'scope must be "global" (compare over all layers) or "local" (each layer by itself), not {scope!r}'
        )
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be a whole number from 0 to 2**32 - 1 (torch seeds with 32 bits), not {seed!r}")


def _task(found: Method, net: Net, *, inputs: Any, data: Any, loss: Loss | None, seed: int) -> Task:
    if loss is not None and not callable(loss):
        raise TypeError(f"loss must be callable as loss(output, target), not {type(loss).__name__}")
    if "labels" in found.needs and data is None:
        raise ValueError(
            f"method {found.name!r} needs data: pass data=(x, y) or an iterable of such batches "
            "(data-free methods: 'synflow', 'magnitude', 'erk', 'random')"
        )
    uses_data = data is not None and ("labels" in found.needs or "inputs" in found.needs)
    batches = materialize(data, net.device) if uses_data else ()
    example = as_inputs(inputs) if inputs is not None else batches[0].inputs if batches else None
    if "inputs" in found.needs and example is None:
        raise ValueError(
            f"method {found.name!r} needs example inputs, of which only the shape counts: pass inputs=x, "
            "e.g. inputs=torch.zeros(1, 3, 32, 32)"
        )
    return Task(batches, example, loss, generator_for("prune", seed))
