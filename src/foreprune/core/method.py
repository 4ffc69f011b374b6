"""`Method`: a way to prune that needs no training, as a value: what it computes, what it needs, what it takes.

Most methods are a score, larger means keep; `@scorer` registers one. The others make masks directly; `@masker`
registers those.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from foreprune.core.budget import Density, Group, grouped
from foreprune.core.by_score import Progress, Score, Scores, by_score
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.schedule import ScheduleName
from foreprune.core.select import Scope
from foreprune.core.settings import check_settings, defaults_of, types_of
from foreprune.core.targets import check_same_weights
from foreprune.core.task import NEEDS, Need, Task
from foreprune.core.unscored import Gates, UnscoredBlocks, beside, joined, notice, unscored_blocks

__all__ = ["MakeMasks", "Method", "Score", "Scores", "masker", "register", "registry", "scorer"]


class MakeMasks(Protocol):
    """A function that chooses the masks of a density by itself."""

    def __call__(self, net: Net, task: Task, density: float, /, **settings: Any) -> Masks: ...


@dataclass(frozen=True)
class Method:
    """A pruning method as a value; printing it shows what it is and what it takes.

    Attributes:
        name: what `foreprune.prune` and the command line call it.
        paper: where it comes from.
        doc: formula, source, and what the authors' code does differently.
        needs: any of "shape" (example inputs; only shape and type count), "images" (data), "labels" (data with
            targets) and "mean image" (that of the data).
        score: (net, task, masks, **settings) -> scores; or None.
        masks: (net, task, density, **settings) -> Masks, of a method without a score.
        rounds: how often it scores and prunes, the paper's number; None: once, and there is no such setting.
        schedule: how the density falls from round to round.
        revives: a pruned weight may come back in a later round; otherwise masks only shrink.
        exact: the kept count is exactly round(density * total). Where False, `doc` says by how much it may differ.
        optional: needs that it can do without, and that it sees where they are given.
        reach: of a method without a score, (net, task) -> 1 for the weights that it may keep, 0 for those that it never
            can; None if it may keep any.
        sharded: it also prunes models under `fully_shard`, where `net` holds a part of each tensor: it runs the network
            by `net(params, ...)` and computes with weights entry by entry.
        summed: all it takes from data are sums over batches by `task.weight_grads` or `task.summed`, so that processes
            may hold batches of their own (`prune(..., group=)`).
    """

    name: str
    paper: str
    doc: str
    needs: frozenset[Need] = frozenset()
    score: Score | None = None
    masks: MakeMasks | None = None
    rounds: int | None = None
    schedule: ScheduleName = "exponential"
    revives: bool = False
    exact: bool = True
    optional: frozenset[Need] = frozenset()
    reach: Callable[[Net, Task], Scores] | None = None
    sharded: bool = False
    summed: bool = False

    def __post_init__(self) -> None:
        if (self.score is None) == (self.masks is None):
            raise TypeError(f"method {self.name!r} must have either a score or a function that makes masks")
        if odd := sorted((self.needs | self.optional) - NEEDS.keys()):
            raise ValueError(f"method {self.name!r} cannot need {odd[0]!r}; a method may need {', '.join(NEEDS)}")
        self._check_signature()
        if self.rounds is not None and (taken := {"rounds", "schedule"} & defaults_of(self.function).keys()):
            raise TypeError(
                f"{self.name!r} has a setting {min(taken)!r}, which is what the rounds of pruning are set by; "
                "give it another name"
            )

    def _check_signature(self) -> None:
        what = "a score is a function (net, task, masks) -> {name: tensor}"
        if self.score is None:
            what = "what makes masks is a function (net, task, density) -> Masks"
        if isinstance(self.function, type):
            raise TypeError(f"{what}, and {self.name} is a class; pass a function or an instance with __call__")
        try:
            signature = inspect.signature(self.function)
        except ValueError:
            raise TypeError(f"{what}, and {self.name} does not say what it takes; wrap it in a function") from None
        try:
            signature.bind(None, None, None)
        except TypeError:
            raise TypeError(
                f"{what}, and {self.name} takes {signature}; settings must be keyword-only and have defaults"
            ) from None

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={default!r}" for name, default in self.settings.items()) or "none"
        needs = self.requirements or "nothing but the model"
        return f"{self.name}: {self.summary}\n  paper: {self.paper}\n  needs: {needs}\n  settings: {settings}"

    @property
    def function(self) -> Callable[..., Any]:
        """The score, or what makes the masks."""
        function = self.score or self.masks
        assert function is not None
        return function

    @property
    def summary(self) -> str:
        """First paragraph of the documentation."""
        return " ".join(self.doc.strip().split("\n\n")[0].split())

    @property
    def requirements(self) -> str:
        """What it needs besides the model, in words; empty if nothing."""
        return " and ".join(words for need, words in NEEDS.items() if need in self.needs)

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """Setting -> default, the paper's. An iterative method has `rounds` and `schedule`."""
        iterative = {} if self.rounds is None else {"rounds": self.rounds, "schedule": self.schedule}
        return {**iterative, **defaults_of(self.function)}

    def check_settings(self, given: Mapping[str, Any]) -> None:
        """Raise TypeError or ValueError for settings this method does not have or values of the wrong kind."""
        kinds = {"rounds": int, "schedule": ScheduleName, **types_of(self.function)}
        check_settings(f"method {self.name!r}", given, settings=self.settings, kinds=kinds)

    def make(
        self,
        net: Net,
        task: Task,
        density: Density,
        *,
        scope: Scope = "global",
        gates: Gates = "erk",
        floor: float = 0.0,
        progress: Progress | None = None,
        **settings: Any,
    ) -> Masks:
        """The masks of `net` at `density`; `settings` have been checked, the others are those of `by_score`.

        Raises:
            TypeError, ValueError: what the score or the function that makes masks returns does not fit the network;
                `scope` is "local", or there is a `floor`, for a method that sets the layer densities itself; several
                densities for one that cannot keep exact numbers.
        """
        if self.masks is not None:
            if scope != "global" or floor:
                leave = 'scope="global"' if scope != "global" else "floor=0"
                raise ValueError(f"method {self.name!r} sets the layer densities itself; leave {leave}")
            groups = grouped(net.blocks, density, slots=net.slots)
            if len(groups) > 1 and not self.exact:
                raise ValueError(f"method {self.name!r} chooses among all weights at once; give it one density")

            def made_of(part: Net, group: Group) -> Masks:
                return self._made(part, task, group, settings)

            if self.reach is not None and gates != "score":
                reached = self.reach(net, task)
                parts, found = unscored_blocks(reached, net, task)
                if found:
                    if groups[0].keep < net.total:
                        warnings.warn(notice(found, parts, gates=gates), UnscoredBlocks, stacklevel=3)
                    return beside(parts, task, groups[0].keep, reached, found, make=made_of, whole=gates == "keep")
            made = [made_of(net.restricted(group.blocks), group) for group in groups]
            return made[0] if len(made) == 1 else joined(net, made)
        assert self.score is not None
        if self.rounds is not None:
            settings = {"rounds": self.rounds, "schedule": self.schedule, **settings}
        return by_score(
            self.score,
            net,
            task,
            density,
            scope=scope,
            gates=gates,
            attention=bool(self.needs | self.optional),
            floor=floor,
            revives=self.revives,
            progress=progress,
            **settings,
        )

    def _made(self, net: Net, task: Task, group: Group, settings: Mapping[str, Any]) -> Masks:
        assert self.masks is not None
        keep = group.keep
        made = self.masks(net, task, group.density, **settings)
        self._check_made(made, net, keep)
        return made

    def _check_made(self, made: Any, net: Net, keep: int) -> None:
        if not isinstance(made, Masks):
            raise TypeError(f"method {self.name!r} must return foreprune.Masks, not {type(made).__name__}")
        shapes = {name: tuple(weight.shape) for name, weight in net.weights.items()}
        check_same_weights(shapes, made.shapes, what=f"the masks of method {self.name!r}")
        if self.exact and (kept := net.kept(made)) != keep:
            raise ValueError(
                f"method {self.name!r} keeps {kept:,} weights where {keep:,} are to be kept; keep as many, or "
                "register it with exact=False"
            )


