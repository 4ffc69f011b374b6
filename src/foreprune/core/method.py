"""`Method`: a pruning method is a function (net, task, density) -> Masks, and this is its record.

Most methods are a score lifted into one by `by_score`. Register with `@scorer` (a score) or `@masker` (masks directly).
"""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from foreprune.core.density import apportion, keep_count
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.schedule import densities
from foreprune.core.select import NoSignal, keep_top, keep_top_per_layer
from foreprune.core.task import Task

Scores = dict[str, Tensor]
Scope = Literal["global", "local"]
Progress = Callable[[int, int], None]
Need = Literal["labels", "inputs"]


class LayerCollapse(UserWarning):
    """Pruning has cut a layer, or the whole network, off."""


class Score(Protocol):
    """A score: larger means keep. It never changes the net."""

    def __call__(self, net: Net, task: Task, masks: Masks, /, **hyper: Any) -> Scores: ...


@dataclass(frozen=True)
class Method:
    """A pruning method as a value; printing it shows what it is and what it takes.

    Attributes:
        name: what `foreprune.prune` and the command line call it.
        paper: where it comes from.
        needs: "labels" (data with targets), "inputs" (example inputs; only shape and type count), or neither.
        hyper: hyperparameter -> default, the paper's.
        exact: the kept count is exactly round(density * total). Where False, `doc` says by how much it may differ.
        doc: formula, source, and what the authors' code does differently.
        make: (net, task, density, *, scope, progress, **hyper) -> Masks.
        score: (net, task, masks, **hyper) -> scores, or None if masks are made another way.
    """

    name: str
    paper: str
    needs: frozenset[Need]
    hyper: Mapping[str, Any]
    exact: bool
    doc: str
    make: Callable[..., Masks]
    score: Score | None

    def __str__(self) -> str:
        needs = (
            "data with labels"
            if "labels" in self.needs
            else "example inputs"
            if self.needs
            else "nothing but the model"
        )
        hyper = ", ".join(f"{name}={default!r}" for name, default in self.hyper.items()) or "none"
        return f"{self.name}: {self.summary}\n  paper: {self.paper}\n  needs: {needs}\n  hyperparameters: {hyper}"

    @property
    def summary(self) -> str:
        """First sentence of the documentation."""
        return " ".join(self.doc.strip().split("\n\n")[0].split())

    def check_hyper(self, hyper: Mapping[str, Any]) -> None:
        """Raise TypeError for a hyperparameter this method does not have."""
        for name in hyper:
            if name not in self.hyper:
                near = difflib.get_close_matches(name, self.hyper, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(self.hyper) or 'none'}"
                raise TypeError(f"method {self.name!r} has no hyperparameter {name!r}; {hint}")


_REGISTRY: dict[str, Method] = {}


def register(method: Method) -> None:
    """Add a method. Raises ValueError if the name is taken."""
    if method.name in _REGISTRY:
        raise ValueError(f"a method named {method.name!r} is registered already; choose another name")
    _REGISTRY[method.name] = method


def registry() -> Mapping[str, Method]:
    """name -> method, for those registered so far."""
    return _REGISTRY


def scorer(
    name: str,
    *,
    paper: str,
    needs: Iterable[Need] = (),
    rounds: int | None = None,
    revives: bool = False,
) -> Callable[[Callable[..., Scores]], Callable[..., Scores]]:
    """Register a score as a method.

    `rounds` (the paper's number) makes it iterative, with hyperparameters `rounds` and `schedule`; None makes it
    one-shot. With `revives` a pruned weight may come back in a later round; otherwise masks only shrink.
    """

    def wrap(score: Callable[..., Scores]) -> Callable[..., Scores]:
        hyper = _keyword_defaults(score)
        if rounds is not None:
            hyper = {"rounds": rounds, "schedule": "exponential", **hyper}
        make = partial(by_score, score, revives=revives, rounds=rounds or 1)
        register(Method(name, paper, frozenset(needs), hyper, True, inspect.getdoc(score) or "", make, score))
        return score

    return wrap


def masker(
    name: str, *, paper: str, needs: Iterable[Need] = (), exact: bool = True
) -> Callable[[Callable[..., Masks]], Callable[..., Masks]]:
    """Register a function (net, task, density, **hyper) -> Masks as a method."""

    def wrap(make: Callable[..., Masks]) -> Callable[..., Masks]:
        def within_scope(
            net: Net, task: Task, density: float, *, scope: Scope, progress: Progress | None, **hyper: Any
        ) -> Masks:
            if scope != "global":
                raise ValueError(f'method {name!r} sets the layer densities itself; leave scope="global"')
            return make(net, task, density, **hyper)

        hyper = _keyword_defaults(make)
        register(Method(name, paper, frozenset(needs), hyper, exact, inspect.getdoc(make) or "", within_scope, None))
        return make

    return wrap


def by_score(
    score: Score,
    net: Net,
    task: Task,
    density: float,
    *,
    scope: Scope = "global",
    revives: bool = False,
    rounds: int = 1,
    schedule: str = "exponential",
    progress: Progress | None = None,
    **hyper: Any,
) -> Masks:
    """Score, keep the best, and again, down to `density` in `rounds` rounds.

    Raises:
        NoSignal: every score of the dense network is zero.

    Warns:
        LayerCollapse: the pruned network died on the way. It is then brought to `density` by the last scores that had
            a signal.
    """
    masks, scores = Masks.dense(net.weights), None
    steps = densities(density, rounds=rounds, schedule=schedule)
    final = keep_count(density, net.total)
    for done, step in enumerate(steps, start=1):
        keep = final if done == rounds else max(final, round(step * net.total))
        choose = partial(_select, scope=scope, among=None if revives else masks, generator=task.generator)
        try:
            latest = score(net, task, masks, **hyper)
            _check_shapes(latest, net)
            masks = choose(latest, keep)
        except NoSignal:
            if scores is None:
                raise
            warnings.warn(
                f"no signal gets through the network any more in round {done} of {rounds}, at density "
                f"{masks.density:.3g}; the last scores decide about the rest. Keep more, give more data, or use a "
                "method that cannot cut the network (synflow)",
                LayerCollapse,
                stacklevel=4,
            )
            return choose(scores, final)
        scores = latest
        if progress is not None:
            progress(done, rounds)
    return masks


def _check_shapes(scores: Scores, net: Net) -> None:
    found = {name: tuple(value.shape) for name, value in scores.items()}
    for name, weight in net.weights.items():
        if found.pop(name, None) != tuple(weight.shape):
            raise ValueError(f"a score must give every prunable weight a tensor of its shape; {name!r} has none")
    if found:
        raise ValueError(f"a score must rate the prunable weights and nothing else; it rates {next(iter(found))!r}")


def _select(scores: Scores, keep: int, *, scope: Scope, among: Masks | None, generator: torch.Generator) -> Masks:
    if scope == "global":
        return keep_top(scores, keep, generator=generator, among=among)
    sizes = {name: score.numel() for name, score in scores.items()}
    share = keep / sum(sizes.values())
    room = sizes if among is None else {name: kept for name, (kept, _) in among.layer_counts().items()}
    counts = apportion({name: share * size for name, size in sizes.items()}, room, keep)
    return keep_top_per_layer(scores, counts, among=among, generator=generator)


def _keyword_defaults(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
