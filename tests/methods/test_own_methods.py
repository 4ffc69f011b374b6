"""Methods of one's own: functions, ready scores, registered ones, and those of other packages."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from contract.nets import example
from torch import Tensor, nn

import foreprune as fp
from foreprune.core.method import register, registry
from foreprune.methods import as_method


@pytest.fixture
def own_registry() -> Iterator[None]:
    """What a test registers is gone after it."""
    before = {method.name: method for method in fp.list_methods()}
    yield
    methods = registry()
    assert isinstance(methods, dict)
    methods.clear()
    methods.update(before)


def weights_of(given: Any) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in given.model.named_parameters() if name.endswith("weight")}


def largest(net: Any, task: Any, masks: fp.Masks, *, power: float = 1.0) -> dict[str, Tensor]:
    """Keep the largest."""
    return {name: weight.abs() ** power for name, weight in net.weights.items()}


def test_a_function_is_a_method() -> None:
    given = example("mlp")
    masks = fp.prune(given.model, largest, density=0.25)
    assert masks == fp.prune(given.model, "magnitude", density=0.25)
    assert masks.metadata["method"] == "largest"
    assert fp.prune(given.model, largest, density=0.25, power=2, rounds=4, schedule="linear", scope="local").kept == 41
    assert fp.prune(given.model, partial(largest, power=2.0), density=0.25) == masks
    assert fp.prune(given.model, lambda net, task, masks: net.magnitudes, density=0.5, prunable=lambda *_: True).kept
    inverted = fp.prune(given.model, fp.ablations.invert(largest), density=0.75)
    assert not any((inverted[name] & masks[name]).any() for name in masks)
    found = fp.score(given.model, largest, power=2.0)
    assert all(torch.equal(found[name], weight**2) for name, weight in weights_of(given).items())


def test_a_function_may_look_at_what_is_given() -> None:
    given = example("mlp")
    seen: list[Any] = []

    def score(net: Any, task: Any, masks: Any) -> dict[str, Tensor]:
        seen.append((len(task.batches), task.example is not None, task.mean_image is not None))
        return largest(net, task, masks)

    for arguments in ({}, {"inputs": given.x}, {"data": (given.x, given.y)}, {"data": [given.x, given.x, given.x]}):
        fp.prune(given.model, score, density=0.5, **arguments)
    fp.prune(given.model, score, density=0.5, mean_image=torch.ones(6))
    assert seen == [(0, False, False), (0, True, False), (1, True, False), (3, True, False), (0, False, True)]


def test_a_function_that_cuts_the_network_warns_where_it_was_called() -> None:
    def score(net: Any, task: Any, masks: fp.Masks) -> dict[str, Tensor]:
        return {name: weight.abs() * (masks.density > 0.5) for name, weight in net.weights.items()}

    with pytest.warns(fp.LayerCollapse, match="no signal gets through the network any more in round 3 of 4") as got:
        assert fp.prune(example("mlp").model, score, density=0.2, rounds=4).kept == 33
    assert got[0].filename == __file__


def test_registered_functions_stand_for_their_methods() -> None:
    from foreprune.methods.snip import snip

    assert as_method(snip) is fp.get_method("snip")
    with pytest.raises(ValueError, match="method 'snip' needs data"):
        fp.prune(example("mlp").model, snip, density=0.5)


def test_ready_scores() -> None:
    given = example("mlp")
    scores = {name: weight.abs() for name, weight in weights_of(given).items()}
    masks = fp.prune(given.model, scores, density=0.25)
    assert masks == fp.prune(given.model, "magnitude", density=0.25)
    assert masks.metadata["method"] == "scores"
    with pytest.raises(TypeError, match="method 'scores' has no setting 'rounds'; it takes none"):
        fp.prune(given.model, scores, density=0.25, rounds=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"2.weight": None}, "the scores of '2.weight' must be a tensor of shape .8, 10., not NoneType"),
        ({"2.weight": torch.ones(3)}, "the scores of '2.weight' must be a tensor of shape .8, 10., not shape .3,."),
        ({"0.bias": torch.ones(10)}, "the scores have '0.bias', which is no prunable weight; leave it out"),
        ({"2.weight": torch.ones(8, 10, dtype=torch.long)}, "scores of '2.weight' are torch.int64; .* floating point"),
        ({"2.weight": torch.full((8, 10), float("nan"))}, "the scores of '2.weight' are NaN"),
    ],
)
def test_ready_scores_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    given = example("mlp")
    with pytest.raises((TypeError, ValueError), match=message):
        fp.prune(given.model, weights_of(given) | change, density=0.5)


def test_ready_scores_that_lack_a_weight() -> None:
    given = example("mlp")
    scores = weights_of(given)
    del scores["4.weight"]
    for call in (partial(fp.prune, density=0.5), fp.score):
        with pytest.raises(ValueError, match=r"the scores lack '4.weight'; give every prunable weight a tensor"):
            call(given.model, scores)
    assert fp.prune(given.model, scores, density=0.5, prunable="4").kept == 70


def test_functions_that_are_no_scores() -> None:
    model = example("mlp").model
    with pytest.raises(
        TypeError, match=r"a score is a function \(net, task, masks\) -> .*, and <lambda> takes \(model\)"
    ):
        fp.prune(model, lambda model: model, density=0.5)  # type: ignore[arg-type, misc]
    with pytest.raises(TypeError, match="scores must be a mapping from parameter name to tensor, not Tensor"):
        fp.prune(model, lambda net, task, masks: torch.ones(3), density=0.5)  # type: ignore[arg-type, return-value]
    for odd, kind in ((3, "int"), (None, "NoneType"), (torch.ones(3), "Tensor")):
        with pytest.raises(TypeError, match=rf"must be a name such as 'synflow', a Method, a function .* not {kind}"):
            fp.prune(model, odd, density=0.5)  # type: ignore[arg-type]

    def score(net: Any, task: Any, masks: Any, *, rounds: int = 3) -> dict[str, Tensor]:
        raise AssertionError

    with pytest.raises(
        TypeError, match="'score' has a setting 'rounds', which is what the rounds of pruning are set by"
    ):
        fp.prune(model, score, density=0.5)


def test_settings_are_checked_by_whatever_can_be_known_of_them() -> None:
    Local = Literal["a", "b"]

    def score(
        net: Any,
        task: Any,
        masks: Any,
        *,
        bare=1,  # type: ignore[no-untyped-def]
        local: Local = "a",
        maybe: int | None = None,
        names: list[str] | str = "x",
        flag: bool = False,
    ) -> dict[str, Tensor]:
        return largest(net, task, masks)

    def run(**settings: Any) -> fp.Masks:
        return fp.prune(example("mlp").model, score, density=0.5, **settings)

    assert run(bare="anything", local="c", maybe=None, names=["x"], flag=True) == run(maybe=3, names="y")
    with pytest.raises(TypeError, match=r"method 'score': maybe must be a whole number, not 1.5"):
        run(maybe=1.5)
    with pytest.raises(TypeError, match="names must be list or a string, not 3"):
        run(names=3)
    with pytest.raises(TypeError, match="flag must be True or False, not 1"):
        run(flag=1)


@pytest.mark.usefixtures("own_registry")
def test_a_new_method_is_found_by_its_registration() -> None:
    @fp.scorer("smallest", paper="nobody, arXiv:0000.00000", rounds=3)
    def smallest(net: Any, task: Any, masks: Any, *, power: float = 1.0) -> dict[str, Tensor]:
        """Keep the smallest."""
        return {name: -(weight.abs() ** power) for name, weight in net.weights.items()}

    model = example("mlp").model
    record = fp.get_method("smallest")
    assert dict(record.settings) == {"rounds": 3, "schedule": "exponential", "power": 1.0}
    assert record.summary == "Keep the smallest."
    masks = fp.prune(model, "smallest", density=0.25, power=2.0)
    assert masks.kept == 41
    assert not (masks & fp.prune(model, "magnitude", density=0.25)).kept

    @fp.masker("first", exact=False)
    def first(net: Any, task: Any, density: float) -> fp.Masks:
        """Keep the first layer."""
        return fp.Masks({name: torch.full_like(w, name[0] == "0", dtype=torch.bool) for name, w in net.weights.items()})

    assert fp.get_method("first").score is None
    with pytest.warns(fp.LayerCollapse):
        assert fp.prune(model, first, density=0.5).kept == 60


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda net: dict(net.weights), "method 'odd' must return foreprune.Masks, not dict"),
        (
            lambda net: fp.Masks({"2.weight": torch.ones(8, 10).bool()}),
            "the masks of method 'odd' belong to another model: they lack '0.weight'",
        ),
        (
            lambda net: fp.Masks({name: torch.ones(3).bool() for name in net.weights}),
            "the masks of method 'odd' belong to another model: '0.weight' has shape",
        ),
        (
            lambda net: fp.Masks({name: torch.ones_like(w).bool() for name, w in net.weights.items()}),
            "method 'odd' keeps 164 weights where 82 are to be kept; keep as many, or register it with exact=False",
        ),
    ],
)
def test_masks_that_do_not_fit(make: Any, message: str) -> None:
    method = fp.Method("odd", "", "", masks=lambda net, task, density: make(net))
    with pytest.raises((TypeError, ValueError), match=message):
        fp.prune(example("mlp").model, method, density=0.5)


def test_functions_that_cannot_be_methods() -> None:
    model = example("mlp").model
    with pytest.raises(TypeError, match=r"a score is a function .*, and abs does not say what it takes; wrap it"):
        fp.prune(model, torch.abs, density=0.5)
    with pytest.raises(TypeError, match=r"a score is a function .*, and Linear is a class; pass a function"):
        fp.prune(model, nn.Linear, density=0.5)
    with pytest.raises(
        TypeError, match=r"makes masks is a function \(net, task, density\) -> Masks, and m takes \(net\)"
    ):
        fp.masker("m")(lambda net: net)
    with pytest.raises(TypeError, match=r"and s takes \(net, task, masks, \*, k\); settings .* have defaults"):
        fp.scorer("s")(lambda net, task, masks, *, k: net)
    for decorator in (fp.scorer, fp.masker):
        with pytest.raises(
            TypeError, match=r'a method needs a name: write @(scorer|masker)\("my-method"\), not function'
        ):
            decorator(lambda net, task, masks: net)  # type: ignore[arg-type]


def test_a_procedure_is_no_method() -> None:
    with pytest.raises(ValueError, match=r"'imp' trains the network in order to prune it, .*compare --methods imp"):
        fp.prune(example("mlp").model, fp.get_method("imp"), density=0.5)


@pytest.mark.usefixtures("own_registry")
def test_a_name_is_taken_once_and_a_reload_takes_it_again() -> None:
    def other(net: Any, task: Any, masks: Any) -> dict[str, Tensor]:
        raise AssertionError

    with pytest.raises(
        ValueError,
        match=r"named 'snip' is registered already by foreprune.methods.snip.snip; choose another name in .*other",
    ):
        fp.scorer("snip")(other)
    assert fp.get_method("snip").score is not other
    before = fp.get_method("snip")
    importlib.reload(importlib.import_module("foreprune.methods.snip"))
    assert fp.get_method("snip").function is not before.function
    register(fp.get_method("snip"))


def test_a_method_needs_a_score_or_a_way_to_make_masks() -> None:
    with pytest.raises(TypeError, match="method 'x' must have either a score or a function that makes masks"):
        fp.Method("x", "", "")
    with pytest.raises(
        ValueError, match="'x' cannot need 'inputs'; a method may need shape, images, labels, mean image"
    ):
        fp.Method("x", "", "", needs=frozenset({"inputs"}), score=largest)  # type: ignore[arg-type]


PLUGIN = """
import foreprune as fp

