"""Trace against convergence: fits against SciPy and against lines that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from report_records import record, study

from foreprune.records import Epoch, Record
from foreprune.report.panels.convergence import convergence, straight_line, trace
from foreprune.report.sections import Section, sections


def only(records: list) -> Section:
    (section,) = sections(records)
    return section


def run(method: str, seed: int, *, log10_trace: float | None, weights: float | None, **settings: object) -> Record:
    analysis = {"log10_path_kernel_trace": log10_trace, "weight_distance": weights, "output_distance": 1.0 + seed}
    return record(method, **({"density": 0.1, "seed": seed} | settings)).model_copy(update={"analysis": analysis})


def test_a_line_is_found_again() -> None:
    found = straight_line([(x, 2.0 - 0.5 * x) for x in (0.0, 1.0, 4.0, 9.0)])
    assert found is not None
    assert found.coefficients == pytest.approx((-0.5, 2.0), abs=1e-12)
    assert (found.r2, found.n) == (pytest.approx(1.0), 4)


def test_there_is_no_line_through_two_points_or_a_column_or_a_row() -> None:
    assert straight_line([(0, 1), (1, 2)]) is None
    assert straight_line([(1, 1), (1, 2), (1, 3)]) is None
    assert straight_line([(1, 2), (2, 2), (3, 2)]) is None


def test_the_trace_is_its_natural_logarithm_even_beyond_floats() -> None:
    assert trace(run("snip", 0, log10_trace=2.0, weights=1.0)) == pytest.approx(math.log(100), rel=1e-15)
    assert trace(run("snip", 0, log10_trace=1000.0, weights=1.0)) == pytest.approx(1000 * math.log(10))
    assert trace(run("snip", 0, log10_trace=None, weights=1.0)) is None


def test_points_and_fits_by_hand() -> None:
    # weight distance = 3 + 2 ln trace for snip, 5 - ln trace for grasp
    snip = [run("snip", at, log10_trace=at / math.log(10), weights=3.0 + 2 * at) for at in range(4)]
    grasp = [run("grasp", at, log10_trace=at / math.log(10), weights=5.0 - at) for at in range(4)]
    found = convergence(only([*snip, *grasp]))
    assert found is not None
    weights, outputs = found.views[0].charts
    assert (weights.x.label, weights.y.label) == ("ln trace of the path kernel", "distance of the weights")
    assert outputs.y.label == "distance of the outputs"
    points = {line.label: line for line in weights.series if not line.joined}
    assert list(points) == ["snip", "grasp"]
    assert points["snip"].x == pytest.approx((0, 1, 2, 3))
    assert points["snip"].y == pytest.approx((3, 5, 7, 9))
    assert points["snip"].notes[1] == "snip, density 0.1, seed 1: ln trace 1, distance of the weights 5"
    fits = {line.label: line for line in weights.series if line.joined}
    assert list(fits) == ["snip", "grasp", "all methods", "exponential, rate fitted", "exponential, η = 0.001"]
    assert fits["snip"].y == pytest.approx((3, 9))
    assert fits["grasp"].y == pytest.approx((5, 2))
    x = [0, 1, 2, 3] * 2
    y = [3, 5, 7, 9, 5, 4, 3, 2]
    r2 = np.corrcoef(x, y)[0, 1] ** 2
    assert found.notes[0].startswith(
        "Distance of the weights: snip R² = 1.000 (slope 2, n = 4); grasp R² = 1.000 (slope -1, n = 4); "
        f"all methods R² = {r2:.3f} (slope 0.5, n = 8); exponential, rate fitted R² = "
    )
    assert fits["all methods"].notes[0] == f"all methods R² = {r2:.3f} (slope 0.5, n = 8), least squares"


def sized(method: str, density: float, seed: int, *, ln_trace: float, weights: float) -> Record:
    made = run(method, seed, log10_trace=ln_trace / math.log(10), weights=weights, density=density)
    return made.model_copy(update={"kept": round(density * 10_000), "total": 10_000})


def test_a_trace_that_only_follows_the_size_adds_nothing() -> None:
    """The distance is √kept and the trace grows with it, with noise of its own."""
    records = []
    for at, density in enumerate((0.64, 0.16, 0.04, 0.01)):
        for seed in range(3):
            for number, method in enumerate(("snip", "grasp", "synflow", "random")):
                noise = 0.3 * math.sin(7 * at + 3 * seed + 11 * number)
                distance = 100 * math.sqrt(density) + 1e-6 * math.cos(at + 5 * seed + 2 * number)
                records.append(sized(method, density, seed, ln_trace=math.log(density) + noise, weights=distance))
    found = convergence(only(records))
    assert found is not None
    overall, at_density = found.notes[1:3]
    assert overall.startswith("Distance of the weights, all methods: R² = 1.000 on √kept alone, 0.9")
    assert " on ln trace alone, 1.000 on both. Given √kept, ln trace explains" in overall
    assert "(one fit per seed, n = 3)." in overall
    assert at_density.startswith("Distance of the weights, given the density (a level for each): ln trace explains ")


def test_what_the_trace_adds_by_hand() -> None:
    """At each density distances are its level minus twice the deviation of ln trace from 1, 2, 3: slope -2."""
    level = {0.64: 30.0, 0.16: 20.0, 0.04: 10.0}
    records = [
        sized(method, density, seed, ln_trace=base + 5 * at, weights=level[density] - (2 + 0.1 * seed) * base)
        for at, density in enumerate(sorted(level))
        for seed in (0, 1, 2)
        for method, base in (("snip", 1.0), ("grasp", 2.0), ("synflow", 3.0))
    ]
    found = convergence(only(records))
    assert found is not None
    note = found.notes[2]
    # slopes -2, -2.1, -2.2: deviation 0.1, half width 4.3027 * 0.1 / sqrt(3) = 0.248
    assert "slope -2.1 [-2.35, -1.85] (one fit per seed, n = 3)" in note
    assert "at one density: 0.64: -1.00 [-1.00, -1.00] (n = 3); 0.16: -1.00" in note


def test_one_seed_has_no_interval() -> None:
    records = [
        sized(method, density, 0, ln_trace=base + 9 * density, weights=base * base + 50 * density)
        for density in (0.64, 0.16)
        for method, base in (("snip", 1.0), ("grasp", 2.0), ("synflow", 3.5))
    ]
    found = convergence(only(records))
    assert found is not None
    assert "(one seed)" in found.notes[2]


def test_the_curves_of_figure_1_are_found_again() -> None:
    """y = 40 (1 - exp(-0.001 T t)) for weights, t = 20 epochs by default."""
    records = [
        run(
            "snip",
            seed,
            log10_trace=at / 2,
            weights=40 * (1 - math.exp(-0.02 * 10 ** (at / 2))),
            density=0.1 / (at + 1),
        )
        for at in range(8)
        for seed in (0, 1)
    ]
    found = convergence(only(records))
    assert found is not None
    lines = {line.label: line for line in found.views[0].charts[0].series}
    for label in ("exponential, rate fitted", "exponential, η = 0.001"):
        assert "R² = 1.000 (a = 40" in lines[label].notes[0]
        assert ", t = 20, n = 16)" in lines[label].notes[0]
        expected = [40 * (1 - math.exp(-0.02 * math.exp(x))) for x in lines[label].x]
        assert lines[label].y == pytest.approx(expected, rel=1e-4)
    assert "η = 0.001, t" in lines["exponential, rate fitted"].notes[0]


def test_only_original_runs_pruned_before_training_are_points() -> None:
    records = study(epochs=2)
    section = only(records)
    found = convergence(section)
    assert found is not None
    assert [chart.y.label for chart in found.views[0].charts] == [
        "distance of the weights",
        "distance of the outputs",
        "final training loss",
    ]
    for chart in found.views[0].charts:
        points = {line.label: len(line.x) for line in chart.series if not line.joined}
        assert points == dict.fromkeys(("random", "magnitude", "snip", "synflow"), 2 * 3)
    losses = [line for line in found.views[0].charts[2].series if line.label == "snip" and not line.joined]
    assert losses[0].y == tuple(r.curve[-1].train_loss for r in section.finished(label="snip"))


def test_a_run_pruned_after_some_steps_is_no_point_even_where_its_method_has_no_other() -> None:
    early = [run("snip", seed, log10_trace=1.0 + seed, weights=1.0) for seed in range(2)]
    late = [run("grasp", seed, log10_trace=1.0 + seed, weights=1.0, prune_at=50) for seed in range(2)]
    found = convergence(only([*early, *late]))
    assert found is not None
    assert [label for label, _ in found.labels()] == ["snip"]


def test_records_without_distances_have_no_panel() -> None:
    curve = (Epoch(epoch=1, lr=0.1, train_loss=1.0, train_top1=None, seconds=1.0),)
    bare = run("snip", 0, log10_trace=1.0, weights=None).model_copy(
        update={"analysis": {"log10_path_kernel_trace": 1.0}, "curve": curve}
    )
    assert convergence(only([bare])) is None
    assert convergence(only([record("snip", density=0.1)])) is None
