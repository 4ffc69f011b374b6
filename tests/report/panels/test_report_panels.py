"""What the panels draw: the right numbers on the right axes, one style per method everywhere."""

from __future__ import annotations

import pytest
from report_records import METHODS, comparison, failed, full, record

from foreprune.records import Epoch, LayerRecord
from foreprune.report import panels
from foreprune.report.charts import Panel, Series
from foreprune.report.colors import style_of
from foreprune.report.panels import build_panels, panel
from foreprune.report.panels.accuracy import accuracy
from foreprune.report.panels.curves import curves
from foreprune.report.panels.layers import layer_density, layer_width, short_name
from foreprune.report.sections import Section, sections


def only(records: list) -> Section:
    (section,) = sections(records)
    return section


def line(found: Panel | None, label: str, *, view: int = 0, chart: int = 0) -> Series:
    assert found is not None
    (series,) = (series for series in found.views[view].charts[chart].series if series.label == label)
    return series


def test_every_panel_appears_in_order_with_alternative_text() -> None:
    found = build_panels(only(comparison()))
    assert [panel.name for panel in found] == ["accuracy", "layer-density", "layer-width", "curves"]
    for panel_ in found:
        assert len(panel_.description) > 40
        assert panel_.title
    views = [view.label for view in found[1].views]
    assert views == [
        "density 0.2 (80 % removed)",
        "density 0.1 (90 % removed)",
        "density 0.05 (95 % removed)",
        "density 0.01 (99 % removed)",
    ]


def test_a_method_looks_the_same_in_every_panel() -> None:
    seen: dict[str, set] = {}
    for panel_ in build_panels(only(comparison())):
        for view in panel_.views:
            for chart in view.charts:
                for series in chart.series:
                    seen.setdefault(series.label, set()).add(series.style)
    assert set(seen) == {"dense", *METHODS}
    assert seen == {label: {style_of(label)} for label in seen}


def test_accuracy_by_hand() -> None:
    records = [
        *(record("dense", seed=seed, top1=top1) for seed, top1 in enumerate((0.96, 0.98))),
        *(record("snip", density=0.1, seed=seed, top1=top1) for seed, top1 in enumerate((0.90, 0.92, 0.97))),
        record("snip", density=0.01, top1=0.5),
        failed("snip", density=0.01, seed=1),
    ]
    found = accuracy(only(records))
    snip, dense = line(found, "snip"), line(found, "dense")
    assert snip.x == (0.1, 0.01)
    assert snip.y == pytest.approx((93.0, 50.0))
    std = 100 * 0.0013**0.5
    assert snip.band[0] == pytest.approx((93 - std, 93 + std))
    assert snip.band[1] is None
    assert snip.notes[0] == "snip, density 0.1 (90 % removed): 93.00 ± 3.61 %, n = 3, seeds 0, 1, 2"
    assert snip.notes[1] == "snip, density 0.01 (99 % removed): 50.00 %, n = 1, seed 0"
    assert dense.reference
    assert not snip.reference
    assert dense.y == pytest.approx((97.0,) * len(dense.x))
    axis = found.views[0].charts[0].x
    assert axis.scale == "log"
    assert axis.ticks == ((0.1, "0.1\n90 %"), (0.01, "0.01\n99 %"))
    assert (min(dense.x), max(dense.x)) == axis.limits
    assert "dashed line" in found.description
    assert "dashed line" not in accuracy(only(records[2:])).description


def test_density_labels_that_would_run_into_each_other_are_left_out() -> None:
    records = [record("snip", density=density) for density in (1.0, 0.99, 0.98, 0.5, 0.01)]
    found = accuracy(only(records))
    assert [at for at, _ in found.views[0].charts[0].x.ticks] == [1.0, 0.5, 0.01]


def _with_layers(density: float, seed: int, kept: tuple[int, int], alive: tuple[int, int]) -> object:
    layers = tuple(
        LayerRecord(name=f"{name}.weight", shape=(10, 10), kept=k, total=100, units=10, units_alive=a)
        for name, k, a in zip(("first", "second"), kept, alive, strict=True)
    )
    return record("snip", density=density, seed=seed).model_copy(update={"layers": layers})


def test_layers_by_hand() -> None:
    section = only([_with_layers(0.1, 0, (10, 0), (10, 0)), _with_layers(0.1, 1, (30, 0), (6, 0))])
    density = line(layer_density(section), "snip")
    assert density.x == (0.0, 1.0)
    assert density.y[0] == pytest.approx(0.2)
    std = 0.02**0.5
    assert density.band[0] == pytest.approx((0.2 - std, 0.2 + std))
    assert density.notes[0] == "snip, first.weight: density 0.2, kept 10 of 100 / 30 of 100"
    chart = layer_density(section).views[0].charts[0]
    assert chart.y.scale == "log"
    assert chart.y.ticks[-1] == (density.y[1], "none")
    assert density.y[1] == pytest.approx(0.01)
    assert chart.y.limits[0] < density.y[1]
    assert [text for _, text in chart.x.ticks] == ["first", "second"]
    width = line(layer_width(section), "snip")
    assert width.y == pytest.approx((80.0, 0.0))
    assert width.band[0] == pytest.approx((80 - 800**0.5, 100.0))
    assert width.notes[1] == "snip, second.weight: 0.00 ± 0.00 % of units alive, 0 of 10 / 0 of 10"


