from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from foreprune import cli
from foreprune.cli.arguments import Training
from foreprune.core.masks import Masks
from foreprune.records import read_records
from foreprune.training.recipes import RECIPES


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["foreprune", *words])
    monkeypatch.setattr("warnings.showwarning", warnings.showwarning)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys\nsys.argv = ['foreprune', 'compare', '--help']\nfrom foreprune.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported for --help'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for word in ("--methods", "--densities", "--data-dir", "--seeds", "--epochs", "--out", "--model"):
        assert word in done.stdout


def test_prune_writes_masks_and_prints_the_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "masks.safetensors"
    shape = ("--input-shape", "3", "16", "16")
    words = ("prune", "--model", "resnet-8", "--method", "synflow:rounds=3", "--sparsity", "0.5", *shape)
    assert run(monkeypatch, *words, "--exclude", "fc", "--out", str(out)) == 0
    masks = Masks.load(out)
    assert masks.kept == round(0.5 * masks.total)
    assert not any(name.startswith("fc") for name in masks)
    assert masks.metadata["method"] == "synflow"
    assert masks.metadata["model"] == "resnet-8"
    text = " ".join(capsys.readouterr().out.split())
    assert f"kept {masks.kept}/{masks.total} (density {masks.density:.6g}, sparsity {masks.sparsity:.6g})" in text
    parameters = int(masks.metadata["parameters"])
    share = 100 * masks.total / parameters
    assert 50 < share < 100
    assert f"prunable: {masks.total:,} of {parameters:,} parameters ({share:.1f} %)" in text


