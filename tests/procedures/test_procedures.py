"""What procedures are, and what they refuse."""

from __future__ import annotations

import subprocess
import sys

import pytest

from foreprune.methods import list_methods
from foreprune.procedures import (
    check_procedure,
    get_procedure,
    list_procedures,
    settings_of,
)
from foreprune.records import Experiment


def experiment(method: str = "snip", **changes: object) -> Experiment:
    base = {"data": "digits", "model": "fc-16", "method": method, "density": 1.0 if method == "dense" else 0.5}
    return Experiment.model_validate(base | changes)


def test_names_are_their_own() -> None:
    names = [found.name for found in list_procedures()]
    assert names == ["gmp", "imp", "ltr", "magnitude-after"]
    assert not set(names) & {found.name for found in list_methods()}
    assert settings_of(experiment("imp", hyper={"rate": 0.5})) == {"rewind_to": 0, "rate": 0.5}
    assert settings_of(experiment("snip")) == {}
    with pytest.raises(ValueError, match=r"^unknown procedure 'lrt'; did you mean 'ltr'\? known: gmp, imp, ltr, "):
        get_procedure("lrt")
    with pytest.raises(ValueError, match=r"^unknown procedure 'snip'; known: gmp, imp, ltr, magnitude-after$"):
        get_procedure("snip")


def test_printed_they_say_that_they_train() -> None:
    text = str(get_procedure("imp"))
    assert text.startswith("imp: Iterative magnitude pruning: train, remove the smallest")
    for line in (
        "  paper: Frankle & Carbin, ICLR 2019, arXiv:1803.03635; Frankle et al., ICML 2020, arXiv:1912.05671",
        "  needs: training; write foreprune compare --methods imp, or foreprune.Experiment(method='imp', ...)",
        "  settings: rewind_to=0, rate=0.2",
        "  ablations: shuffle, reinit, reinit-layer, reinit-neuron, widen",
    ):
        assert line in text.splitlines()
    assert "  settings: none\n" in str(get_procedure("magnitude-after"))
    assert str(get_procedure("gmp")).endswith("  ablations: none")


def test_no_torch_is_needed_to_read_them() -> None:
    program = "import sys, foreprune.procedures as p; print(*p.list_procedures()); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"method": "ltr", "hyper": {"rewind": 3}},
            TypeError,
            r"procedure 'ltr' has no setting 'rewind'; did you mean 'rewind_to'\?",
        ),
        (
            {"method": "magnitude-after", "hyper": {"rounds": 3}},
            TypeError,
            r"procedure 'magnitude-after' has no setting 'rounds'; it takes none",
        ),
        (
            {"method": "ltr", "hyper": {"rewind_to": -1}},
            ValueError,
            r"rewind_to must be an optimizer step of the dense training, a whole number from 0 on, not -1",
        ),
        ({"method": "ltr", "hyper": {"rewind_to": 2.0}}, TypeError, r"rewind_to must be a whole number, not 2.0"),
        ({"method": "ltr", "hyper": {"rewind_to": True}}, TypeError, r"rewind_to must be a whole number, not True"),
        ({"method": "imp", "hyper": {"rate": 1}}, ValueError, r"'imp': rate must be .* between 0 and 1, not 1"),
        ({"method": "imp", "hyper": {"rate": "fast"}}, TypeError, r"'imp': rate must be a number, not 'fast'"),
        ({"method": "gmp", "hyper": {"every": 0}}, ValueError, r"every must be .*, at least 1, not 0"),
        ({"method": "gmp", "hyper": {"end": 1.5}}, ValueError, r"end must be a fraction of training, .* not 1.5"),
        ({"method": "gmp", "hyper": {"begin": None}}, TypeError, r"'gmp': begin must be a number, not None"),
        ({"method": "gmp", "hyper": {"begin": -0.5}}, ValueError, r"begin must be a fraction of training, .* not -0.5"),
        ({"method": "gmp", "hyper": {"begin": 0.8}}, ValueError, r"begin=0.8 lies after end=0.75; both are fractions"),
        ({"method": "gmp", "ablation": "shuffle"}, ValueError, r"takes no ablation 'shuffle'; allowed: none$"),
        (
            {"method": "imp", "ablation": "invert"},
            ValueError,
            r"'imp' takes no ablation 'invert'; allowed: none, shuffle, reinit, reinit-layer, reinit-neuron, widen$",
        ),
        (
            {"method": "ltr", "prune_at": 5},
            ValueError,
            r"procedure 'ltr' says itself when to prune: prune_at must be 0, not 5",
        ),
    ],
)
def test_errors_say_what_is_allowed(changes: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_procedure(experiment(**changes))  # type: ignore[arg-type]


def test_what_fits_passes() -> None:
    for found in list_procedures():
        for ablation in ("none", *found.ablations):
            check_procedure(experiment(found.name, ablation=ablation, hyper=dict(found.settings)))
    check_procedure(experiment("snip", prune_at=7, ablation="invert"))
    check_procedure(experiment("gmp", hyper={"begin": 0, "end": 0, "every": 1}))
