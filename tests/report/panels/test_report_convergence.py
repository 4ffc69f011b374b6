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
    assert list(fits) == ["snip", "grasp", "all methods"]
    assert fits["snip"].y == pytest.approx((3, 9))
    assert fits["grasp"].y == pytest.approx((5, 2))
    x = [0, 1, 2, 3] * 2
    y = [3, 5, 7, 9, 5, 4, 3, 2]
    r2 = np.corrcoef(x, y)[0, 1] ** 2
    assert found.notes[0] == (
        "Distance of the weights: snip R² = 1.000 (slope 2, n = 4); grasp R² = 1.000 (slope -1, n = 4); "
        f"all methods R² = {r2:.3f} (slope 0.5, n = 8)."
    )
    assert fits["all methods"].notes[0] == f"all methods R² = {r2:.3f} (slope 0.5, n = 8), least squares"


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
