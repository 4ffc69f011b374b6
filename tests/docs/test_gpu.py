"""The command that runs what needs a GPU, rehearsed on the CPU: its order, its table, and that it goes on."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import gpu
from foreprune.papers import find
from foreprune.papers.setting import smoke
from foreprune.records import Epoch, Experiment, LayerRecord, Record, finished
from foreprune.runner import Event

TOYS = (gpu.Part("fc-16", smoke("fc-16", seeds=2).shrunk(epochs=6, densities=(0.2,), seeds=2).runs("synflow", "snip")),)


def record(run: Experiment, *accuracies: float, note: str = "") -> Record:
    return Record.model_validate(
        {
            "id": run.id,
            "experiment": run,
            "status": "finished",
            "top1": accuracies[-1],
            "layers": (LayerRecord(name="w", shape=(4, 2), kept=6, total=8, units=4, units_alive=4),),
            "curve": tuple(
                Epoch(epoch=at + 1, lr=0.1, train_loss=1.0, train_top1=None, test_top1=value, seconds=1.0)
                for at, value in enumerate(accuracies)
            ),
            "environment": {"data_note": note} if note else {},
        }
    )


def test_runs_are_those_of_the_papers_in_an_order_that_adds_whole_results() -> None:
    runs = gpu.ordered(gpu.parts())
    assert len({run.id for run in runs}) == len(runs)
    first = [(run.method, round(100 * run.sparsity, 1), run.seed) for run in runs[:13]]
    names = ("synflow", "ntk-sap", "grasp", "random", "magnitude", "snip")
    assert first == [*((name, sparsity, 0) for sparsity in (98.2, 95.6) for name in names), ("dense", 0.0, 0)]
    models = list(dict.fromkeys(run.model for run in runs))
    assert models == ["resnet-20", "vgg-16", "lenet-5", "fc-500", "fc-1000"]
    for part, seeds in zip(gpu.parts(), (3, 3, 5, 5), strict=True):
        numbers = [run.seed for run in gpu.ordered([part])]
        assert numbers == sorted(numbers)
        assert set(numbers) == set(range(seeds))
    papers = {
        run.id
        for name in ("ntksap-table-12", "synflow-figure-6", "snip-table-1")
        for run in find(name).experiments("paper")
    }
    assert all(
        run.id in papers for run in runs if run.method in ("ntk-sap", "dense") and not run.model.startswith("fc")
    )
    assert all(run.id in papers for run in runs if run.model == "vgg-16")
    assert {run.id for run in runs if run.model == "lenet-5"} < {run.id for run in find("snip-table-1").experiments()}
    assert {run.recipe.epochs for run in runs} == {160, 185, 50}


def test_the_table_sets_published_numbers_beside_ours() -> None:
    wanted = gpu.lines(gpu.ordered(gpu.parts()[:3]))
    by_label = {line.label: line for line in wanted}
    everything = gpu.lines(gpu.ordered(gpu.parts()))
    assert len({line.label for line in everything}) == len(everything)
    sap, synflow = by_label["resnet-20 ntk-sap 98.2 %"], by_label["vgg-16 synflow 99.9 %"]
    assert [len(line.runs) for line in (sap, synflow)] == [3, 3]
    assert [line.published.value for line in (sap, synflow) if line.published] == [77.66, 80.39]
    lenet = by_label["lenet-5 snip 99 %"]
    made = [
        record(lenet.runs[0], 0.985, 0.99),
        record(sap.runs[0], 0.7, 0.77),
        record(sap.runs[1], 0.7, 0.78),
        record(synflow.runs[0], 0.85, 0.8039),
    ]
    found = {each.id: each for each in made}
    rows = {row[:24].strip(): " ".join(row[24:].split()) for row in gpu.table(wanted, found).splitlines()}
    assert rows["resnet-20 ntk-sap 98.2 %"] == "77.66 77.50 ± 0.71 77.50 ± 0.71 2 of 3 yes, -0.16 of ±0.7"
    assert rows["vgg-16 synflow 99.9 %"] == "80.39, best epoch 80.39 85.00 1 of 3 NO, +4.61 of ±0.7"
    assert rows["lenet-5 snip 99 %"] == "1.10, error 1.00 1.00 1 of 5 yes, -0.10 of ±0.3"
    assert rows["vgg-16 magnitude 99 %"] == "89.80, best epoch - - 0 of 3 not run"
    assert rows["resnet-20 dense"] == "- - - 0 of 3 -"


def test_what_must_be_said_of_the_images_stands_below_once() -> None:
    runs = TOYS[0].runs
    made = {run.id: record(run, 0.5, note="images are JPEG-encoded") for run in runs}
    assert gpu.notes(made) == ["images are JPEG-encoded"]


def test_a_stopped_call_goes_on_and_the_same_command_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "toys", lambda: TOYS)
    arguments = ["--rehearse", "--out", str(tmp_path), "--jobs", "1"]
    runs = gpu.ordered(TOYS)

    class Impatient(gpu.Printer):
        def take(self, event: Event) -> None:
            super().take(event)
            if (
                event.kind == "epoch"
                and event.epoch is not None
                and event.epoch.epoch == 3
                and event.experiment == runs[1]
            ):
                raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(gpu, "Printer", Impatient)
        assert gpu.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "1 of 6 runs are finished" in printed
    assert "run the same command again" in printed
    assert [finished(tmp_path, run) is not None for run in runs] == [True, *[False] * 5]
    assert (tmp_path / "runs" / runs[1].id / "checkpoint.pt").exists()

    assert gpu.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "6 of 6 runs are finished, 1 of them before this call" in printed
    assert (tmp_path / "table.txt").read_text() in printed
    epochs = [
        line for line in (tmp_path / "runs" / runs[1].id / "log.txt").read_text().splitlines() if "epoch " in line
    ]
    assert [line.split()[1] for line in epochs].count("1") == 1  # it began from its checkpoint
    assert gpu.main(arguments) == 0
    assert "6 of 6 runs are finished, 6 of them before this call" in capsys.readouterr().out


def test_failed_runs_are_the_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = gpu.Part("broken", (TOYS[0].runs[0].model_copy(update={"model": "tests.no_such:thing"}),))
    done = gpu.carry_out(broken.runs, out=tmp_path, data_dir=None, device="cpu", jobs=1, seconds=60)
    assert done == 1
    assert "not run" not in (tmp_path / "table.txt").read_text()


def test_time_is_up_as_by_ctrl_c() -> None:
    with pytest.raises(KeyboardInterrupt), gpu.interrupted_after(0.05):
        time.sleep(10)
    with gpu.interrupted_after(0.05):
        pass
    time.sleep(0.1)


def test_what_cannot_be_done_here_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "no GPU: torch sees no CUDA device here; --rehearse runs the same at toy" in capsys.readouterr().err
    monkeypatch.setattr(gpu, "missing", lambda packages: [name for name in packages.values() if name == "pydantic"])
    assert gpu.main([]) == 2
    assert capsys.readouterr().err == "pydantic not installed: pip install pydantic\n"


def test_arguments_out_of_range(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--minutes", "0.1"])
    assert "--minutes must be above 0.5, not 0.1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        gpu.main(["--only", "resnet-21"])
    assert "no part 'resnet-21'; there are resnet-20, vgg-16, lenet-5, fc" in capsys.readouterr().err


def test_the_list_names_runs_and_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--list", "--only", "resnet-20"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("cifar-10_resnet-20_synflow_d0.0180144_s0_")
    assert "77.66" in printed
    assert gpu.missing({"torch": "torch", "no_such_module": "no-such"}) == ["no-such"]