def test_a_network_that_lost_every_weight_can_be_drawn() -> None:
    section = only([_with_layers(0.1, 0, (0, 0), (0, 0))])
    assert line(layer_density(section), "snip").y[0] > 0
    assert line(layer_width(section), "snip").y == (0.0, 0.0)


def test_layers_without_weights_or_units_are_left_out() -> None:
    empty = LayerRecord(name="none", shape=(0, 3), kept=0, total=0, units=0, units_alive=0)
    section = only([record("snip", density=0.1).model_copy(update={"layers": (empty,)})])
    assert layer_density(section) is None
    assert layer_width(section) is None


def test_many_layers_share_few_labels() -> None:
    layers = tuple(
        LayerRecord(name=f"layers.{at}.attention.query.weight", shape=(4, 4), kept=1, total=16, units=4, units_alive=1)
        for at in range(100)
    )
    found = layer_density(only([record("snip", density=0.1).model_copy(update={"layers": layers})]))
    ticks = found.views[0].charts[0].x.ticks
    assert len(ticks) <= 18
    assert len(line(found, "snip").x) == 100
    assert all(len(text) <= 22 for _, text in ticks)


def test_short_names() -> None:
    assert short_name("conv1.weight") == "conv1"
    assert short_name("encoder.layers.11.attention.weight") == "encoder.….11.attention"
    assert short_name("attn.qkv.weight[q]") == "attn.qkv[q]"
    assert short_name("encoder.layers.11.attn.qkv.weight[q]") == "encoder.…1.attn.qkv[q]"


def _epoch(epoch: int, loss: float | None, top1: float | None) -> Epoch:
    return Epoch(epoch=epoch, lr=0.1, train_loss=loss, train_top1=None, test_top1=top1, seconds=1.0)


def test_curves_by_hand() -> None:
    records = [
        record("snip", density=0.1, seed=0).model_copy(
            update={"curve": (_epoch(0, 2.0, 0.2), _epoch(1, 1.0, None), _epoch(2, 0.5, 0.6))}
        ),
        record("snip", density=0.1, seed=1).model_copy(update={"curve": (_epoch(0, 4.0, 0.4), _epoch(1, None, None))}),
        record("dense").model_copy(update={"curve": (_epoch(0, 1.0, 0.5),)}),
    ]
    found = curves(only(records))
    top1 = line(found, "snip")
    assert top1.x == (0.0, 2.0)
    assert top1.y == pytest.approx((30.0, 60.0))
    assert top1.band[0] == pytest.approx((30 - 200**0.5, 30 + 200**0.5))
    assert top1.band[1] is None
    loss = line(found, "snip", chart=1)
    assert loss.x == (0.0, 1.0, 2.0)
    assert loss.y == pytest.approx((3.0, 1.0, 0.5))
    assert loss.notes[0] == "snip, epoch 0: training loss 3 ± 1.4, n = 2"
    assert line(found, "dense").reference


def test_failed_runs_are_not_drawn() -> None:
    run = full("snip", 0.1, 0).model_copy(update={"status": "failed", "error": "x"})
    section = only([run, full("dense", 1.0, 0)])
    assert build_panels(section) == ()


def test_one_run_draws_every_panel() -> None:
    found = build_panels(only(comparison(methods=["synflow"], densities=[0.05], seeds=[0], dense=False)))
    assert [len(panel_.views) for panel_ in found] == [1, 1, 1, 1]
    for panel_ in found:
        assert all(band is None for v in panel_.views for c in v.charts for s in c.series for band in s.band)


def test_a_panel_is_registered_under_a_free_plain_name(monkeypatch: pytest.MonkeyPatch) -> None:
    build_panels(only(comparison(methods=["snip"], densities=[0.1], seeds=[0])))
    monkeypatch.setattr(panels, "PANELS", dict(panels.PANELS))

    @panel("nothing-yet")
    def nothing(section: Section) -> None:
        return None

    assert list(panels.PANELS)[-1] == "nothing-yet"
    with pytest.raises(ValueError, match="there is a panel 'accuracy' already; choose another name"):
        panel("accuracy")
    with pytest.raises(ValueError, match=r"lower-case letters, digits and dashes.*not 'a/b'"):
        panel("a/b")


def test_a_series_of_uneven_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"series 'a': x, y, band and notes must be of one length, not 2, 1, 0 and 0"):
        Series(label="a", style=style_of("a"), x=(1.0, 2.0), y=(1.0,))
