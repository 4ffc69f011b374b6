"""What a computation comes down to, noted operation by operation, to be run again with other leaves.

Below autograd a forward and its backward are one list of tensor operations. Run from that list, a small network costs
half of what it costs through modules, modes and graph.

A value is what stands at a place: a stretch of memory, seen in one shape and type. All values of the computation are
kept alive while it is noted, so a place is never given out twice, and two tensors at one place are one value.
Operations that change memory run again as they are, in the same order; so only what is left out must be safe to leave
out: copies (nobody changes source or copy), constants (nothing they depend on differs the next time), and what no
result needs.

The tape refuses what a list cannot know: numbers and shapes that depend on the values, random draws, tensors without
plain memory. What Python does to memory behind torch's back it cannot see.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from foreprune.graph.sums.gates import leaves, walk

_aten = torch.ops.aten
_COPIES = frozenset({_aten.clone.default, _aten.alias.default, _aten.detach.default})


class Refused(Exception):
    """The computation cannot be run again from a list of its operations; the message says why."""


@dataclass(frozen=True, slots=True)
class Ref:
    """Stands for the value with this number."""

    number: int


@dataclass(frozen=True, slots=True)
class Step:
    """`func(*args, **kwargs)` with a `Ref` for each value.

    `made` are the numbers of its results, None for one that is no tensor; `single` says that it returns the only one as
    it is, and not in a list. `written` are the values that it changes.
    """

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    made: tuple[int | None, ...]
    single: bool
    written: tuple[int, ...]

    def used(self) -> set[int]:
        return {value.number for value in leaves((self.args, self.kwargs)) if isinstance(value, Ref)}


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside it, notes every tensor operation. `sources` are the values 0, 1, ...: what will differ the next time."""

    def __init__(self, sources: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self.values: list[Tensor] = []  # all of them, so that no memory is given out twice
        self.varying: set[int] = set()  # memory that depends on the sources
        self.refusal = ""
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._paused = False
        self.sources = tuple(self._register(source) for source in sources)
        self.varying.update(map(memory_of, self.values))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Note nothing, and let numbers be read."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def number(self, tensor: Tensor) -> int | None:
        """The number of a value, if it is one."""
        return self._numbers.get(_place(tensor))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._paused or self.refusal:
            return func(*args, **kwargs)
        step = self._guarded(self._begun, func, args, kwargs)
        result = func(*args, **kwargs)
        if step is not None:
            self._guarded(self._ended, step, result)
        return result

    def _guarded(self, note: Callable[..., Any], *args: Any) -> Any:
        """What `note` returns. If it fails, that is no reason for the computation to fail."""
        try:
            return note(*args)
        except Exception as error:
            self.refusal = f"it could not be noted: {error}"
            return None

    def _begun(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Step, bool] | None:
        """The step without its results, and whether it depends on the sources."""
        tensors = [value for value in leaves((args, kwargs)) if isinstance(value, Tensor)]
        varying = not self.varying.isdisjoint(memory_of(tensor) for tensor in tensors if _plain(tensor))
        self._check(func, tensors, varying=varying)
        if self.refusal:
            return None
        written = self._written(func, args, kwargs)
        return Step(func, walk(args, self._noted), walk(kwargs, self._noted), (), True, written), varying

    def _ended(self, begun: tuple[Step, bool], result: Any) -> None:
        step, varying = begun
        single = not isinstance(result, (tuple, list))
        results = (result,) if single else result
        self._check(step.func, [value for value in results if isinstance(value, Tensor)], varying=varying)
        if varying and any(not isinstance(value, Tensor) and value is not None for value in results):
            self.refusal = f"{step.func} reads a number that depends on the weights"
        if self.refusal:
            return
        made = tuple(self._register(value) if isinstance(value, Tensor) else None for value in results)
        if varying:
            changed = (number for number in (*made, *step.written) if number is not None)
            self.varying.update(memory_of(self.values[number]) for number in changed)
        self.steps.append(replace(step, made=made, single=single))

    def _check(self, func: Any, tensors: list[Tensor], *, varying: bool) -> None:
        """Refuse what may come out differently the next time, and tensors whose memory cannot be told."""
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.refusal = f"{func} draws at random"
        masked = "index" in func._schema.name and any(t.dtype in (torch.bool, torch.uint8) for t in tensors)
        if varying and (masked or torch.Tag.dynamic_output_shape in func.tags):
            self.refusal = f"{func} has a shape that depends on the weights"
        if not all(map(_plain, tensors)):
            self.refusal = f"{func} takes or makes a tensor that is sparse, nested or of a subclass"

    def _noted(self, value: Any) -> Any:
        number = self.number(value) if isinstance(value, Tensor) else None
        return value if number is None else Ref(number)

    def _register(self, tensor: Tensor) -> int:
        """The number of a tensor, a new one if its place is new. Tensors in the same place hold the same values."""
        number = self._numbers.setdefault(_place(tensor), len(self.values))
        if number == len(self.values):
            self.values.append(tensor)
        return number

    def _written(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[int, ...]:
        """The values that an operation changes."""
        formal = list(func._schema.arguments)
        given = [*zip(formal, args, strict=False), *((a, kwargs[a.name]) for a in formal if a.name in kwargs)]
        written = []
        for argument, value in given:
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in leaves(value):
                    number = self.number(tensor)
                    if number is None:
                        self.refusal = f"{func} changes a tensor from before"
                    else:
                        written.append(number)
        return tuple(written)


@dataclass(frozen=True, eq=False)
class Program:
    """The steps that lead from sources to results, and what they need besides.

    Attributes:
        sources: numbers of the values to be given.
        constants: number -> value, for those that depend on no source.
        steps: in order.
        ready: after how many steps the results with these numbers are final.
        dropped: for each step, the values that nothing needs after it.
    """

    sources: tuple[int, ...]
    constants: dict[int, Tensor]
    steps: tuple[Step, ...]
    ready: dict[int, list[int]]
    dropped: tuple[tuple[int, ...], ...]

    @torch.no_grad()
    def run(self, sources: Iterable[Tensor], receive: Callable[[int, Tensor], None]) -> None:
        """Compute the results and hand over each, with its number, as soon as it is final. What is handed over may be
        changed later: copy it."""
        values: dict[int | None, Any] = dict(zip(self.sources, sources, strict=True))
        values |= self.constants  # type: ignore[arg-type]

        def look_up(value: Any) -> Any:
            if type(value) is Ref:
                return values[value.number]
            return [look_up(item) for item in value] if type(value) is list else value

        for number in self.ready.get(0, ()):
            receive(number, values[number])
        for done, step in enumerate(self.steps):
            args = [look_up(value) for value in step.args]
            found = step.func(*args, **{name: look_up(value) for name, value in step.kwargs.items()})
            values.update(zip(step.made, (found,) if step.single else found, strict=True))
            del found, args
            for number in self.ready.get(done + 1, ()):
                receive(number, values[number])
            for number in self.dropped[done]:
                del values[number]


def program(tape: Tape, results: Iterable[Tensor]) -> Program:
    """What leads to `results`, without what they do not need.

    Raises:
        Refused: they cannot be computed from the tape.
    """
    if tape.refusal:
        raise Refused(tape.refusal)
    numbers = [tape.number(result) for result in results]
    wanted = {number for number in numbers if number is not None}
    if len(wanted) < len(numbers):
        raise Refused("a result was not seen to be computed")
    memory = [memory_of(tensor) for tensor in tape.values]
    changing = {memory[number] for step in tape.steps for number in step.written}
    steps = _without_copies(tape, memory, changing, wanted)
    constant = {n for n in range(len(memory)) if memory[n] not in tape.varying | changing}
    kept: list[Step] = []
    needed, needed_memory = set(wanted), {memory[number] for number in wanted}
    for step in reversed(steps):
        made = {number for number in step.made if number is not None}
        if made <= constant and not step.written:
            continue
        if needed & made or any(memory[number] in needed_memory for number in step.written):
            kept.append(step)
            needed |= step.used()
            needed_memory |= {memory[number] for number in step.used()}
    kept.reverse()
    return _scheduled(tape, kept, wanted, {number: tape.values[number] for number in needed & constant}, memory)


def _without_copies(tape: Tape, memory: list[int], changing: set[int], wanted: set[int]) -> list[Step]:
    """The steps without copies of what does not change, in memory that does not change either."""
    same: dict[int, int] = {}
    steps = []
    for step in tape.steps:
        args, kwargs = (
            walk(part, lambda v: Ref(same.get(v.number, v.number)) if isinstance(v, Ref) else v)
            for part in (step.args, step.kwargs)
        )
        step = replace(step, args=args, kwargs=kwargs)
        source, made = (args[0] if args else None), step.made[0]
        if step.func in _COPIES and isinstance(source, Ref) and made is not None and made not in wanted:
            alike = tape.values[made].stride() == tape.values[source.number].stride()
            if alike and memory[made] not in changing and memory[source.number] not in changing:
                if made != source.number:
                    same[made] = source.number
                continue
        steps.append(step)
    return steps


def _scheduled(
    tape: Tape, steps: list[Step], wanted: set[int], constants: dict[int, Tensor], memory: list[int]
) -> Program:
    """A program that hands over results and drops values as early as possible."""
    made = set(constants).union(tape.sources, *(step.made for step in steps))
    missing = {number for step in steps for number in step.used()} - made
    if missing or wanted - made:
        raise Refused("a value appeared that no operation has made")
    final = dict.fromkeys(wanted, 0)
    last = dict.fromkeys(range(len(memory)), -1)
    for done, step in enumerate(steps):
        touched = {memory[n] for n in (*step.made, *step.written) if n is not None}
        final.update((number, done + 1) for number in wanted if memory[number] in touched)
        last.update(dict.fromkeys([*step.used(), *(n for n in step.made if n is not None)], done))
    for number, done in final.items():
        last[number] = max(last[number], done - 1)
    ready: dict[int, list[int]] = {}
    for number, done in final.items():
        ready.setdefault(done, []).append(number)
    dropped: list[list[int]] = [[] for _ in steps]
    for number, index in last.items():
        if index >= 0 and number in made and number not in constants:
            dropped[index].append(number)
    return Program(tape.sources, constants, tuple(steps), ready, tuple(map(tuple, dropped)))


def _plain(tensor: Tensor) -> bool:
    strided = tensor.layout == torch.strided and not tensor.is_nested
    return strided and type(tensor) in (Tensor, torch.nn.Parameter)


def memory_of(tensor: Tensor) -> int:
    """The memory that a tensor is a view of."""
    memory: int = tensor.untyped_storage()._cdata
    return memory


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Where the entries of a tensor are."""
    return (
        memory_of(tensor),
        tensor.storage_offset(),
        tuple(tensor.shape),
        tensor.stride(),
        tensor.dtype,
    )
