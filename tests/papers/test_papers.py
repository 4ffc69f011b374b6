from __future__ import annotations

import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from foreprune.core.init import initializers
from foreprune.experiments import check_names, run_experiment
from foreprune.papers import SCALES, Entry, entries, find, gebhart, lee, ntksap, patil, tanaka
from foreprune.papers import entry as entry_module
from foreprune.papers import frankle_networks as frankle
from foreprune.papers.entry import Runs, together
from foreprune.papers.setting import DIGITS, Setting
from foreprune.procedures import END, procedure_of, steps_of
from foreprune.records import Experiment
from foreprune.training.recipes import Recipe
from foreprune.zoo import datasets, models

NAMES = {
    *(f"frankle-figure-{number}" for number in (3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)),
    *(f"frankle-table-{number}" for number in (2, 3, 5, 7)),
    *("frankle-appendix-k", "frankle-appendix-l"),
    *(f"patil-figure-{number}" for number in (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13)),
    "patil-early-loss",
    *(f"gebhart-figure-{number}" for number in (1, 2, 3)),
    *(f"ntksap-table-{number}" for number in (1, 12, 13, 14)),
    "snip-table-1",
    "synflow-figure-6",
    *("ntksap-main-figure", "ntksap-appendix-c", "ntksap-ablation-r"),
}
EARLY = ("magnitude", "snip", "grasp", "synflow")
PRUNED_ONLY = ("frankle-figure-5", "frankle-figure-16", *(f"patil-figure-{n}" for n in (1, 2, 8, 11)))


def ids(runs: Runs) -> set[str]:
    return {run.id for run in runs}


@cache
def runs_of(name: str, scale: entry_module.Scale) -> Runs:
    return find(name).experiments(scale)


def paper(name: str) -> Runs:
    return runs_of(name, "paper")


@cache
def everything(scale: entry_module.Scale) -> Runs:
    return together(runs_of(entry.name, scale) for entry in entries())


def test_every_table_and_figure_is_there() -> None:
    assert {entry.name for entry in entries()} == NAMES
    assert len(entries()) == len(NAMES) == 45


def test_the_guide_counts_the_entries() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text(encoding="utf-8")
    assert f"`foreprune papers` lists {len(entries())} entries" in guide


def test_entries_are_in_the_order_of_the_files() -> None:
    assert [entry.make.__module__ for entry in entries()] == sorted(entry.make.__module__ for entry in entries())


