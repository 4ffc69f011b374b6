"""A procedure is one function: what registers it is all that checks, costs, runs and the command line need."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from foreprune import cli
from foreprune.core.masks import Masks
from foreprune.experiments import check, estimate, grid, in_epochs, run_experiment
from foreprune.procedures import Start, get_procedure, list_procedures, procedure, registry, steps_needed
from foreprune.procedures.shared import RunContext, keep_largest, network_at, order_at, unpruned
from foreprune.records import Experiment, run_folder
from foreprune.training.recipes import Recipe

RECIPE = Recipe(epochs=2, batch_size=721, lr=0.1)  # two steps an epoch


def between(*, step: int, share: float) -> None:
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, not {share}")


@pytest.fixture(autouse=True)
def smallest_first() -> Iterator[None]:
    """Registers "smallest-first", which trains to a step, takes the smallest weights away, and goes on from there."""

    @procedure(
        "smallest-first",
        paper="A paper, 2021",
        dense_steps=lambda *, step, **_: (step,),
        trainings=lambda density, **_: 3,
        in_steps={"step": 1},
        ablates=("masks",),
        check=between,
    )
    def start(run: RunContext, *, step: int = 3, share: float = 0.5) -> Start:
        """Keep the largest weights of a step.

        And nothing else.
        """
        model = network_at(run, step)
        whole = unpruned(run, model)
        keep = round(run.experiment.density * whole.total)
        masks = keep_largest(dict(model.named_parameters()), keep, among=whole, scope="global", seed=0)
        return Start(model, masks.with_metadata(whole.metadata), order_at(run, step), 0.25)

    yield
    del registry()["smallest-first"]


def runs(text: str, *ablations: str) -> tuple[Experiment, ...]:
    shared = {"data": "digits", "model": "fc-16", "densities": [0.25], "seeds": [0], "recipe": RECIPE}
    return grid(methods=[text], ablations=ablations, **shared)  # type: ignore[arg-type]


def test_it_is_listed_and_printed() -> None:
    found = get_procedure("smallest-first")
    assert found in list_procedures()
    assert dict(found.settings) == {"step": 3, "share": 0.5}
    assert found.summary == "Keep the largest weights of a step."
    assert str(found).splitlines() == [
        "smallest-first: Keep the largest weights of a step.",
        "  paper: A paper, 2021",
        "  needs: training; write foreprune compare --methods smallest-first, or "
        "foreprune.Experiment(method='smallest-first', ...)",
        "  settings: step=3, share=0.5",
        "  ablations: shuffle, widen",
    ]


def test_it_runs_from_the_shared_dense_training(tmp_path: Path) -> None:
    dense, plain, shuffled = runs("smallest-first:step=2", "shuffle")
    assert plain.hyper == {"step": 2}
    records = [
        run_experiment(each, out=tmp_path, snapshots=next(iter(steps_needed([dense, plain]).values())))
        for each in (plain, shuffled, dense)
    ]
    assert [record.error for record in records] == [None, None, None]
    assert records[0].total == 2464
    assert [record.kept for record in records[:2]] == [616] * 2
    masks = [Masks.load(run_folder(tmp_path, each) / "masks.safetensors") for each in (plain, shuffled)]
    assert masks[0] != masks[1]
    assert masks[0].metadata["hyper.step"] == "2"
    assert records[0].seconds_prune == 0.25
    (folder,) = (tmp_path / "dense").iterdir()
    assert sorted(path.name for path in folder.glob("*.safetensors")) == ["end.safetensors", "step-2.safetensors"]


def test_it_is_checked_and_costed() -> None:
    found = runs("smallest-first", "shuffle")
    check(found, data_dir=None)
    assert estimate(found).epochs == 2 * 3 * 2 + 2  # of two runs three trainings each, and the dense one
    assert estimate(found[1:]).epochs == 2 * 3 * 2 + 1.5  # the dense one up to step 3 of 4
    assert {run.hyper.get("step") for run in in_epochs(runs("smallest-first:step=2"), 4)} == {None, 4}
    assert in_epochs(runs("smallest-first:step=1"), 1)[1].hyper == {"step": 1}


@pytest.mark.parametrize(
    ("text", "ablation", "error", "message"),
    [
        ("smallest-frst", (), ValueError, r"unknown method 'smallest-frst'; did you mean 'smallest-first'\?"),
        ("smallest-first:shar=1", (), TypeError, r"'smallest-first' has no setting 'shar'; did you mean 'share'\?"),
        ("smallest-first:share=true", (), TypeError, r"'smallest-first': share must be a number, not True"),
        ("smallest-first:share=2", (), ValueError, r"'smallest-first': share must lie between 0 and 1, not 2"),
        ("smallest-first:step=5", (), ValueError, r"no step 5 in the dense training: it has 4"),
        ("smallest-first@3", (), ValueError, r"'smallest-first' says itself when to prune"),
        ("smallest-first", ("reinit",), ValueError, r"takes no ablation 'reinit'; allowed: none, shuffle, widen"),
    ],
)
def test_errors_say_what_is_allowed(text: str, ablation: tuple[str, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check(runs(text, *ablation), data_dir=None)


def run_command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["foreprune", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0)

    return run


def test_the_command_line_knows_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_command(monkeypatch)
    words = ("--methods", "smallest-first:share=0.3", "--epochs", "2", "--seeds", "1", "--densities", "0.5")
    assert run("compare", *words, "--dry-run") == 0
    assert "_smallest-first_" in capsys.readouterr().out
    assert run("methods", "smallest-first") == 0
    assert "Keep the largest weights of a step." in capsys.readouterr().out


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match=r"a procedure named 'imp' is registered already; choose another name"):
        procedure("imp", paper="")(lambda run: run)
