from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from foreprune import cli, runner
from foreprune.cli import consoles
from foreprune.cli.printing import count, flops
from foreprune.papers import entries, find
from foreprune.records import Experiment, Record, read_records, write_record

PAPERS = tuple(dict.fromkeys(entry.name.partition("-")[0] + "-" for entry in entries()))


@pytest.fixture(autouse=True)
def in_an_empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FOREPRUNE_DATA", raising=False)
    for console in (consoles.screen, consoles.errors):
        monkeypatch.setattr(console, "_width", 80)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["foreprune", *words])
    monkeypatch.setattr("warnings.showwarning", warnings.showwarning)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def finish(out: Path, experiment: Experiment) -> None:
    write_record(out, Record(id=experiment.id, experiment=experiment, status="finished", top1=0.5, kept=1, total=2))


@pytest.mark.parametrize("command", ["sweep", "papers", "compare", "report", "methods", "prune"])
def test_help_teaches_with_an_example_in_80_columns_and_does_not_import_torch(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code = (
        f"import sys\nsys.argv = ['foreprune', {command!r}, '--help']\nfrom foreprune.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\nassert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    examples = [line for line in done.stdout.splitlines() if line.startswith(f"  foreprune {command}")]
    assert len(examples) >= 2
    assert max(len(line) for line in done.stdout.splitlines() if not line.startswith("usage: ")) <= 80


def test_the_first_help_has_one_line_for_each_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    for command in ("compare", "prune", "analyze", "train", "sweep", "papers", "methods", "report"):
        assert f"• {command}" in text
    assert "foreprune sweep frankle" not in text


@pytest.mark.parametrize("scale", ["smoke", "paper"])
def test_papers_lists_every_entry_in_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], scale: str
) -> None:
    assert run(monkeypatch, "papers", "--scale", scale) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    rows = {line.split()[0]: line.split() for line in lines if line.startswith(PAPERS)}
    assert set(rows) == {entry.name for entry in entries()}
    for entry in entries():
        assert rows[entry.name][-3].replace(",", "") == str(len(entry.experiments(scale)))  # type: ignore[arg-type]
    assert rows["frankle-figure-5"][-2:] == ["-", "-"]
    if scale == "paper":
        assert rows["patil-figure-10"][-3:] == ["372", "7,440", "3.4e14"]


def test_papers_explains_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "papers", "frankle-figure-8", "--scale", "small") == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    for words in (
        "arXiv:2009.08576, appendix E, figure 8",
        "table A.3 has 6255",
        "In the report: Accuracy against density",
        "dense, random, magnitude, magnitude-after, ltr:rewind_to=6",
        "0.262, 0.107, 0.044, 0.018",
        "ablations none",
        "init kaiming-normal-fan-in+uniform-scale",
        "resnet-20 cifar-10 5,000 10 4 3 51",
        "foreprune sweep frankle-figure-8 --scale small --data-dir DATA",
        "50 GFLOP/s (assumed)",
    ):
        assert words in flat
    for scale in ("smoke", "small", "paper"):
        assert f"{scale} {len(find('frankle-figure-8').experiments(scale)):,} " in flat  # type: ignore[arg-type]


def test_papers_at_the_scale_smoke_need_no_data(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "papers", "patil-figure-12", "frankle-figure-5", "--scale", "smoke") == 0
    text = capsys.readouterr().out
    assert "foreprune sweep patil-figure-12 --scale smoke\n" in text
    assert "foreprune sweep frankle-figure-5 --scale smoke\n" in text
    assert "DATA" not in text


def test_a_dry_run_counts_what_is_done_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("sweep", "frankle-figure-3", "frankle-figure-11", "--scale", "small", "--dry-run")
    assert run(monkeypatch, *words) == 0
    assert list(tmp_path.iterdir()) == []
    flat = " ".join(capsys.readouterr().out.split())
    # six methods at four densities with three seeds, iterative-snip, and the dense network, each once
    assert "frankle-figure-3 + frankle-figure-11, scale small: 87 runs" in flat
    assert "0 finished in runs/frankle-figure-3+frankle-figure-11-small, 87 to do: 870 epochs" in flat
    assert "and 84 more" in flat
    assert "nothing was run or written" in flat
    out = tmp_path / "some"
    for experiment in find("frankle-figure-3").experiments("small")[:10]:
        finish(out, experiment)
    before = sorted(tmp_path.rglob("*"))
    assert run(monkeypatch, *words, "--out", str(out)) == 0
    assert "10 finished in " in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