def test_entries_need_no_torch() -> None:
    code = (
        "import sys\nfrom foreprune.papers import SCALES, entries\n"
        "runs = [entry.experiments(scale) for entry in entries() for scale in SCALES]\n"
        "assert len(runs) == 135\nassert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_an_entry_says_what_it_is_and_has_runs_at_every_scale(entry: Entry) -> None:
    assert 10 <= len(entry.title) <= 50
    assert not entry.title.endswith(".")
    assert entry.look.endswith((".", "?"))
    assert "arXiv:" in entry.paper
    kind, number = entry.name.rsplit("-", 2)[1:]
    assert f"{kind} {number}" in entry.where.lower()
    for scale in SCALES:
        runs = entry.experiments(scale)
        assert len(ids(runs)) == len(runs) > 0
        seeds = [run.seed for run in runs]
        assert seeds == sorted(seeds)
        assert set(seeds) == set(range(max(seeds) + 1))
        assert runs_of(entry.name, scale) == runs
    assert len(entry.experiments("smoke")) < 75


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_smoke_needs_no_files_and_small_is_small(entry: Entry) -> None:
    for run in entry.experiments("smoke"):
        assert run.data in ("digits", "digits-transformation")
        assert run.recipe.epochs <= 2
        assert run.seed == 0
        assert run.density in (1.0, 0.2, 0.05)
    for run in entry.experiments("small"):
        assert run.seed < 5
        cheap = run.data in ("mnist", "mnist-transformation") or run.recipe.epochs == 0
        assert cheap or (run.train_size == 5000 and run.recipe.epochs <= 10)


@pytest.mark.parametrize("scale", SCALES)
def test_every_run_names_things_that_exist(scale: entry_module.Scale) -> None:
    runs = everything(scale)
    kinds = {(run.method, str(run.hyper), run.ablation, run.prune_at): run for run in runs}
    check_names(list(kinds.values()))
    assert {run.data for run in runs} <= set(datasets.names())
    assert {run.init for run in runs} <= set(initializers())
    for model in {run.model for run in runs}:
        models.builder(model)


def test_steps_to_prune_at_lie_inside_training() -> None:
    settings = (
        frankle.RESNET_20,
        frankle.VGG_16,
        frankle.RESNET_18,
        frankle.RESNET_50,
        frankle.LENET,
        frankle.MODIFIED_RESNET_18,
        frankle.small_resnet_20(),
    )
    # 391 * 160, 391 * 200, 469 * 40 of table A.3; ResNet-50 has 1252 there if the last, smaller batch is kept
    assert [setting.steps for setting in settings] == [62_560, 62_560, 78_200, 112_680, 18_760, 78_200, 400]
    known = {(s.data, s.model, s.limited): s.steps for s in settings}
    smoke = 2 * -(-DIGITS // 64)
    theirs = [entry.name for entry in entries() if entry.paper == frankle.PAPER]
    for scale in SCALES:
        for run in (run for name in theirs for run in runs_of(name, scale)):
            steps = [step for step in steps_of(run) if step != END]
            last = smoke if run.data == "digits" else known.get((run.data, run.model, bool(run.train_size)), 0)
            assert all(0 < step <= last for step in steps), run.id


# networks x densities x seeds with ResNet-50 and without, and the dense networks of either
_FOUR, _THREE, _DENSE = 18 * (5 + 5 + 3) + 13 * 3, 18 * (5 + 5 + 3), 5 + 5 + 3
COUNTS = {
    "frankle-figure-3": 6 * _FOUR + _DENSE + 3,
    "frankle-figure-4": (4 * 4 + 4 + 3) * _THREE + _DENSE + 5 * 3 * 13 * 3 + 3,
    "frankle-figure-5": (4 * 2 + 1) * (_DENSE + 3),
    "frankle-figure-6": (5 * 10 + 9) * _DENSE + 9 * 3 + _DENSE + 3,
    "frankle-figure-7": (5 * 10 + 1) * (5 + 5 + 5 + 3),
    "frankle-figure-8": 4 * _FOUR + _DENSE + 3,
    "frankle-figure-9": 4 * 3 * _THREE + _DENSE,
    "frankle-figure-10": (10 * 4 * 3 + 1) * _DENSE,
    "frankle-figure-11": 2 * _FOUR + _DENSE + 3,
    "frankle-figure-12": 2 * 3 * _THREE + _DENSE,
    "frankle-figure-13": 3 * _FOUR + _DENSE + 3,
    "frankle-figure-14": 6 * _FOUR + _DENSE + 3,
    "frankle-figure-15": (5 + 1 + 1) * (_DENSE + 3),
    "frankle-figure-16": 4 * 2 * _FOUR + _DENSE + 3,
    "frankle-table-2": 5 * 2 * 5,
    "frankle-table-3": 3 * (3 + 1) * 5,
    "frankle-table-5": 3 * (3 + 1) * 5,
    "frankle-table-7": 4 * 5 + 2 * 3,
    "frankle-appendix-k": ((4 * 4 + 4 + 4 * 3) * 18 + 1) * 5,
    "frankle-appendix-l": ((4 * 4 + 4 + 3 + 4 * 3) * 18 + 1) * 3,
    "patil-figure-1": 2 * (7 * 6 + 1) * 3,
    "patil-figure-2": 2 * (7 * 6 + 1) * 3,
    "patil-figure-3": 4 * (2 * 5 + 1) * 3,
    "patil-figure-4": 6 * (6 * 6 + 1) * 3,
    "patil-figure-5": 6 * (4 * 6 + 1) * 3,
    "patil-figure-6": 4 * ((4 + 2) * 6 + 1) * 3,
    "patil-figure-7": 4 * (2 * 4 * 6 + 1) * 3,
    "patil-early-loss": 4 * (3 * 6 + 1) * 3,
    "patil-figure-8": 2 * (4 * 6 + 1) * 3,
    "patil-figure-10": 4 * (5 * 6 + 1) * 3,
    "patil-figure-11": 4 * (5 * 6 + 1) * 3,
    "patil-figure-12": 6 * (2 * 6 + 1) * 3,
    "patil-figure-13": 6 * (2 * 6 + 1) * 3,
    "gebhart-figure-1": (4 * 5 + 4 * 3) * (8 * 6 + 1),
    "gebhart-figure-2": (4 * 5 + 4 * 3) * (8 * 6 + 1),
    "gebhart-figure-3": (4 * 5 + 8 * 3) * (6 * 6 + 1),
    "ntksap-main-figure": 3 * (7 * 9 + 1) * 3,
    "ntksap-appendix-c": (5 * 9 + 1) * 3 + (4 * 9 + 1) * 3,
    "ntksap-ablation-r": (4 * 9 + 1) * 3,
    "ntksap-table-1": 2 * (7 * 2 + 1),
    "ntksap-table-12": (4 * 9 + 1) * 3,
    "ntksap-table-13": (4 * 9 + 1) * 3,
    "ntksap-table-14": (4 * 9 + 1) * 3,
    "snip-table-1": 2 * (2 + 1) * 5,
    "synflow-figure-6": (5 * 6 + 1) * 3,
}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_counts_at_the_scale_paper(name: str) -> None:
    """Methods (with their ablations) x densities + 1 dense network, times seeds and networks."""
    assert len(paper(name)) == COUNTS[name]


def test_counts_of_figure_3() -> None:
    runs = paper("frankle-figure-3")
    pruned = 18 * (5 + 5 + 3) + 13 * 3  # densities x seeds of four networks
    dense = 5 + 5 + 3 + 3
    assert Counter(run.method for run in runs) == {
        **dict.fromkeys(("random", *EARLY, "magnitude-after"), pruned),
        "dense": dense,
    }
    assert all(run.ablation == "none" and not run.prune_at for run in runs)


def test_figures_share_the_runs_that_are_the_same() -> None:
    three, four = paper("frankle-figure-3"), paper("frankle-figure-4")
    pruned, dense = 18 * (5 + 5 + 3) + 13 * 3, 5 + 5 + 3 + 3
    assert len(ids(three) & ids(four)) == 5 * pruned + dense  # the early four and magnitude-after
    fourteen = paper("frankle-figure-14")
    old, best = ids(three), ids(fourteen)
    assert {run.method for run in three if run.id not in best} == {"grasp", "synflow"}
    new = [run for run in fourteen if run.id not in old]
    assert {(run.method, run.ablation, run.hyper.get("keep")) for run in new} == {
        ("grasp", "none", "magnitude"),
        ("synflow", "shuffle", None),
    }
    assert ids(paper("gebhart-figure-1")) == ids(paper("gebhart-figure-2"))
    assert ids(paper("patil-figure-1")) == ids(paper("patil-figure-2"))
    assert ids(paper("frankle-figure-11")) & old == {run.id for run in three if run.method in ("snip", "dense")}
    magnitude_after = [run for run in paper("frankle-figure-15") if run.recipe.epochs]
    assert len(magnitude_after) == 5 + 5 + 3 + 3
    assert {run.id for run in magnitude_after} <= old


def test_ablations_of_figure_4() -> None:
    runs = paper("frankle-figure-4")
    for model, seeds in (("resnet-20", 5), ("vgg-16", 5), ("resnet-18-imagenet", 3)):
        own = [run for run in runs if run.model == model]
        kinds = Counter((run.method, run.ablation, run.init.startswith("constant-variance")) for run in own)
        variants = [(name, ablation, False) for name in EARLY for ablation in ("none", "shuffle", "reinit", "invert")]
        variants += [(name, "none", True) for name in EARLY]
        variants += [("magnitude-after", ablation, False) for ablation in ("none", "shuffle", "reinit")]
        assert kinds == {**dict.fromkeys(variants, 18 * seeds), ("dense", "none", False): seeds}
    limited = Counter(run.ablation for run in runs if run.model == "resnet-50" and run.method != "dense")
    assert limited == dict.fromkeys(("none", "shuffle", "reinit"), 5 * 13 * 3)


@pytest.mark.parametrize("scale", SCALES)
def test_scales_of_batch_normalization_are_drawn_in_every_entry_of_frankle(scale: entry_module.Scale) -> None:
    theirs = [run for each in entries() if each.paper == frankle.PAPER for run in runs_of(each.name, scale)]
    inits = {(run.model == "lenet-300-100", run.init) for run in theirs}
    assert inits == {
        (True, "kaiming-normal-fan-in"),
        (False, "kaiming-normal-fan-in+uniform-scale"),
        (False, "constant-variance+uniform-scale"),
    }
    others = {run.init for each in entries() if each.paper != frankle.PAPER for run in runs_of(each.name, scale)}
    assert not any(init.endswith("+uniform-scale") for init in others)


def test_figure_5_at_the_scale_small_is_part_of_the_paper() -> None:
    small = runs_of("frankle-figure-5", "small")
    assert len(small) == (4 * 2 + 1) * (5 + 5)
    assert ids(small) == {run.id for run in paper("frankle-figure-5") if run.model in ("resnet-20", "vgg-16")}
    assert {(run.model, round(run.sparsity, 3)) for run in small if run.method != "dense"} == {
        ("resnet-20", 0.738),
        ("vgg-16", 0.931),
    }


def test_figure_7_goes_to_a_thousandth_of_the_weights() -> None:
    runs = paper("frankle-figure-7")
    assert {run.density for run in runs} == {0.5**power for power in range(11)}
    assert {run.method for run in runs} == {"dense", "random", *EARLY}
    rates = {(run.model, run.data, run.recipe.epochs, run.recipe.batch_size, run.recipe.lr) for run in runs}
    assert rates == {
        ("vgg-11", "cifar-10", 160, 128, 0.1),
        ("vgg-16", "cifar-10", 160, 128, 0.1),
        ("resnet-18", "cifar-10", 160, 256, 0.2),
        ("resnet-18", "modified-tiny-imagenet", 200, 256, 0.2),
    }
    small = runs_of("frankle-figure-7", "small")
    assert len(small) == (5 * 10 + 1) * 3 * 2
    assert {(run.model, run.data, run.recipe.epochs) for run in small} == {
        ("vgg-16", "cifar-10", 0),
        ("resnet-20", "cifar-10", 0),
    }
    dense = {run.id for run in paper("frankle-table-7") if run.method == "dense"}
    assert {run.id for run in runs if run.method == "dense"} <= dense


def test_appendix_k_at_the_scale_small() -> None:
    """Enough for each of its figures: 3, 4, 5, 8, 9, 11, 13 and 15."""
    runs = runs_of("frankle-appendix-k", "small")
    assert {(run.train_size, run.recipe.epochs, run.model, run.data) for run in runs} == {
        (0, 40, "lenet-300-100", "mnist")
    }
    assert {run.density for run in runs} - {1.0} == {frankle.LADDER[power - 1] for power in range(4, 19, 2)}
    kinds = Counter((run.method, run.hyper.get("keep"), run.ablation) for run in runs)
    everywhere = [(name, None, "none") for name in (*EARLY, "ntk-sap", "random", "phew", "iterative-snip")]
    everywhere += [("grasp", "magnitude", "none"), ("grasp", None, "invert")]
    everywhere += [("magnitude-after", None, "none"), ("ltr", None, "none")]
    thrice = [(name, None, ablation) for name in EARLY for ablation in ("shuffle", "reinit", "invert")]
    thrice += [("magnitude-after", None, ablation) for ablation in ("shuffle", "reinit")]
    assert kinds == {**dict.fromkeys(thrice, 3 * 5), **dict.fromkeys(everywhere, 8 * 5), ("dense", None, "none"): 5}
    for run in runs:
        if run.ablation != "none" and (run.method, run.ablation) != ("grasp", "invert"):
            assert run.density in {frankle.LADDER[5], frankle.LADDER[11], frankle.LADDER[17]}
    pinned = {run.id for run in paper("frankle-appendix-k")}
    alone = {run.method for run in runs if run.id not in pinned}
    assert alone == {"ntk-sap", "phew"}


def test_ids_of_runs_that_stay_what_they_were() -> None:
    """LeNet-300-100 has no batch normalization, and the other papers take scales of 1."""
    assert {
        "mnist_lenet-300-100_dense_d1_s0_216eb97685",
        "mnist_lenet-300-100_snip_d0.8_s0_679c2fbb2b",
        "mnist_lenet-300-100_synflow_d0.0180144_s4_c1ac683693",
    } <= ids(paper("frankle-appendix-k"))
    assert "mnist_fc-100_dense_d1_s0_948295912f" in ids(paper("gebhart-figure-1"))
    assert "cifar-10_resnet-20_dense_d1_s0_e76fe9fd9f" in ids(paper("ntksap-table-12"))


def test_figure_6_goes_from_initialization_to_the_end_at_one_density() -> None:
    runs = [run for run in paper("frankle-figure-6") if run.model == "vgg-16" and run.seed == 0]
    steps = {run.prune_at for run in runs if run.method == "snip"}
    assert steps == {0, 1000, 2000, 5000, 10_000, 20_000, 30_000, 40_000, 50_000, 62_560}
    for name in ("random", *EARLY):
        assert {run.prune_at for run in runs if run.method == name} == steps
    assert {run.hyper.get("rewind_to") for run in runs if run.method == "ltr"} == steps - {62_560}
    assert {round(run.sparsity, 3) for run in runs if run.method != "dense"} == {0.931}
    late = {run.method for run in paper("frankle-figure-6") if run.model == "resnet-50"}
    assert late == {"dense", "ltr"}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", PRUNED_ONLY)
def test_figures_about_masks_train_nothing(name: str, scale: entry_module.Scale) -> None:
    assert {run.recipe.epochs for run in find(name).experiments(scale)} == {0}


def test_all_other_entries_train() -> None:
    for entry in entries():
        if entry.name not in PRUNED_ONLY:
            assert any(run.recipe.epochs for run in paper(entry.name)), entry.name


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (frankle.LENET, (40, 128, "sgd", 0.0, 0.1, (), 0.0)),
        (frankle.RESNET_20, (160, 128, "sgd", 0.9, 0.1, (80, 120), 1e-4)),
        (frankle.VGG_16, (160, 128, "sgd", 0.9, 0.1, (80, 120), 1e-4)),
        (frankle.RESNET_18, (200, 256, "sgd", 0.9, 0.2, (100, 150), 1e-4)),
        (frankle.MODIFIED_RESNET_18, (200, 256, "sgd", 0.9, 0.2, (100, 150), 1e-4)),
        (frankle.RESNET_50, (90, 1024, "sgd", 0.9, 0.4, (30, 60, 80), 1e-4)),
        (patil.RESNET_20_100, (160, 128, "sgd", 0.9, 0.1, (80, 120), 1e-4)),
        (patil.VGG_19, (160, 128, "sgd", 0.0, 0.1, (80, 120), 5e-3)),
        (patil.VGG_19_TINY, (200, 256, "sgd", 0.9, 0.2, (100, 150), 1e-4)),
        (gebhart.FC[3], (50, 64, "adam", 0.0, 0.01, (), 1e-4)),
        (gebhart.RESNETS[0], (100, 64, "adam", 0.0, 0.001, (60,), 1e-4)),
        (gebhart.VGGS[0], (160, 64, "adam", 0.0, 0.001, (60, 120), 1e-4)),
        (gebhart.VGGS[3], (160, 64, "adam", 0.0, 0.0005, (60, 120), 1e-4)),
        (ntksap.RESNET_20, (160, 128, "sgd", 0.9, 0.1, (80, 120), 1e-4)),
        (ntksap.VGG_16, (160, 128, "sgd", 0.9, 0.1, (60, 120), 5e-4)),
        (tanaka.VGG_16, (160, 128, "sgd", 0.9, 0.1, (60, 120), 1e-4)),
        (lee.LENET_300_100, (185, 100, "sgd", 0.9, 0.1, (46, 93, 139), 5e-4)),
        (lee.LENET_5, (185, 100, "sgd", 0.9, 0.1, (46, 93, 139), 5e-4)),
    ],
    ids=lambda value: f"{value.model}-{value.data}" if isinstance(value, Setting) else "",
)
def test_hyperparameters_are_those_printed(setting: Setting, expected: tuple[object, ...]) -> None:
    made: Recipe = setting.recipe
    found = (made.epochs, made.batch_size, made.optimizer, made.momentum, made.lr, made.milestones, made.weight_decay)
    assert found == expected


