from __future__ import annotations

from dataclasses import replace

import pytest

from foreprune.papers import find
from foreprune.papers.published import MEASURES, PUBLISHED, Published, beside, run_ids
from foreprune.records import Epoch, LayerRecord, Record, row_of

SNIP = next(n for n in PUBLISHED if n.entry == "frankle-figure-5" and n.model == "resnet-20" and n.method == "snip")


def record(name: str, *, empty: int = 0, accuracies: tuple[float, ...] = (), status: str = "finished") -> Record:
    experiments = [run for entry in {n.entry for n in PUBLISHED} for run in find(entry).experiments("paper")]
    return Record.model_validate(
        {
            "id": name,
            "experiment": next(run for run in experiments if run.id == name),
            "status": status,
            "top1": accuracies[-1] if accuracies else None,
            "layers": (
                LayerRecord(name="w", shape=(40, 2, 1, 1), kept=60, total=80, units=40, units_alive=40 - empty),
            ),
            "curve": tuple(
                Epoch(epoch=at + 1, lr=0.1, train_loss=1.0, train_top1=None, test_top1=value, seconds=1.0)
                for at, value in enumerate(accuracies)
            ),
        }
    )


@pytest.mark.parametrize("number", PUBLISHED, ids=lambda number: f"{number.entry}-{number.model}-{number.method}")
def test_every_published_number_belongs_to_runs_of_its_entry(number: Published) -> None:
    seeds = 1 if number.entry == "ntksap-table-1" else 3 if number.model.startswith("resnet-18") else None
    count = len(run_ids(number))
    assert count in ({seeds} if seeds else {3, 5})
    assert count == len(set(run_ids(number)))


def test_our_mean_and_deviation_are_over_the_seeds_that_were_run() -> None:
    ids = run_ids(SNIP)
    found = beside([row_of(record(ids[0], empty=2)), row_of(record(ids[3], empty=4))], [SNIP])
    assert [pair.published for pair in found] == [SNIP]
    assert (found[0].ours.n, found[0].ours.mean) == (2, 7.5)  # 5 and 10 % of 40 units
    assert found[0].ours.std == pytest.approx(3.5355339)
    assert found[0].text == "7.5 ± 3.5"
    assert found[0].difference == 2.5
    assert not found[0].agrees


def test_a_mean_on_the_edge_of_the_tolerance_agrees() -> None:
    row = row_of(record(run_ids(SNIP)[0], empty=2))
    assert beside([row], [replace(SNIP, value=6.5)])[0].agrees
    assert not beside([row], [replace(SNIP, value=6.75)])[0].agrees


def test_failed_runs_and_runs_of_other_settings_do_not_count() -> None:
    other = replace(SNIP, density=0.8)
    failed = record(run_ids(SNIP)[0], empty=2, status="failed")
    assert beside([row_of(failed)], [SNIP]) == []
    assert beside([row_of(record(run_ids(SNIP)[0], empty=2))], [other]) == []


def test_best_and_last_accuracy_and_error() -> None:
    table = next(n for n in PUBLISHED if n.entry == "frankle-table-2" and n.method == "snip")
    row = row_of(record(run_ids(table)[0], accuracies=(0.5, 0.9, 0.8)))
    measured = {name: beside([row], [replace(table, measure=name)])[0].ours.mean for name in MEASURES}
    assert measured == pytest.approx({"accuracy": 80, "best accuracy": 90, "error": 20, "empty channels": 0})


def test_numbers_of_snip_and_synflow_are_those_printed() -> None:
    printed = {(n.model, n.method, n.density): n.value for n in PUBLISHED if n.entry == "snip-table-1"}
    assert printed == {
        ("lenet-300-100", "dense", 1.0): 1.7,
        ("lenet-300-100", "snip", 0.05): 1.6,
        ("lenet-300-100", "snip", 0.02): 2.4,
        ("lenet-5", "dense", 1.0): 0.9,
        ("lenet-5", "snip", 0.02): 0.8,
        ("lenet-5", "snip", 0.01): 1.1,
    }
    theirs = {(n.method, n.density): n.value for n in PUBLISHED if n.entry == "synflow-figure-6"}
    assert [theirs[method, 0.01] for method in ("synflow", "snip", "magnitude", "random")] == [
        90.08,
        89.15,
        89.8,
        79.14,
    ]
    assert [theirs[method, 0.001] for method in ("synflow", "snip", "magnitude", "random")] == [80.39, 76.25, 10, 10]
    assert len(theirs) == 25


def test_numbers_from_a_file_may_be_missing() -> None:
    row = {**row_of(record(run_ids(SNIP)[0], empty=2)), "empty_channels": None}
    assert beside([row], [SNIP]) == []