@fp.scorer("theirs", paper="arXiv:0000.00001", needs={"labels"})
def theirs(net, task, masks):
    'Keep theirs.'
    return {name: weight.abs() for name, weight in net.weights.items()}
"""
OBJECT = """
from foreprune import Method

def score(net, task, masks):
    return net.weights

METHOD = Method("object", "", "Keep.", score=score)
"""
CLASH = """
import foreprune
foreprune.scorer("snip")(lambda net, task, masks: {})
"""


def test_methods_of_other_packages_are_found(tmp_path: Path) -> None:
    """A broken package is named in one warning, and the others are found all the same."""
    entries = ["broken = no_such_module", "module = theirs_module", "object = object_module:METHOD", "z = clash_module"]
    files = {"theirs_module.py": PLUGIN, "object_module.py": OBJECT, "clash_module.py": CLASH}
    info = tmp_path / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(["[foreprune.methods]", *entries]) + "\n")
    for name, source in files.items():
        (tmp_path / name).write_text(source)
    program = (
        "import warnings, torch, foreprune as fp\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    names = [found.name for found in fp.list_methods()]\n"
        "    fp.list_methods(); fp.get_method('theirs')\n"
        "assert {'theirs', 'object', 'snip'} <= set(names), names\n"
        "assert fp.get_method('snip').function.__module__ == 'foreprune.methods.snip'\n"
        "assert fp.prune(torch.nn.Linear(4, 4), 'object', density=0.5).kept == 8\n"
        "print(*(str(each.message) for each in caught), sep='\\n')"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    said = done.stdout.strip().splitlines()
    assert len(said) == 2, said
    assert said[0].startswith(
        "the methods 'broken' of the package 'their-package' are left out, because no_such_module"
    )
    assert said[0].endswith("update that package or uninstall it")
    assert "clash_module cannot be loaded (ValueError: a method named 'snip' is registered already by" in said[1]