def test_sparsities_are_those_printed() -> None:
    printed = [20.0, 36.0, 48.8, 59.0, 67.2, 73.8, 79.0, 83.2, 86.6, 89.3, 91.4, 93.1, 94.5, 95.6, 96.5, 97.2, 97.7]
    assert [round(100 * (1 - density), 1) for density in frankle.LADDER] == [*printed, 98.2]
    matching = (frankle.RESNET_20, frankle.VGG_16, frankle.RESNET_18, frankle.RESNET_50)
    assert [round(100 * (1 - setting.matching), 1) for setting in matching] == [73.8, 93.1, 96.5, 67.2]
    assert [setting.rewind_to for setting in matching] == [1000, 2000, 1000, 6000]
    assert round(100 * (1 - frankle.RESNET_50.densities[-1]), 1) == 94.5
    assert [round(100 * (1 - density), 2) for density in ntksap.IMAGENET_50.densities] == [89.26, 95.6]
    assert [round(100 * (1 - density), 1) for density in patil.LADDER] == [48.8, 73.8, 86.6, 93.1, 96.5, 98.2]
    assert {round(run.sparsity, 3) for run in paper("patil-figure-3") if run.method != "dense"} == {0.931}
    assert [f"{1 / density:.4g}" for density in gebhart.RATIOS] == ["3.162", "10", "31.62", "100", "316.2", "1000"]