@pytest.mark.filterwarnings("default::foreprune.core.cautions.SmallShare")
def test_prune_prints_what_it_is_warned_of_and_repairs_a_head_of_zeros(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "masks.safetensors"
    words = ("prune", "--model", "cli_models:zero_headed", "--data", "digits", "--density", "0.5", "--out", str(out))
    assert run(monkeypatch, *words, "--method", "snip") == 2
    assert 'the weights of the head 4.weight are all zero, so nothing passes it: write repair="head"' in problem(capsys)
    assert run(monkeypatch, *words, "--method", "snip", "--repair", "head") == 0
    assert "warning: only 1,184 of 4,242 parameters (27.9%) are prunable" in problem(capsys)
    masks = Masks.load(out)
    assert masks.metadata["repair"] == "head"
    assert masks.layer_counts()["4.weight"][0] > 0


ATTENDS = ("prune", "--model", "cli_models:Attends", "--input-shape", "1", "8", "8")


def test_prune_takes_densities_by_patterns_and_excludes_weights_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "masks.safetensors"
    words = (*ATTENDS, "--method", "erk", "--out", str(out), "--density", "0.25", "head=1", "*_proj_weight[q,k]=0.5")
    own = "layer.self_attn.in_proj_weight"
    assert run(monkeypatch, *words, "--exclude", f"{own}[v]", "layer.linear1.weight") == 0
    counts = Masks.load(out).block_counts()
    names = ["layer.self_attn.out_proj.weight", "layer.linear2.weight"]
    assert counts == {
        f"{own}[q]": (32, 64),
        f"{own}[k]": (32, 64),
        **{name: counts[name] for name in names},
        "head.weight": (80, 80),
    }
    assert sum(counts[name][0] for name in names) == round(0.25 * (64 + 96))
    assert f"{own}[q] 8x8 32 64 0.5000" in " ".join(capsys.readouterr().out.split())


@pytest.mark.filterwarnings("ignore::foreprune.LayerCollapse")
def test_prune_lets_scores_decide_and_keeps_a_floor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def queries_and_keys(*words: str) -> int:
        out = tmp_path / "masks.safetensors"
        wanted = (*ATTENDS, "--method", "synflow:rounds=2", "--density", "0.2", "--gates", "score")
        assert run(monkeypatch, *wanted, *words, "--out", str(out)) == 0
        return sum(kept for name, (kept, _) in Masks.load(out).block_counts().items() if name.endswith(("[q]", "[k]")))

    assert queries_and_keys() == 0
    assert queries_and_keys("--floor", "1") > 20


def problem(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_analyze_prints_and_saves_everything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks, numbers = tmp_path / "m.safetensors", tmp_path / "numbers.json"
    shape = ("--model", "lenet-5", "--input-shape", "1", "16", "16")
    assert run(monkeypatch, "prune", *shape, "--method", "phew", "--density", "0.05", "--out", str(masks)) == 0
    assert run(monkeypatch, "analyze", *shape, "--masks", str(masks), "--out", str(numbers)) == 0
    found = json.loads(numbers.read_text())
    kept = Masks.load(masks)
    assert (found["kept"], found["total"]) == (kept.kept, kept.total)
    assert found["effective_density"] == found["density"] == kept.density
    assert found["dead_layers"] == []
    assert found["ntk_trace"] is None
    on_data = ("--model", "fc-16", "--data", "digits", "--out", str(numbers))
    assert run(monkeypatch, "analyze", *on_data) == 0
    found = json.loads(numbers.read_text())
    assert found["ntk_samples"] == 10
    assert 0 < found["ntk_largest"] <= found["ntk_trace"]
    text = capsys.readouterr().out
    for words in ("path-kernel trace", "effective density", "multiply-adds"):
        assert words in text


def test_prune_then_train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file

    masks = tmp_path / "m.safetensors"
    prune = ("prune", "--model", "fc-16", "--method", "snip", "--density", "0.3", "--data", "digits")
    assert run(monkeypatch, *prune, "--out", str(masks)) == 0
    folder = tmp_path / "trained"
    train = ("train", "--model", "fc-16", "--masks", str(masks), "--epochs", "2", "--out", str(folder))
    assert run(monkeypatch, *train) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["history.json", "weights.safetensors"]
    weights = load_file(folder / "weights.safetensors")
    for name, mask in Masks.load(masks).items():
        assert int(weights[name][~mask].count_nonzero()) == 0
        assert int(weights[name][mask].count_nonzero()) > 0
    assert "test accuracy of the last epoch" in capsys.readouterr().out


def test_train_without_classes_prints_losses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("train", "--model", "mlp-bn-16", "--data", "digits-transformation", "--epochs", "2")
    assert run(monkeypatch, *words, "--out", str(tmp_path)) == 0
    reached = json.loads((tmp_path / "history.json").read_text())["curve"][-1]["test_loss"]
    printed = capsys.readouterr().out
    assert "epoch   2/2  train loss " in printed
    assert f"  test loss {reached:.4f}  " in printed
    assert f"test loss of the last epoch: {reached:.4g}" in printed
    assert "accuracy" not in printed


@pytest.mark.slow
def test_compare_then_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("compare", "--model", "fc-16", "--methods", "random", "grasp:keep=magnitude", "--densities", "0.5")
    words = (*words, "--seeds", "1", "--epochs", "1", "--jobs", "1", "--out", str(tmp_path))
    assert run(monkeypatch, *words) == 0
    text = capsys.readouterr().out
    assert (tmp_path / "report.html").exists()
    assert "report.html" in text
    assert len(read_records(tmp_path).records) == 3
    assert run(monkeypatch, "report", str(tmp_path)) == 0
    assert "grasp" in capsys.readouterr().out


def test_methods_lists_and_describes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "methods") == 0
    listed = capsys.readouterr().out
    for name in ("random", "snip", "grasp", "synflow", "erk"):
        assert name in listed
    for name in ("magnitude-after", "shuffle", "widen:0.5"):
        assert name in listed
    assert run(monkeypatch, "methods", "grasp") == 0
    assert "temperature=None" in capsys.readouterr().out
    assert run(monkeypatch, "methods", "--recipes") == 0
    words = capsys.readouterr().out.split()
    assert set(RECIPES) <= set(words)  # names are to be typed: none is cut
    assert " ".join(words).startswith("digits 60 epochs, batches of 64, adam, lr 0.003 ")


@pytest.mark.parametrize("factory", ["raises", "misfits"])
def test_what_a_network_raises_is_one_line_that_says_where(
    factory: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_networks.py").write_text(
        "from torch import nn\n\n"
        "def raises():\n    raise KeyError('depth')\n\n"
        "def misfits():\n    return nn.Linear(3, 4)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ("--method", "synflow", "--density", "0.5", "--out", str(tmp_path / "masks"))
    assert run(monkeypatch, "prune", "--model", f"own_networks:{factory}", *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    found = {"raises": f"error: KeyError: 'depth' ({tmp_path / 'own_networks.py'}, line 4); if the network "}
    assert line.startswith(found.get(factory, "error: RuntimeError: mat1 and mat2 shapes cannot be multiplied (96x32"))
    assert line.endswith("takes inputs of the shape given by --data or --input-shape")


def test_help_that_is_not_read_to_the_end_is_no_error() -> None:
    program = f"{sys.executable} -c 'from foreprune.cli import main; main()' compare --help | true"
    done = subprocess.run(["sh", "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("prune", "--model", "fc-8", "--method", "synflo", "--density", "0.1"), "did you mean 'synflow'"),
        (("prune", "--model", "fc-8", "--method", "synflow"), "exactly one of density="),
        (("prune", "--model", "fc-8", "--method", "snip", "--density", "0.1"), "add --data"),
        (("prune", "--model", "fc-8", "--method", "px", "--density", "0.1"), "add --data"),
        (("prune", "--model", "fc-8", "--method", "synflow-dist", "--density", "0.1"), "add --data"),
        (("prune", "--model", "fc-8", "--method", "imp", "--density", "0.1"), "`foreprune compare --methods imp`"),
        (
            ("prune", "--model", "fc-8", "--method", "synflow:rounds=2.5", "--density", "0.1"),
            "method 'synflow': rounds must be a whole number, not 2.5",
        ),
        (("prune", "--model", "fc-8", "--method", "magnitude", "--density", "1.5"), "density must be in (0, 1]"),
        (("prune", "--model", "nope:x", "--method", "magnitude", "--density", "0.5"), "cannot import the model"),
        (("prune", "--model", "fc-8", "--method", "erk", "--density", "x"), "density 'x' is neither a number nor"),
        (("prune", "--model", "fc-8", "--method", "erk", "--density", "9=1", "0.1"), "density pattern '9' fits no"),
        (
            ("prune", "--model", "fc-8", "--method", "erk", "--density", "0.1", "1=1", "--sparsity", "0.9"),
            "give density= by patterns alone, without sparsity= or compression=",
        ),
        (
            ("prune", "--model", "fc-8", "--method", "synflow:gates=score", "--density", "0.1"),
            "gates is no setting of 'synflow' here but an option: write --gates",
        ),
        (("compare", "--methods", "snip:gates=all", "--dry-run"), 'gates must be "erk"'),
        (("compare", "--methods", "snip:floor=2", "--dry-run"), "floor must be in [0, 1]"),
        (("compare", "--methods", "snip:repair=all", "--dry-run"), 'repair must be "head"'),
        (("compare", "--methods", "imp:gates=erk", "--dry-run"), "procedure 'imp' has no setting 'gates'"),
        (("compare", "--densities", "0.1", "--sparsities", "0.9"), "give only one of --densities"),
        (("compare", "--data", "mnist", "--data-dir", "/nowhere"), "/nowhere"),
        (("train", "--model", "fc-8", "--masks", "/nowhere/m"), "no mask file at /nowhere/m"),
        (("report", "/nowhere"), "/nowhere"),
        (("compare", "--data", "mnst", "--dry-run"), "unknown data set 'mnst'; did you mean 'mnist'"),
        (("compare", "--model", "resnet-2O", "--dry-run"), "unknown network 'resnet-2O'"),
        (("compare", "--init", "kaiming", "--dry-run"), "unknown init 'kaiming'"),
        (("methods", "--recipes", "snip"), "--recipes lists all recipes; leave out snip, or --recipes"),
    ],
)
def test_errors_are_one_clear_line(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FOREPRUNE_DATA", raising=False)
    assert run(monkeypatch, *words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not list(tmp_path.rglob("*.part"))


def test_training_arguments_change_the_recipe() -> None:
    plain = Training().resolve("digits", "lenet-300-100")
    given = Training(epochs=3, batch_size=7, lr=0.5, precision="bfloat16").resolve("digits", "lenet-300-100")
    assert plain.precision == "float32"
    assert (given.epochs, given.batch_size, given.lr, given.precision) == (3, 7, 0.5, "bfloat16")
