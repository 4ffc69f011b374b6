"""Neuron collapse: shares of units by hand, and against single units."""

from __future__ import annotations

import random

import pytest
from report_records import record, whole

from foreprune.records import LayerRecord, Record
from foreprune.report.panels.neuron_collapse import neuron_collapse, sparse_shares
from foreprune.report.sections import sections


def with_bins(*layers: tuple[int, ...], **settings: object) -> Record:
    found = tuple(
        LayerRecord(
            name=f"l{at}", shape=(sum(bins), 10), kept=1, total=sum(bins) * 10, units=sum(bins),
            units_alive=sum(bins) - bins[0] if bins else 0, unit_densities=bins,
        )
        for at, bins in enumerate(layers)
    )  # fmt: skip
    return record("snip", density=0.1, **settings).model_copy(update={"layers": found})


def bins(**counts: int) -> tuple[int, ...]:
    return tuple(counts.get(f"b{at}", 0) for at in range(21))


def test_shares_by_hand() -> None:
    # of 10 units 2 keep nothing, 3 keep up to 5 %, 1 keeps up to 50 %, 4 keep more than 95 %
    found = sparse_shares(with_bins(bins(b0=2, b1=1, b20=4), bins(b1=2, b10=1)))
    assert found is not None
    assert len(found) == 21
    assert found[0] == 1.0  # a sparsity of at least 0
    assert found[1] == pytest.approx(0.6)  # at least 5 %
    assert found[10] == pytest.approx(0.6)  # at least 50 %: the unit that keeps up to 50 % counts
    assert found[11] == pytest.approx(0.5)
    assert found[19] == pytest.approx(0.5)  # at least 95 %
    assert found[20] == pytest.approx(0.2)  # every weight lost


def test_shares_are_those_of_single_units() -> None:
    """From units of 40 weights, counted one by one."""
    draw = random.Random(3)
    kept = [draw.choice((0, 1, 2, 3, 10, 20, 38, 39, 40)) for _ in range(500)]
    counts = [0] * 21
    for count in kept:
        counts[-(-20 * count // 40)] += 1  # open below and closed above
    found = sparse_shares(with_bins(tuple(counts)))
    assert found is not None
    for at in range(21):
        assert found[at] == sum(40 - count >= at * 2 for count in kept) / 500


def test_records_of_earlier_versions_have_no_panel() -> None:
    layer = LayerRecord(name="l", shape=(2, 2), kept=1, total=4, units=2, units_alive=1)
    old = with_bins(bins(b0=1)).model_copy(update={"layers": (layer,)})
    assert sparse_shares(old) is None
    assert sparse_shares(record("snip", density=0.1)) is None
    (section,) = sections([old])
    assert neuron_collapse(section) is None


def test_panel_by_hand() -> None:
    (section,) = sections([with_bins(bins(b0=1, b20=3), seed=0), with_bins(bins(b0=3, b20=1), seed=1)])
    found = neuron_collapse(section)
    assert found is not None
    (line,) = found.views[0].charts[0].series
    assert line.x == tuple(range(0, 101, 5))
    assert (line.y[0], line.y[-1]) == (100.0, 50.0)
    std = 100 * 0.125**0.5
    assert line.band[-1] == pytest.approx((50 - std, 50 + std))
    assert line.notes[-1] == "snip: 50.00 ± 35.36 % of units have a sparsity of 100 % or more, n = 2"


def test_ablations_that_keep_the_masks_add_no_view() -> None:
    runs = [whole("snip", 0.1, 0, epochs=1, ablation=name) for name in ("none", "shuffle", "reinit", "reinit-layer")]
    (section,) = sections(runs)
    found = neuron_collapse(section)
    assert found is not None
    assert [view.label for view in found.views] == [
        "density 0.1 (90 % removed)",
        "density 0.1 (90 % removed), shuffled",
    ]