def test_tables_of_replications() -> None:
    two = {(run.model, run.sparsity) for run in paper("frankle-table-2") if run.method == "snip"}
    wide = ("vgg-16-2fc", "wrn-14-8", "wrn-14-10", "wrn-20-8")
    assert two == {("vgg-16", 0.97), *((model, 0.95) for model in wide)}
    for name, method in (("frankle-table-3", "snip"), ("frankle-table-5", "grasp")):
        runs = paper(name)
        assert {run.method for run in runs} == {"dense", method}
        cells = Counter((run.model, run.sparsity) for run in runs if run.method == method)
        expected = [(model, sparsity) for model in ("vgg-19", "wrn-32-2") for sparsity in (0.9, 0.95, 0.98)]
        assert cells == dict.fromkeys([*expected, *(("resnet-50", sparsity) for sparsity in (0.6, 0.8, 0.9))], 5)
    rates = Counter(
        (run.model, run.data, run.recipe.epochs, run.recipe.batch_size, run.recipe.lr, run.recipe.gamma)
        for run in paper("frankle-table-7")
    )
    assert rates == {
        ("vgg-11", "cifar-10", 160, 128, 0.1, 0.1): 5,
        ("vgg-16", "cifar-10", 160, 128, 0.1, 0.1): 5,
        ("resnet-18", "cifar-10", 160, 128, 0.01, 0.2): 5,
        ("resnet-18", "cifar-10", 160, 256, 0.2, 0.1): 5,
        ("resnet-18", "modified-tiny-imagenet", 100, 128, 0.01, 0.1): 3,
        ("resnet-18", "modified-tiny-imagenet", 200, 256, 0.2, 0.1): 3,
    }