def test_choices_narrow_a_sweep(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "sweep",
        "frankle-figure-3",
        "--scale",
        "paper",
        "--dry-run",
        "--seeds",
        "2",
        "--methods",
        "snip",
        "random",
    )
    assert run(monkeypatch, *words, "--densities", "0.262", "0.0180", "--epochs", "5") == 0
    flat = " ".join(capsys.readouterr().out.split())
    # three networks at both densities, ResNet-50 (down to 0.055) at one, and four dense networks, two seeds
    assert f"scale paper: {2 * (3 * 2 * 2 + 2 + 4)} runs" in flat
    assert "resnet-50 imagenet all 5 1 2 6" in flat


@pytest.mark.slow
def test_a_sweep_runs_reports_and_resumes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("sweep", "frankle-table-2", "--epochs", "1", "--jobs", "2")
    assert run(monkeypatch, *words) == 0
    out = tmp_path / "runs" / "frankle-table-2-smoke"
    records = read_records(out).records
    assert [record.status for record in records] == ["finished"] * 3
    assert {record.experiment.recipe.epochs for record in records} == {1}
    text = capsys.readouterr().out
    assert "snip" in text
    assert (out / "report.html").is_file()
    times = {path: path.stat().st_mtime_ns for path in out.rglob("record.json")}
    assert run(monkeypatch, *words) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("record.json")} == times


def test_ray_is_handed_what_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {}

    def run_all(experiments: tuple[Experiment, ...], *, out: Path, on_event: object, **rest: Any) -> Any:
        seen.update(rest)
        for experiment in experiments:
            finish(out, experiment)
        return read_records(out).records

    monkeypatch.setattr(runner, "run_all", run_all)
    words = ("sweep", "frankle-table-2", "--executor", "ray", "--address", "ray://head:10001", "--retries", "4")
    assert run(monkeypatch, *words, "--jobs", "7", "--device", "cpu") == 0
    asked = {"executor": "ray", "address": "ray://head:10001", "device": "cpu", "jobs": 7, "retries": 4}
    assert seen == asked | {"data_dir": None}
    assert "report" in capsys.readouterr().out


def test_compare_has_a_dry_run_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("compare", "--methods", "snip", "magnitude-after", "--densities", "0.5", "--seeds", "1", "--epochs", "2")
    assert run(monkeypatch, *words, "--dry-run") == 0
    flat = " ".join(capsys.readouterr().out.split())
    assert "3 runs: lenet-300-100 on digits, 2 methods x 1 density x 1 seed and the dense network, 2 epochs" in flat
    assert "3 to do: 6 epochs" in flat  # the dense network is trained once
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sweep", "frankle-figure-33"), "did you mean 'frankle-figure-3'"),
        (("sweep",), "nothing to run: name a table or figure; `foreprune papers` lists them"),
        (("sweep", "frankle-figure-3", "--methods", "phew"), "no run here uses the method 'phew'"),
        (("sweep", "frankle-figure-3", "--densities", "0.3"), "no run here has the density 0.3"),
        (("sweep", "frankle-figure-3", "--seeds", "0"), "seeds must be at least 1"),
        (("sweep", "frankle-figure-3", "--epochs", "0"), "magnitude-after need at least one epoch"),
        (("sweep", "frankle-figure-3", "--scale", "small"), "cifar-10 is read from files: pass data_dir="),
        (("sweep", "frankle-figure-3", "--address", "auto"), "--address belongs to --executor ray"),
        (("papers", "frankle"), "`foreprune papers` lists them"),
        (("papers", "--measure"), "--measure belongs to a table or figure"),
        (("compare", "--methods", "magnitude-afte", "--dry-run"), "did you mean 'magnitude-after'"),
        (("compare", "--methods", "phew", "--ablations", "invert", "--dry-run"), "no scores to invert"),
    ],
)
def test_errors_are_one_clear_line(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    assert run(monkeypatch, *words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


def test_methods_lists_procedures_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "methods") == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    _, procedures = text.split("\nProcedures:")
    for name in ("magnitude-after", "ltr", "imp", "gmp"):
        assert f"\n{name} " in procedures
    assert run(monkeypatch, "methods", "imp") == 0
    text = capsys.readouterr().out
    assert "rate=0.2" in text
    assert "arXiv:1803.03635" in " ".join(text.split())


def test_counts_and_flops() -> None:
    assert [count(1, "run"), count(2000, "run"), count(2, "density")] == ["1 run", "2,000 runs", "2 densities"]
    assert [flops(0), flops(3.14e18), flops(2.5e9)] == ["-", "3.1e18", "2.5e09"]
