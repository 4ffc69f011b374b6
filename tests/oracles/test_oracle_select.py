"""`keep_top` against sorting, layer densities against a bisection."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foreprune.core import threshold
from foreprune.core.density import apportion, erdos_renyi, erdos_renyi_kernel
from foreprune.core.masks import Masks
from foreprune.core.select import NoSignal, keep_top, keep_top_per_layer, ties_of

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
TINY = 1e-45  # denormal in float32, zero in half precision
MANY = {"a": (64, 3, 3, 3), "b": (400, 700), "c": (10,), "d": (300, 101)}
VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 2.0, TINY, -TINY, 1e-40, 3e38, -3e38, 1e-8, 0.1, 0.3]) | st.floats(
    -1e30, 1e30, allow_nan=False
)


@st.composite
def problems(draw: st.DrawFn) -> tuple[dict[str, torch.Tensor], Masks | None, int]:
    dtype = draw(st.sampled_from(DTYPES))
    scores = {}
    for index in range(draw(st.integers(1, 4))):
        values = draw(st.lists(VALUES, min_size=1, max_size=12))
        scores[f"layer{index}"] = (
            torch.tensor(values, dtype=torch.float64).to(dtype).nan_to_num(posinf=1.0, neginf=-1.0)
        )
    alive = None
    if draw(st.booleans()):
        kept = {
            name: torch.tensor(draw(st.lists(st.booleans(), min_size=len(score), max_size=len(score))))
            for name, score in scores.items()
        }
        alive = Masks(kept)
    living = alive.kept if alive is not None else sum(score.numel() for score in scores.values())
    return scores, alive, draw(st.integers(1, max(living, 1)))


def living_scores(scores: dict[str, torch.Tensor], alive: Masks | None) -> list[float]:
    return [
        float(value)
        for name, score in scores.items()
        for value, lives in zip(score, alive[name] if alive is not None else torch.ones(len(score)), strict=True)
        if lives
    ]


def lottery(values: list[float], keep: int) -> tuple[int, int]:
    """How many of the kept were drawn, and of how many equal values; none where all equal ones are kept."""
    if not keep:
        return 0, 0
    threshold = sorted(values, reverse=True)[keep - 1]
    drawn, tied = keep - sum(value > threshold for value in values), values.count(threshold)
    return (drawn, tied) if drawn < tied else (0, 0)


@pytest.fixture(params=["whole", "bracketed", "bracketed in parts"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Scores few enough for one partition; then the same few looked at as if they were many."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "whole":
            for name, value in {"FEW": 1, "SAMPLE": 8, "MARGIN": 1.0, "CHUNK": 5}.items():
                patch.setattr(threshold, name, value)
        if request.param == "bracketed in parts":
            patch.setattr(threshold, "JOINED", 0)
        yield request.param


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problems(), st.integers(0, 3))
def test_keep_top_keeps_the_largest_exactly(way: str, problem: Any, seed: int) -> None:
    scores, alive, keep = problem
    values = living_scores(scores, alive)
    if not values:
        with pytest.raises(ValueError, match="cannot keep"):
            keep_top(scores, keep, generator=torch.Generator(), among=alive)
        return
    if all(value == 0 for value in values):
        with pytest.raises(NoSignal):
            keep_top(scores, keep, generator=torch.Generator(), among=alive)
        return
    masks = keep_top(scores, keep, generator=torch.Generator().manual_seed(seed), among=alive)
    assert masks.kept == keep
    if alive is not None:
        assert masks & alive == masks
    kept = [float(value) for name, score in scores.items() for value in score[masks[name]]]
    assert sorted(kept, reverse=True) == sorted(values, reverse=True)[:keep]
    assert ties_of(masks)[:2] == lottery(values, keep)


@given(problems(), st.data())
def test_keep_top_per_layer_keeps_the_largest_of_each(problem: Any, data: st.DataObject) -> None:
    scores, alive, _ = problem
    rooms = {name: len(score) if alive is None else int(alive[name].sum()) for name, score in scores.items()}
    counts = {name: data.draw(st.integers(0, room)) for name, room in rooms.items()}
    if all(value == 0 for value in living_scores(scores, alive)):
        with pytest.raises(NoSignal):
            keep_top_per_layer(scores, counts, generator=torch.Generator(), among=alive)
        return
    masks = keep_top_per_layer(scores, counts, generator=torch.Generator(), among=alive)
    expected = (0, 0)
    for name, score in scores.items():
        only = {name: score}
        values = living_scores(only, None if alive is None else Masks({name: alive[name]}))
        assert sorted(map(float, score[masks[name]]), reverse=True) == sorted(values, reverse=True)[: counts[name]]
        drawn, tied = lottery(values, counts[name])
        expected = (expected[0] + drawn, expected[1] + tied)
    assert ties_of(masks)[:2] == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_threshold_is_the_kth_value(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    score = torch.randn(5000, generator=generator, dtype=torch.float64).to(dtype)
    for keep in (1, 2, 2500, 4999, 5000):
        masks = keep_top({"a": score}, keep, generator=generator)
        threshold = torch.kthvalue(score.double(), 5001 - keep).values
        kept = score.double()[masks["a"]]
        assert kept.min() == threshold
        assert masks["a"][score.double() > threshold].all()


def test_a_sample_brackets_the_threshold_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise selection is right but slow: everything is partitioned."""
    looked_up: list[int] = []
    largest = threshold.largest

    def counting(flat: Any, keep: int, generator: torch.Generator) -> Any:
        looked_up.append(flat.size)
        return largest(flat, keep, generator)

    monkeypatch.setattr(threshold, "largest", counting)
    size = 600_000
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        keep = int(torch.randint(1, size, (), generator=generator))
        scores = {"a": torch.randn(size, generator=generator).exp()}
        assert keep_top(scores, keep, generator=generator).kept == keep
    assert len(looked_up) == 20
    assert max(looked_up) < 0.02 * size