def test_ntk_sap_is_run_with_the_settings_of_each_table() -> None:
    common = {"rounds": 100, "resamplings": 1}
    for name, expected in (
        ("ntksap-table-12", {}),
        ("ntksap-table-13", {**common, "samples": 1000}),
        ("ntksap-table-14", {**common, "samples": 2000}),
    ):
        runs = [run for run in paper(name) if run.method == "ntk-sap"]
        deviations = {run.hyper.get("epsilon", 0.01) for run in runs}
        assert sorted(round(float(str(value)) ** 2, 9) for value in deviations) == [1e-6, 1e-5, 2.5e-5, 1e-4]
        assert len(runs) == 4 * 9 * 3
        for run in runs:
            assert {key: value for key, value in run.hyper.items() if key != "epsilon"} == expected


def test_table_1_of_snip() -> None:
    runs = paper("snip-table-1")
    cells = Counter((run.model, run.sparsity) for run in runs if run.method == "snip")
    expected = [("lenet-300-100", 0.95), ("lenet-300-100", 0.98), ("lenet-5", 0.98), ("lenet-5", 0.99)]
    assert cells == dict.fromkeys(expected, 5)
    assert {run.ablation for run in runs if run.method == "snip"} == {"reinit"}
    shared = {(run.train_size, run.samples_per_class, run.init) for run in runs}
    assert shared == {(54_000, 10, "kaiming-normal-fan-in")}
    assert {(run.model, run.recipe.warmup_epochs) for run in runs} == {("lenet-300-100", 0.0), ("lenet-5", 1.0)}
    each = lee.LENET_5.recipe.steps_per_epoch(54_000)
    assert each == 540
    assert [round(mark * each, -3) for mark in (*lee.LENET_5.recipe.milestones, 185)] == [25e3, 50e3, 75e3, 100e3]
    assert {run.model for run in find("snip-table-1").experiments("small")} == {"lenet-300-100"}


