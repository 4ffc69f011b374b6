"""A tape's program against the computation itself, with other sources."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from foreprune.graph.replay.tape import Program, Refused, Step, Tape, program
from foreprune.graph.replay.unfolded import unfolded

aten = torch.ops.aten


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def taped(function: Callable[..., Tensor], *sources: Tensor) -> tuple[Program, Tensor]:
    tape = Tape(sources)
    with tape:
        result = function(*sources)
    return program(tape, [result]), result


def rerun(made: Program, *sources: Tensor) -> Tensor:
    found: list[Tensor] = []
    made.run(sources, lambda _, value: found.append(value.clone()))
    assert len(found) == 1
    return found[0]


def fill_row(x: Tensor) -> Tensor:
    table = torch.zeros(3, 4, dtype=x.dtype)
    table[1] = x[0]
    table[2].add_(x[1])
    return table.cumsum(0) * x.sum()


def add_after_copy(x: Tensor) -> Tensor:
    kept = x.clone()
    changed = x.clone()
    changed += 1
    return kept * changed


def view_of_what_changes(x: Tensor) -> Tensor:
    y = x * 2
    row = y[0]
    y.add_(x)
    return row + y[1]


def change_through_a_view(x: Tensor) -> Tensor:
    y = x * 2
    y.t()[0].mul_(3)
    return y.sum(1)


def gradient(x: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad((torch.relu(leaf @ leaf.t()).sum(0) + leaf.sum()).square().sum(), leaf)[0]


def lists(x: Tensor) -> Tensor:
    parts = x.split(2, 1)
    return torch.cat([parts[1], torch.stack([parts[0][0], parts[0][1], parts[0][2]])], 1)


def several(x: Tensor) -> Tensor:
    value, place = x.max(1)
    return value * place


def constant_parts(x: Tensor) -> Tensor:
    ones = torch.ones(4, dtype=x.dtype)
    ones = ones.cumsum(0)
    return x * ones


def constant_that_changes(x: Tensor) -> Tensor:
    ones = torch.ones(4, dtype=x.dtype)
    before = x * ones
    ones.add_(1)
    return before + x * ones


def copy_of_what_changes(x: Tensor) -> Tensor:
    y = x * 2
    kept = y.clone()
    y.add_(1)
    return kept * y


def several_at_once(x: Tensor) -> Tensor:
    tables = [torch.zeros(3, 4, dtype=x.dtype) for _ in range(2)]
    torch._foreach_add_(tables, [x, x.exp()])  # it returns nothing
    return tables[0] * tables[1].cumsum(0)


def the_source_itself(x: Tensor) -> Tensor:
    return x


FUNCTIONS = [
    fill_row,
    add_after_copy,
    view_of_what_changes,
    change_through_a_view,
    gradient,
    lists,
    several,
    constant_parts,
    constant_that_changes,
    copy_of_what_changes,
    several_at_once,
    the_source_itself,
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_a_program_gives_what_the_computation_gives(function: Callable[[Tensor], Tensor]) -> None:
    made, result = taped(function, drawn(3, 4))
    assert torch.equal(rerun(made, drawn(3, 4)), result)
    for seed in (1, 2):
        other = drawn(3, 4, seed=seed)
        assert torch.equal(rerun(made, other.clone()), function(other))


def test_only_what_leads_to_the_result_is_kept() -> None:
    def function(x: Tensor) -> Tensor:
        x.exp().log()  # nobody uses it
        ones = torch.ones(4).double().cumsum(0)
        return (x.clone().detach() * ones).clone()

    made, _ = taped(function, drawn(4))
    assert [step.func for step in made.steps] == [aten.mul.Tensor, aten.clone.default]  # the result is no alias
    assert len(made.constants) == 1


def test_copies_of_what_changes_later_are_kept() -> None:
    made, _ = taped(add_after_copy, drawn(4))
    assert [step.func for step in made.steps] == [aten.clone.default, aten.add_.Tensor, aten.mul.Tensor]


def test_values_are_dropped_after_their_last_use() -> None:
    made, _ = taped(lambda x: ((x + 1) * 2).sum(), drawn(4))
    numbers = [step.made[0] for step in made.steps]
    assert [set(dropped) for dropped in made.dropped] == [{made.sources[0]}, {numbers[0]}, {numbers[1], numbers[2]}]


def test_results_are_handed_over_once_nothing_changes_them_any_more() -> None:
    tape = Tape([x := drawn(4)])
    with tape:
        first = x * 2
        second = first + 1
        first.add_(second)
    made = program(tape, [first, second])
    order: list[int] = []
    made.run([x], lambda number, _: order.append(number))
    assert order == [tape.number(second), tape.number(first)]


def test_a_result_that_changes_through_a_view_is_handed_over_afterwards() -> None:
    tape = Tape([x := drawn(3, 4)])
    with tape:
        result = x * 2
        row = result[0]
        for _ in range(2):
            row.add_(1)
        torch.neg(x)
    found: list[Tensor] = []
    program(tape, [result]).run([x], lambda _, value: found.append(value.clone()))
    assert len(found) == 1
    assert torch.equal(found[0], result)


def test_what_nothing_needs_any_more_is_freed_on_the_way() -> None:
    made, _ = taped(lambda x: ((x + 1) * 2).exp().sum(), drawn(4))
    alive: list[int] = []
    seen: list[weakref.ref[Tensor]] = []

    def watched(step: Step) -> Step:
        def run(*args: Any, **kwargs: Any) -> Tensor:
            found: Tensor = step.func(*args, **kwargs)
            del args
            alive.append(sum(ref() is not None for ref in seen))
            seen.append(weakref.ref(found))
            return found

        return replace(step, func=run)

    replace(made, steps=tuple(map(watched, made.steps))).run([drawn(4)], lambda *_: None)
    assert alive == [0, 1, 1, 1]  # the operand alone


def reads_a_number(x: Tensor) -> Tensor:
    return x * float(x.sum())


def branches(x: Tensor) -> Tensor:
    return x * 2 if (x > 0).any() else x


_BEFORE = torch.zeros(4, dtype=torch.float64)


def changes_a_tensor_from_before(x: Tensor) -> Tensor:
    return _BEFORE.add_(x) * 2


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (reads_a_number, "reads a number"),
        (branches, "reads a number"),
        (changes_a_tensor_from_before, "from before"),
    ],
)
def test_what_cannot_run_again_is_refused(function: Callable[[Tensor], Tensor], why: str) -> None:
    with pytest.raises(Refused, match=why):
        taped(function, drawn(4))


def test_results_that_were_not_computed_are_refused() -> None:
    tape = Tape([x := drawn(4)])
    before = x * 3
    with tape:
        x * 2
    with pytest.raises(Refused, match="not seen"):
        program(tape, [before])


def test_numbers_that_do_not_depend_on_the_sources_may_be_read() -> None:
    made, _ = taped(lambda x: x * float(torch.ones(3).sum()), drawn(4))
    assert torch.equal(rerun(made, torch.ones(4)), torch.full((4,), 3.0))


def test_what_happens_in_a_pause_is_not_noted() -> None:
    tape = Tape([x := drawn(4)])
    with tape:
        with tape.paused():
            assert float(x.amax()) == float(x.max())
        result = x + 1
    assert [step.func for step in program(tape, [result]).steps] == [aten.add.Tensor]


@pytest.mark.parametrize(
    ("size", "window"),
    [
        (4, {}),
        (3, {"padding": 1}),
        (6, {"stride": 2, "padding": 1}),
        (3, {"padding": 2, "dilation": 2}),
        (5, {"stride": (1, 2)}),
    ],
    ids=str,
)
def test_an_unfolded_convolution_is_a_convolution(size: int, window: dict[str, Any]) -> None:
    image, weight = drawn(1, 3, size, size), drawn(5, 3, 3, 2, seed=1)
    tape = Tape([image, weight])
    with tape:
        inputs = [value.detach().requires_grad_() for value in (image, weight)]
        grads = torch.autograd.grad(F.conv2d(*inputs, **window).pow(2).sum(), inputs)
    plain = program(tape, grads)
    made = unfolded(plain, tape.values)
    assert sum(before.func is not after.func for before, after in zip(plain.steps, made.steps, strict=True)) == 2
    for seed in (2, 3):
        given = [drawn(*image.shape, seed=seed), drawn(*weight.shape, seed=seed + 5)]
        expected: dict[int, Tensor] = {}
        plain.run(given, expected.__setitem__)
        for _ in range(2):  # memory is used again
            found: dict[int, Tensor] = {}
            made.run(given, lambda number, value, found=found: found.update({number: value.clone()}))
            assert found.keys() == expected.keys()
            for number, value in expected.items():
                torch.testing.assert_close(found[number], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "options"),
    [((2, 4, 5, 5), {}), ((1, 4, 7, 7), {}), ((1, 4, 5, 5), {"groups": 2}), ((1, 4, 5, 5), {"bias": 1})],
    ids=["two images", "many pixels", "groups", "bias"],
)
def test_other_convolutions_stay_as_they_are(shape: tuple[int, ...], options: dict[str, int]) -> None:
    groups = options.get("groups", 1)
    bias = drawn(4) if "bias" in options else None
    tape = Tape([image := drawn(*shape), weight := drawn(4, 4 // groups, 3, 3)])
    with tape:
        result = F.conv2d(image, weight, bias, groups=groups)
    plain = program(tape, [result])
    assert unfolded(plain, tape.values).steps == plain.steps
