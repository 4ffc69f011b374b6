"""Inversion: the same method keeping what it values least."""

from __future__ import annotations

from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any

from foreprune.ablations.registry import ablation

if TYPE_CHECKING:
    from foreprune.core.masks import Masks
    from foreprune.core.method import Method, Scores
    from foreprune.core.net import Net
    from foreprune.core.task import Task
    from foreprune.methods import MethodLike


@ablation("invert", changes="method", words="inverted", paper="Frankle et al., ICLR 2021, arXiv:2009.08576, section 5")
def invert(method: MethodLike) -> Method:
    """The same method keeping what it values least: every round keeps the smallest scores instead of the largest.

    Frankle et al., ICLR 2021, section 5. Scores are negated, which reverses their order whatever their signs; the 1/z
    of several published codes is infinite at zero and leaves signed scores in order within each sign.

    Returns:
        A record for `foreprune.prune(model, invert("snip"), ...)`.

    Raises:
        ValueError: the method has no scores.
    """
    from foreprune.methods import as_method

    found = as_method(method)
    score = found.score
    if score is None:
        raise ValueError(
            f"method {found.name!r} has no scores to invert; choose one that has (snip, grasp, synflow, ...)"
        )

    @wraps(score)
    def negated(net: Net, task: Task, masks: Masks, /, **settings: Any) -> Scores:
        return {name: -value for name, value in score(net, task, masks, **settings).items()}

    return replace(found, name=f"{found.name}-inverted", score=negated)
