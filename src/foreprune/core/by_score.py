"""Scores into masks: score, keep the best, and again. What most methods are."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from foreprune.core.budget import Density, grouped, lots_of
from foreprune.core.cautions import about_zeros, warn_of_zero_head
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.schedule import ScheduleName
from foreprune.core.select import Lot, NoSignal, Scope, check_whole
from foreprune.core.task import Task
from foreprune.core.unscored import Gates, UnscoredBlocks, instead_of, notice, unscored_blocks, with_attention

Scores = dict[str, Tensor]
Progress = Callable[[int, int], None]


class LayerCollapse(UserWarning):
    """Pruning has cut a layer, or the whole network, off."""


class Score(Protocol):
    """A score: larger means keep. It never changes the net."""

    def __call__(self, net: Net, task: Task, masks: Masks, /, **settings: Any) -> Scores: ...


class _Scored(NamedTuple):
    """Scores, or what it takes to compute them again: the masks and the state of the generator."""

    scores: Scores | None
    masks: Masks
    state: Tensor


def by_score(
    score: Score,
    net: Net,
    task: Task,
    density: Density,
    *,
    scope: Scope = "global",
    gates: Gates = "erk",
    attention: bool = False,
    floor: float = 0.0,
    revives: bool = False,
    rounds: int = 1,
    schedule: ScheduleName = "exponential",
    progress: Progress | None = None,
    **settings: Any,
) -> Masks:
    """Score, keep the best, and again, down to `density` in `rounds` rounds.

    The last round keeps `round(density * total)` weights of every group of blocks that has a density, those before it
    the numbers of `round_count`. `gates` says what becomes of blocks that the score says nothing of on the dense
    network (`foreprune.core.unscored`), and with `attention` of queries and keys, whatever their scores are; `floor`
    is that of `keep_best`.

    Raises:
        NoSignal: every score of the dense network is zero.
        TypeError, ValueError: what the score returns does not fit the network.

    Warns:
        LayerCollapse: the pruned network died on the way. It is then brought to `density` by the last scores that had
            a signal.
        ZeroHead: the last layer's weights are all zero, and their scores.
        UnscoredBlocks: `gates` has decided about some blocks.
    """
    masks, unscored, parts = net.dense(), None, net
    last: _Scored | None = None

    def steps_of(part: Net) -> list[tuple[Lot, ...]]:
        return lots_of(grouped(part.blocks, density, slots=part.slots), rounds=rounds, schedule=schedule)

    steps = steps_of(net)
    if sum(lot.keep for lot in steps[-1]) == net.total:
        gates = "score"

    def choose(best_of: Scores, lots: tuple[Lot, ...]) -> Masks:
        return net.keep_best(
            best_of,
            lots[0].keep if len(lots) == 1 else lots,
            scope=scope,
            among=None if revives else masks,
            generator=task.generator,
            blocks=parts.blocks,
            unscored=unscored,
            floor=floor,
        )

    def scores_of(scored: _Scored) -> Scores:
        if scored.scores is not None:
            return scored.scores
        state = task.generator.get_state()
        task.generator.set_state(scored.state)
        found = score(net, task, scored.masks, **settings)
        task.generator.set_state(state)
        return found

    for done in range(1, rounds + 1):
        before, state = masks, task.generator.get_state()
        try:
            latest = score(net, task, masks, **settings)
            check_scores(latest, net)
            if done == 1 and gates != "score":
                parts, silent = unscored_blocks(latest, net, task)
                found = with_attention(silent, parts) if attention else silent
                if found:
                    unscored = instead_of(found, net, whole=gates == "keep")
                    masks, steps = parts.dense(), steps_of(parts)
                    check_whole(unscored, steps[-1])  # earlier rounds keep more
                    said = notice(found, parts, gates=gates, silent=len(silent) == len(found))
                    warnings.warn(said, UnscoredBlocks, stacklevel=4)
            masks = choose(latest, steps[done - 1])
        except NoSignal as error:
            if last is None:
                raise (NoSignal(f"every score is zero: {why}") if (why := about_zeros(net)) else error) from None
            warnings.warn(
                f"no signal gets through the network any more in round {done} of {rounds}, at density "
                f"{masks.density:.3g}; the last scores decide about the rest. Keep more, give more data, or use a "
                "method that cannot cut the network (synflow)",
                LayerCollapse,
                stacklevel=4,
            )
            return choose(scores_of(last), steps[-1])
        if last is None and unscored is None:  # otherwise that has been said
            warn_of_zero_head(net, latest, stacklevel=4)
        last = _Scored(latest if net.holds_scores else None, before, state)
        del latest
        if progress is not None:
            progress(done, rounds)
    return masks


def check_scores(scores: Mapping[str, Tensor], net: Net) -> None:
    """Raise TypeError or ValueError that names the first prunable weight without a tensor of its shape, or the first
    tensor that belongs to none."""
    if not isinstance(scores, Mapping):
        raise TypeError(f"scores must be a mapping from parameter name to tensor, not {type(scores).__name__}")
    for name, weight in net.weights.items():
        if name not in scores:
            raise ValueError(
                f"the scores lack {name!r}; give every prunable weight a tensor of its shape, or exclude it with "
                "prunable="
            )
        found = scores[name]
        if not isinstance(found, Tensor) or found.shape != weight.shape:
            what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"the scores of {name!r} must be a tensor of shape {tuple(weight.shape)}, not {what}")
    if odd := [name for name in scores if name not in net.weights]:
        raise ValueError(f"the scores have {odd[0]!r}, which is no prunable weight; leave it out")
