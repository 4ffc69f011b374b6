"""The panels of ablations and of pruning later, by hand."""

from __future__ import annotations

import pytest
from report_records import failed, record, regression, study

from foreprune.report.charts import Chart
from foreprune.report.colors import ablation_styles
from foreprune.report.panels import build_panels
from foreprune.report.panels.ablated import ablations
from foreprune.report.panels.accuracy import accuracy
from foreprune.report.panels.pruned_later import pruned_later
from foreprune.report.sections import Section, sections
from foreprune.report.tables import console_table, grids


def only(records: list) -> Section:
    (section,) = sections(records)
    return section


def runs(values: dict[str, tuple[float, ...]], *, method: str = "snip", density: float = 0.1) -> list:
    return [
        record(method, density=density, seed=seed, top1=top1, ablation=ablation)
        for ablation, results in values.items()
        for seed, top1 in enumerate(results)
    ]


BY_HAND = {"none": (0.90, 0.92, 0.97), "shuffle": (0.91, 0.95), "invert": (0.5,)}


def test_ablations_by_hand() -> None:
    section = only([*runs(BY_HAND), *runs({"none": (0.8,)}, method="random"), record("dense", top1=0.98)])
    found = ablations(section)
    assert found is not None
    assert [view.label for view in found.views] == ["top-1 test accuracy", "difference to the original"]
    assert found.chosen == 0
    (chart,), (change,) = (view.charts for view in found.views)
    assert isinstance(chart, Chart)
    assert isinstance(change, Chart)
    assert (chart.title, change.title) == ("snip", "snip")
    lines = {line.label: line for line in chart.series}
    assert list(lines) == ["dense", "original", "shuffled", "inverted"]
    assert lines["original"].y == pytest.approx((93.0,))
    assert lines["shuffled"].y == pytest.approx((93.0,))
    assert lines["shuffled"].notes == ("snip, shuffled, density 0.1 (90 % removed): 93.00 ± 2.83 %, n = 2, seeds 0, 1",)
    changes = {line.label: line for line in change.series}
    assert list(changes) == ["shuffled", "inverted"]
    # seeds 0 and 1: 0.91 - 0.90 and 0.95 - 0.92, not the difference of the means 0.93 - 0.93
    assert changes["shuffled"].y == pytest.approx((2.0,))
    std = 2**0.5
    assert changes["shuffled"].band[0] == pytest.approx((2 - std, 2 + std))
    assert changes["shuffled"].notes == (
        "snip, shuffled, density 0.1 (90 % removed): +2.00 ± 1.4 points against the original, n = 2, seeds 0, 1",
    )
    assert changes["inverted"].y == pytest.approx((-40.0,))
    assert changes["inverted"].band == (None,)


def test_differences_of_inversion_alone_have_an_axis_too() -> None:
    found = ablations(only(runs({"none": (0.9, 0.9), "invert": (0.5, 0.4)})))
    assert found is not None
    (change,) = found.views[1].charts
    assert isinstance(change, Chart)
    assert change.y.limits is not None
    assert change.y.limits[0] < -45 - 100 * 0.05 * 2**0.5


def test_pairs_are_of_one_seed_and_density() -> None:
    section = only([*runs(BY_HAND), *runs({"shuffle": (0.1,)}, density=0.01), failed("snip", density=0.1, seed=7)])
    assert section.pairs("snip, shuffled", "snip", 0.1) == {0: (0.91, 0.90), 1: (0.95, 0.92)}
    assert section.pairs("snip, shuffled", "snip", 0.01) == {}


def test_every_method_has_its_chart_on_a_common_scale() -> None:
    section = only(study(epochs=2))
    found = ablations(section)
    assert found is not None
    for view in found.views:
        assert [chart.title for chart in view.charts] == ["magnitude", "snip", "synflow"]
        limits = {chart.y.limits for chart in view.charts if isinstance(chart, Chart)}
        assert len(limits) == 1
        (low, high) = next(iter(limits))
        lines = [line for chart in view.charts if isinstance(chart, Chart) for line in chart.series]
        if view.label.startswith("difference"):  # where what inversion costs would hide the others
            assert max(abs(y) for line in lines if line.label == "inverted" for y in line.y) > 10 * high
            lines = [line for line in lines if line.label != "inverted"]
        values = [y for line in lines for y in line.y]
        assert low < min(values) <= max(values) < high
    words = ["original", "shuffled", "reinitialized", "reinitialized per layer", "inverted", "widened 0.5"]
    assert [line.label for line in found.views[0].charts[0].series] == ["dense", *words]
    assert len(set(ablation_styles(words).values())) == 6


def test_a_section_without_ablations_has_no_panel() -> None:
    assert ablations(only(runs({"none": (0.9,)}))) is None
    failure = record("snip", density=0.1, ablation="shuffle").model_copy(update={"status": "failed", "error": "x"})
    assert ablations(only([*runs({"none": (0.9,)}), failure])) is None