def test_ntk_sap_entries_share_the_runs_that_are_the_same() -> None:
    tables = set[str]().union(*(ids(paper(f"ntksap-table-{number}")) for number in (12, 13, 14)))
    comparison = paper("ntksap-main-figure")
    assert len(ids(comparison) & tables) == 3 * (9 + 1) * 3  # NTK-SAP as in the first row of each table, and dense
    assert {run.id for run in comparison if run.method in ("ntk-sap", "dense")} <= tables
    rounds = {(run.model, run.hyper.get("rounds", 20)) for run in paper("ntksap-appendix-c") if run.method == "ntk-sap"}
    assert rounds == {
        *(("resnet-20", count) for count in (1, 2, 4, 8, 20)),
        *(("resnet-18-imagenet", count) for count in (1, 5, 20, 100)),
    }
    draws = {run.hyper.get("resamplings", 5) for run in paper("ntksap-ablation-r") if run.method == "ntk-sap"}
    assert draws == {1, 2, 5, 10}


def test_early_loss_is_the_beginning_of_the_recipe() -> None:
    for run in paper("patil-early-loss"):
        assert (run.recipe.epochs, run.recipe.milestones, run.recipe.lr) == (20, (), 0.1)
    walks = {(run.method, run.hyper.get("bias", "weights")) for run in paper("patil-early-loss")}
    assert walks == {("dense", "weights"), *(("phew", bias) for bias in ("weights", "uniform", "inverse"))}
    assert {run.hyper.get("bias") for run in paper("patil-figure-8")} == {None, "uniform", "inverse", "inverse-weight"}