@pytest.mark.parametrize("kind", ["distinct", "few values", "mostly zero", "all equal", "signed"])
@pytest.mark.parametrize("living", [None, 0.1, 0.6])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.97, 1.0])
def test_many_scores_are_kept_as_by_one_partition(kind: str, living: float | None, share: float) -> None:
    """The same masks, and the same use of the generator, whichever way the threshold is found."""
    generator = torch.Generator().manual_seed(0)
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in MANY.items()}
    made: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "distinct": lambda score: score.abs() ** 8,
        "few values": lambda score: (4 * score).round(),
        "mostly zero": lambda score: (score - 1).clamp(min=0),
        "all equal": torch.ones_like,
        "signed": lambda score: score,
    }
    scores = {name: made[kind](score) for name, score in drawn.items()}
    among = None
    if living is not None:
        among = Masks({name: torch.rand(shape, generator=generator) < living for name, shape in MANY.items()})
    keep = max(1, round(share * (sum(map(math.prod, MANY.values())) if among is None else among.kept)))
    found = []
    for few in (1, 2**40):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threshold, "FEW", few)
            patch.setattr(threshold, "JOINED", 0)
            draw = torch.Generator().manual_seed(5)
            found.append((keep_top(scores, keep, generator=draw, among=among), draw.get_state()))
    (one, after_one), (other, after_other) = found
    assert one == other
    assert one.layer_counts() == other.layer_counts()
    assert one.kept == keep
    assert torch.equal(after_one, after_other)


