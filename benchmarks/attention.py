"""Ways to treat the queries and keys of attention when weights are chosen, to compare with the library's own."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import foreprune as fp
from benchmarks.attention_tasks import Batch
from foreprune.core.density import erdos_renyi_kernel
from foreprune.core.method import Method, Scores
from foreprune.core.net import Net
from foreprune.core.task import Task

_FUSED = "in_proj_weight"
Change = Callable[[Net, Scores], Scores]


def blocks(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with queries, keys and values of a fused projection apart, as views: "....in_proj_weight[q]"."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(_FUSED):
            found |= {f"{name}[{part}]": rows for part, rows in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            found[name] = tensor
    return found


def is_score(block: str) -> bool:
    """Whether a block's weights only make attention scores: queries and keys."""
    return block.endswith(("[q]", "[k]"))


def kept(masks: fp.Masks) -> dict[str, Any]:
    """The densities of queries, keys and values over all layers, and how many of these blocks are empty."""
    found = {name: mask for name, mask in blocks(dict(masks)).items() if name[-3:] in ("[q]", "[k]", "[v]")}
    words = {"queries": "[q]", "keys": "[k]", "values": "[v]"}
    parts = {word: [mask for name, mask in found.items() if name.endswith(end)] for word, end in words.items()}
    densities = {word: float(torch.cat(masks_).float().mean()) for word, masks_ in parts.items()}
    return {**densities, "empty": sum(not bool(mask.any()) for name, mask in found.items() if is_score(name))}


def floored(net: Net, scores: Scores, *, share: float, density: float, everywhere: bool, by: str = "score") -> Scores:
    """Scores by which every block of queries or keys (or every block) keeps at least `share` of its ERK count.

    That many of its weights, the best by score, by magnitude or at random, come before all others.
    """
    changed = {name: score.double().clone() for name, score in scores.items()}
    inside = blocks(changed)
    weights = blocks(net.weights)
    erk = erdos_renyi_kernel({name: tuple(score.shape) for name, score in inside.items()}, density)
    least = min(float(score.min()) for score in inside.values())
    reach = max(float(score.max()) for score in inside.values()) - least
    generator = torch.Generator().manual_seed(0)
    for name, score in inside.items():
        if everywhere or is_score(name):
            order = {"score": score, "magnitude": weights[name].abs()}.get(by)
            order = torch.rand(score.shape, generator=generator) if order is None else order
            first = order.flatten().topk(round(share * erk[name] * score.numel())).indices
            flat = score.view(-1)
            flat[first] += 2 * reach + (reach == 0)
    return changed


def equal_totals(net: Net, scores: Scores) -> Scores:
    """The scores of queries and of keys times what makes the sum of their absolute values that of the values."""
    changed = {name: score.clone() for name, score in scores.items()}
    for tensor in (tensor for name, tensor in changed.items() if name.endswith(_FUSED)):
        queries, keys, values = tensor.chunk(3)
        for part in (queries, keys):
            part *= values.abs().sum() / part.abs().sum().clamp_min(1e-30)
    return changed


def sharpened(model: nn.Module, times: float) -> nn.Module:
    """A copy whose attention scores are `times` as large: attention is further from uniform."""
    sharp = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in sharp.named_parameters():
            if name.endswith(_FUSED):
                queries, keys, _ = weight.chunk(3)
                queries *= math.sqrt(times)
                keys *= math.sqrt(times)
    return sharp


def shares(model: nn.Module, method: str, data: Batch) -> dict[str, float]:
    """Of the sum of the absolute values of all scores, the share of each kind of block: "q", "k", "v", other layers."""
    found: dict[str, float] = {}
    for name, score in blocks(fp.score(model, method, data=[data])).items():
        kind = name[-2] if name.endswith("]") else name.removesuffix(".weight").rpartition(".")[2]
        found[kind] = found.get(kind, 0.0) + float(score.abs().sum())
    return {kind: value / sum(found.values()) for kind, value in found.items()}


def choose(
    model: nn.Module, method: str, *, variant: str, density: float, seed: int, data: Batch
) -> tuple[fp.Masks, bool]:
    """The masks of `method` under a variant, and whether pruning warned. Variants:

    default: the library's own; published: scores decide about all; gates=VALUE, floor=SHARE: options of `prune`;
    least=SHARE: `floored` for queries and keys; least-magnitude=SHARE, least-random=SHARE: chosen so; every=SHARE: for
    all blocks; totals: `equal_totals`; sharp=TIMES: scores of the `sharpened` network; all without the default rule.

    Raises:
        ValueError: no such variant.
    """
    kind, _, value = variant.partition("=")
    asked: Any = method
    options: dict[str, Any] = {}
    scored = model
    if kind in ("gates", "floor", "published"):
        options = {"gates": value or "score"} if kind != "floor" else {"floor": float(value)}
    elif kind in ("least", "least-magnitude", "least-random", "every", "totals"):
        by = kind.partition("-")[2] or "score"
        share = float(value or 0)
        floor = partial(floored, share=share, density=density, everywhere=kind == "every", by=by)
        asked = changed(fp.get_method(method), equal_totals if kind == "totals" else floor)
        options = {"gates": "score"}
    elif kind == "sharp":
        scored = sharpened(model, float(value))
        options = {"gates": "score"}
    elif kind != "default":
        raise ValueError(f"no variant {variant!r}")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        masks = fp.prune(scored, asked, density=density, seed=seed, inputs=data[0][:1], data=[data], **options)
    return masks, bool(said)


def changed(method: Method, change: Change) -> Method:
    """`method` with every round's scores changed."""
    score = method.score
    assert score is not None

    def scored(net: Net, task: Task, masks: fp.Masks, /, **settings: Any) -> Scores:
        return change(net, score(net, task, masks, **settings))

    return replace(method, name=f"{method.name}, changed", score=scored)