def test_both_forms_of_synflow_l2_are_run() -> None:
    forms = {(run.method, run.hyper.get("form")) for run in paper("gebhart-figure-3") if "l2" in run.method}
    assert forms == {(name, form) for name in ("synflow-l2", "synflow-l2-dist") for form in (None, "theta2")}


def test_networks_shrink_with_their_steps() -> None:
    small = frankle.VGG_16.shrunk(epochs=10, images=5000, densities=(0.1,))
    assert small.steps == 10 * 40
    assert small.rewind_to == round(2000 * 400 / 62_560) == 13
    assert small.recipe.milestones == (5, 8)
    assert {run.train_size for run in small.runs("snip")} == {5000}
    assert {run.train_size for run in frankle.VGG_16.runs("snip")} == {0}


def test_unknown_names_and_scales_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown table or figure 'frankle-figure-33'; did you mean 'frankle-fig"):
        find("frankle-figure-33")
    with pytest.raises(ValueError, match="`foreprune papers` lists them"):
        find("x")
    with pytest.raises(ValueError, match="scale must be one of smoke, small, paper, not 'huge'"):
        find("frankle-figure-3").experiments("huge")  # type: ignore[arg-type]


def test_two_entries_cannot_have_one_name() -> None:
    entries()
    with pytest.raises(ValueError, match="two entries called 'frankle-figure-3'"):
        entry_module.entry("frankle", paper="", where="", look="")(find("frankle-figure-3").make)