def test_a_sample_that_misleads_costs_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every seventh score is huge, and the sample sees just those."""
    monkeypatch.setattr(threshold, "FEW", 1)
    monkeypatch.setattr(threshold, "SAMPLE", 1000)
    score = torch.arange(7000.0)
    score[::7] += 1e6
    masks = keep_top({"a": score}, 1500, generator=torch.Generator())
    assert masks["a"].tolist() == (score >= score.sort(descending=True).values[1499]).tolist()
    assert masks.kept == 1500


def test_what_is_not_finite_is_refused_among_many_scores() -> None:
    score = torch.rand(300_000)
    score[299_999] = math.inf
    with pytest.raises(ValueError, match="the scores of 'a' are infinite"):
        keep_top({"a": score}, 1000, generator=torch.Generator())
    with pytest.raises(NoSignal):
        keep_top({"a": torch.zeros(300_000)}, 1000, generator=torch.Generator())


def test_masks_of_many_scores_have_memory_of_their_own() -> None:
    """A view of one large buffer would be stored whole with each of them."""
    scores = {name: torch.rand(shape) for name, shape in MANY.items()}
    for factor in (1, 8):  # joined in one piece, and not
        large = {f"{name}{i}": score for name, score in scores.items() for i in range(factor)}
        masks = keep_top(large, 1000, generator=torch.Generator())
        assert all(mask.untyped_storage().nbytes() == mask.numel() for mask in masks._tensors.values())


def test_ties_are_drawn_evenly_and_by_the_generator() -> None:
    scores = {"a": torch.ones(4), "b": torch.ones(2, 3)}
    counts = torch.zeros(10)
    for seed in range(2000):
        masks = keep_top(scores, 3, generator=torch.Generator().manual_seed(seed))
        again = keep_top(scores, 3, generator=torch.Generator().manual_seed(seed))
        assert masks == again
        counts += torch.cat([mask.flatten() for mask in masks.values()])
    assert counts.min() > 500  # 600 expected, standard deviation 20
    assert counts.max() < 700


def test_signs_of_zero_and_denormals_order_as_numbers() -> None:
    scores = {"a": torch.tensor([-0.0, 0.0, 1e-44, -1e-44])}
    assert keep_top(scores, 1, generator=torch.Generator())["a"].tolist() == [False, False, True, False]
    kept = [keep_top(scores, 2, generator=torch.Generator().manual_seed(seed))["a"].tolist() for seed in range(20)]
    assert all(mask[2] and not mask[3] and mask[0] != mask[1] for mask in kept)
    assert len({tuple(mask) for mask in kept}) == 2  # 0.0 and -0.0 tie


def test_negative_scores_are_a_signal() -> None:
    masks = keep_top({"a": torch.tensor([-3.0, -1.0, -2.0])}, 1, generator=torch.Generator())
    assert masks["a"].tolist() == [False, True, False]


def test_scores_are_not_changed() -> None:
    scores = {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0], dtype=torch.float64, requires_grad=True)}
    before = {name: score.detach().clone() for name, score in scores.items()}
    keep_top(scores, 2, generator=torch.Generator(), among=Masks({name: score > 1 for name, score in before.items()}))
    assert all(torch.equal(scores[name], before[name]) for name in scores)
    alive = Masks({"a": torch.tensor([False, True])})
    keep_top({"a": scores["a"]}, 1, generator=torch.Generator(), among=alive)
    keep_top_per_layer({"a": scores["a"]}, {"a": 1}, generator=torch.Generator(), among=alive)
    assert torch.equal(scores["a"], before["a"])


def by_bisection(
    shapes: dict[str, tuple[int, ...]], density: float, raw: Callable[[tuple[int, ...]], float]
) -> dict[str, float]:
    """eps such that sum_l min(1, eps raw_l) N_l = d N."""
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    low, high = 0.0, 1e9

    def densities(eps: float) -> dict[str, float]:
        return {name: min(1.0, eps * raw(shape)) for name, shape in shapes.items()}

    for _ in range(200):
        middle = (low + high) / 2
        kept = sum(share * sizes[name] for name, share in densities(middle).items())
        low, high = (middle, high) if kept < density * sum(sizes.values()) else (low, middle)
    return densities(high)


SHAPES = st.dictionaries(
    st.sampled_from("abcdef"),
    st.one_of(
        st.tuples(st.integers(1, 60), st.integers(1, 60)),
        st.tuples(st.integers(1, 60), st.integers(1, 60), st.integers(1, 5), st.integers(1, 5)),
    ),
    min_size=1,
)


@given(SHAPES, st.floats(0.001, 1.0))
def test_erdos_renyi_densities_solve_their_equation(shapes: dict[str, tuple[int, ...]], density: float) -> None:
    total = sum(math.prod(shape) for shape in shapes.values())
    for densities, raw in (
        (erdos_renyi, lambda shape: (shape[0] + shape[1]) / (shape[0] * shape[1])),
        (erdos_renyi_kernel, lambda shape: sum(shape) / math.prod(shape)),
    ):
        found = densities(shapes, density)
        wanted = by_bisection(shapes, density, raw)
        assert found == pytest.approx(wanted, rel=1e-6)
        assert all(0 <= share <= 1 for share in found.values())
        kept = sum(share * math.prod(shapes[name]) for name, share in found.items())
        assert kept == pytest.approx(density * total, rel=1e-9)


@given(st.lists(st.tuples(st.integers(0, 40), st.floats(0, 1.3)), min_size=1, max_size=6), st.floats(0, 1))
def test_apportion_adds_up_within_the_rooms(layers: list[tuple[int, float]], share: float) -> None:
    room = {str(index): size for index, (size, _) in enumerate(layers)}
    ideal = {str(index): size * factor for index, (size, factor) in enumerate(layers)}
    keep = round(share * sum(room.values()))
    counts = apportion(ideal, room, keep)
    assert sum(counts.values()) == keep
    assert all(0 <= counts[name] <= room[name] for name in room)


def test_apportion_gives_to_the_largest_remainders() -> None:
    room = dict.fromkeys("abc", 10)
    assert apportion({"a": 2.5, "b": 3.4, "c": 1.1}, room, 7) == {"a": 3, "b": 3, "c": 1}
    with pytest.raises(ValueError, match=r"cannot keep 31 of 30 weights; ask for a number from 0 to 30"):
        apportion(dict.fromkeys("abc", 1.0), room, 31)
