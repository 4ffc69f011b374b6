"""The table of a report, read back: every setting and result that it holds, and nothing guessed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from foreprune.records import Epoch, Experiment, Record, frame, read_records
from foreprune.training.recipes import Recipe

PUBLISHED = sorted((Path(__file__).parents[2] / "docs" / "results").glob("*/records.csv"))


def made(method: str, *, density: float = 0.1, status: str = "finished", **settings: object) -> Record:
    recipe = Recipe(epochs=3, momentum=0.9, lr=0.05, schedule="milestones", milestones=(1, 2))
    experiment = Experiment(data="digits", model="mlp", method=method, density=density, recipe=recipe, **settings)
    point = Epoch(
        epoch=3, lr=0.05, train_loss=None, train_top1=None, test_loss=0.25, test_top1=0.75, test_top5=0.875, seconds=0.0
    )
    if status == "failed":
        return Record(id=experiment.id, experiment=experiment, status="failed", error="ValueError: no, luck\nat all")
    return Record(
        id=experiment.id, experiment=experiment, status="finished", top1=0.75, top5=0.875, kept=10, total=100,
        seconds_prune=1 / 3, seconds_train=2.5, curve=(point,),
        analysis={"log10_path_kernel_trace": 0.1 + 0.2, "dead_layers": 0, "width": 1.0},
    )  # fmt: skip


def written(path: Path, records: list[Record]) -> Path:
    frame(records).to_csv(path, index=False, lineterminator="\n")
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    records = [
        made("snip", seed=4, samples_per_class=3, train_size=500, scope="local"),
        made("synflow", density=0.8**7, hyper={"rounds": 20}),
        made("phew", hyper={"skips": "never", "fraction": 0.5, "whole": True}, ablation="widen", widen=0.5),
        made("magnitude", prune_at=100),
        made("grasp", status="failed"),
        made("dense", density=1.0),
    ]
    found = read_records(written(tmp_path / "records.csv", records))
    assert found.problems == ()
    assert {record.id: record for record in found.records} == {record.id: record for record in records}
    assert [record.id for record in found.records] == sorted(record.id for record in records)


def test_the_last_accuracy_is_never_taken_for_the_best(tmp_path: Path) -> None:
    first = made("snip")
    earlier = replace(first.curve[0], epoch=2, test_top1=0.8)
    path = written(tmp_path / "records.csv", [first.model_copy(update={"curve": (earlier, *first.curve)})])
    assert frame(read_records(path).records)[["top1", "best_top1"]].fillna(-1).to_numpy().tolist() == [[0.75, -1]]
    path.write_text(path.read_text().replace(",best_top1,", ",other,"))  # of a version that did not write it
    assert frame(read_records(path).records)["best_top1"].isna().all()


def test_a_row_whose_settings_were_changed_is_left_aside(tmp_path: Path) -> None:
    path = written(tmp_path / "records.csv", [made("snip"), made("grasp")])
    path.write_text(path.read_text().replace("mlp,grasp,0.1,", "mlp,grasp,0.2,"))
    found = read_records(path)
    assert [record.experiment.method for record in found.records] == ["snip"]
    ((where, reason),) = found.problems
    assert where == path / "line 3"
    assert reason.startswith("its id is 'digits_mlp_grasp_d0.1_s0_")
    assert ", but its settings make 'digits_mlp_grasp_d0.2_s0_" in reason


def test_another_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("id,data,density\na,b,0.1\n")
    with pytest.raises(ValueError, match=r"other.csv is no table of records: it has no column 'method'; give the rec"):
        read_records(path)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.parent.name)
def test_published_tables_are_read(path: Path) -> None:
    found = read_records(path)
    assert found.problems == ()
    assert len(found.records) == path.read_text().count("\n") - 1


def test_there_are_published_tables() -> None:
    assert len(PUBLISHED) >= 4