def smoke_runs() -> list[Experiment]:
    """One run of every kind among those of all smoke tests, with hardly any data and few rounds."""
    kinds: dict[object, Experiment] = {}
    for run in everything("smoke"):
        trains = run.recipe.epochs > 0
        for kind in (
            (run.method, tuple(run.hyper)),
            (run.data, run.model, trains),
            (run.ablation, run.init, run.prune_at > 0, procedure_of(run) is not None),
        ):
            kinds.setdefault(kind, run)
    return list({cut.id: cut for cut in map(_cut, kinds.values())}.values())


def _cut(run: Experiment) -> Experiment:
    settings = run.model_dump()
    settings["recipe"] = Recipe(epochs=min(1, run.recipe.epochs), batch_size=64, lr=0.01)
    settings["train_size"] = 256  # four steps
    settings["prune_at"] = min(run.prune_at, 2)
    settings["hyper"] |= {"rewind_to": 1} if "rewind_to" in run.hyper else {}
    settings["hyper"] |= {"rounds": 2} if run.method in _ITERATIVE else {}
    return Experiment.model_validate(settings)


_ITERATIVE = ("synflow", "synflow-l2", "synflow-dist", "synflow-l2-dist", "iterative-snip", "ntk-sap")


@pytest.mark.slow
def test_every_kind_of_smoke_run_runs(tmp_path: Path) -> None:
    runs = smoke_runs()
    assert len(runs) >= 30
    assert {run.method for run in runs} >= {*EARLY, *_ITERATIVE, "random", "phew", "dense", "ltr", "gmp"}
    for run in runs:
        record = run_experiment(run, out=tmp_path)
        assert record.status == "finished", (run.id, record.error)
        assert record.kept is not None
        assert record.total is not None
        if run.method == "phew":  # whole paths, and whole kernels with `conserve`
            assert record.kept >= round(run.density * record.total)
        else:
            assert record.kept == round(run.density * record.total)