def test_the_main_panel_and_table_hold_the_original_runs_only() -> None:
    records = study(epochs=2, seeds=(0,))
    section = only(records)
    found = accuracy(section)
    assert found is not None
    labels = ["dense", "random", "magnitude", "snip", "synflow", "magnitude-after", "ltr"]
    assert [line.label for line in found.views[0].charts[0].series] == labels
    assert not any("," in row.label for row in section.rows())
    assert {row.label for row in section.rows()} >= {"snip at step 100", "snip at step 1000"}
    assert all("," in row.label for row in section.rows(ablated=True))
    first, second = grids(section)
    assert second.title == "digits · resnet20: ablations"
    assert [name for name, _ in second.rows][:2] == ["magnitude, shuffled", "magnitude, reinitialized"]
    assert len(first.rows) + len(second.rows) == len(section.variants)
    assert len(console_table(records)) == 2


def test_ablations_alone_still_make_a_report() -> None:
    section = only(runs({"shuffle": (0.9, 0.8)}))
    names = [panel.name for panel in build_panels(section)]
    assert names == ["ablations"]
    assert [grid.title for grid in grids(section)] == ["digits · mlp: ablations"]


def test_secondary_views_of_ablations_carry_the_methods_names() -> None:
    section = only(study(epochs=2, seeds=(0,)))
    found = {panel.name: panel for panel in build_panels(section)}
    curves = found["curves"]
    shuffled = [view for view in curves.views if view.label == "density 0.1 (90 % removed), shuffled"]
    assert [line.label for line in shuffled[0].charts[0].series] == ["dense", "magnitude", "snip", "synflow"]
    assert shuffled[0].secondary
    assert curves.views[curves.chosen].label == "density 0.01 (99 % removed)"
    assert not curves.shown
    assert not any("shuffled" in view.label for view in found["layer-density"].views), "it has the same densities"
    assert any("shuffled" in view.label for view in found["layer-width"].views)


def later(step: int, top1: float, *, method: str = "snip", seed: int = 0, **more: object) -> object:
    return record(method, density=0.1, seed=seed, top1=top1, prune_at=step, **more)


def test_pruning_later_by_hand() -> None:
    section = only(
        [
            *(later(0, top1, seed=seed) for seed, top1 in enumerate((0.90, 0.92))),
            later(100, 0.94),
            later(1000, 0.96),
            later(0, 0.5, method="random"),
            record("magnitude-after", density=0.1, top1=0.97),
            record("dense", top1=0.99),
            later(0, 0.1, ablation="shuffle"),
            later(100, 0.2, ablation="shuffle"),
        ]
    )
    found = pruned_later(section)
    assert found is not None
    assert [(view.label, view.secondary) for view in found.views] == [
        ("density 0.1 (90 % removed)", False),
        ("density 0.1 (90 % removed), shuffled", True),
    ]
    (chart,) = found.views[0].charts
    assert isinstance(chart, Chart)
    assert chart.x.scale == "log"
    assert chart.x.ticks == ((100 / 3, "init"), (100.0, "100"), (1000.0, "1,000"))
    lines = {line.label: line for line in chart.series}
    assert list(lines) == ["dense", "magnitude-after", "random", "snip"]
    assert lines["snip"].x == (100 / 3, 100.0, 1000.0)
    assert lines["snip"].y == pytest.approx((91.0, 94.0, 96.0))
    assert lines["snip"].notes[0].startswith("snip, density 0.1 (90 % removed), at init: 91.00 ± 1.41 %")
    assert lines["snip"].notes[2].startswith("snip, density 0.1 (90 % removed), step 1,000: 96.00 %")
    assert lines["random"].x == (100 / 3,)
    assert lines["magnitude-after"].reference
    assert set(lines["magnitude-after"].y) == {97.0}
    assert (lines["magnitude-after"].x[0], lines["magnitude-after"].x[-1]) == chart.x.limits
    assert "dashed line" in found.description
    assert "Long dashes" in found.description


def test_one_step_makes_no_panel() -> None:
    assert pruned_later(only([later(0, 0.9), record("ltr", density=0.1), later(100, 0.9, method="grasp")])) is None


def test_a_rewound_ticket_at_several_steps_is_a_line() -> None:
    section = only([later(step, 0.9, method="ltr") for step in (100, 500)])
    found = pruned_later(section)
    assert found is not None
    (line,) = found.views[0].charts[0].series
    assert (line.label, line.x, line.reference) == ("ltr", (100.0, 500.0), False)


def test_regression_is_judged_by_test_loss() -> None:
    records = [regression(m, 0.1, seed, epochs=3) for m in ("random", "synflow") for seed in (0, 1)]
    section = only(records)
    assert section.measure.key == "test_loss"
    found = accuracy(section)
    assert found is not None
    assert (found.name, found.title) == ("test-loss", "Test loss against density")
    assert "lower is better" in found.description
    losses = [run.curve[-1].test_loss for run in section.finished(label="synflow")]
    line = found.views[0].charts[0].series[-1]
    assert line.y == pytest.approx((sum(losses) / 2,))
    assert line.notes[0].startswith(f"synflow, density 0.1 (90 % removed): {sum(losses) / 2:.4g} ± ")
    (grid,) = grids(section)
    assert grid.caption.startswith("test loss after the last epoch (lower is better): mean ± ")
    assert grid.rows[1][1][0].startswith(f"{sum(losses) / 2:.4g} ± ")
    curves = {panel.name: panel for panel in build_panels(section)}["curves"]
    assert [chart.y.label for chart in curves.views[0].charts] == ["test loss", "training loss"]
    mixed = only([*records, regression("snip", 0.1, 0, epochs=3).model_copy(update={"top1": 0.5})])
    assert mixed.measure.key == "top1"