_REGISTRY: dict[str, Method] = {}


def register(method: Method) -> None:
    """Add a method. The same function again, as after a reload, takes the place of the earlier one.

    Raises:
        ValueError: the name is taken by a function of another place.
    """
    known = _REGISTRY.get(method.name)
    if known is not None and _place(known) != _place(method):
        raise ValueError(
            f"a method named {method.name!r} is registered already by {_place(known)}; choose another name in "
            f"{_place(method)}"
        )
    _REGISTRY[method.name] = method


def registry() -> Mapping[str, Method]:
    """name -> method, for those registered so far."""
    return _REGISTRY


def _place(method: Method) -> str:
    function = inspect.unwrap(method.function)
    return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"


def _check_name(name: object, decorator: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f'a method needs a name: write @{decorator}("my-method"), not {type(name).__name__}')


def scorer(
    name: str,
    *,
    paper: str = "",
    needs: Iterable[Need] = (),
    rounds: int | None = None,
    schedule: ScheduleName = "exponential",
    revives: bool = False,
    sharded: bool = False,
    summed: bool = False,
) -> Callable[[Callable[..., Scores]], Callable[..., Scores]]:
    """Register a function (net, task, masks, **settings) -> scores as a method; larger means keep.

    Its keyword-only parameters are the settings, checked from their annotations; its docstring is the documentation.
    The other arguments are attributes of `Method`. `rounds` makes it iterative, with settings `rounds` and `schedule`.
    """

    _check_name(name, "scorer")

    def wrap(score: Callable[..., Scores]) -> Callable[..., Scores]:
        doc = inspect.getdoc(score) or ""
        given: dict[str, Any] = {"rounds": rounds, "schedule": schedule, "revives": revives}
        register(Method(name, paper, doc, frozenset(needs), score=score, sharded=sharded, summed=summed, **given))
        return score

    return wrap


def masker(
    name: str,
    *,
    paper: str = "",
    needs: Iterable[Need] = (),
    exact: bool = True,
    reach: Callable[[Net, Task], Scores] | None = None,
    sharded: bool = False,
) -> Callable[[Callable[..., Masks]], Callable[..., Masks]]:
    """Register a function (net, task, density, **settings) -> Masks as a method; otherwise as `scorer`."""

    _check_name(name, "masker")

    def wrap(make: Callable[..., Masks]) -> Callable[..., Masks]:
        doc = inspect.getdoc(make) or ""
        register(Method(name, paper, doc, frozenset(needs), masks=make, exact=exact, reach=reach, sharded=sharded))
        return make

    return wrap
