"""Every method, on every network: exact counts, masks that fit, masks that only shrink."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from contract.nets import NETS, example, refusals

import foreprune
from foreprune.core import net as net_room
from foreprune.core.by_score import by_score
from foreprune.core.masks import Masks
from foreprune.core.method import Method
from foreprune.core.net import Net
from foreprune.core.task import task_for

pytestmark = pytest.mark.filterwarnings(
    "ignore::foreprune.LayerCollapse", "ignore::foreprune.core.unscored.UnscoredBlocks"
)
METHODS = [pytest.param(method, id=method.name) for method in foreprune.list_methods()]
SCORED = [pytest.param(method, id=method.name) for method in foreprune.list_methods() if method.score is not None]
ITERATIVE = [pytest.param(method, id=method.name) for method in foreprune.list_methods() if "rounds" in method.settings]


def assert_count(method: Method, masks: Masks, density: float) -> None:
    wanted = round(density * masks.total)
    if method.exact:
        assert masks.kept == wanted
    else:  # whole paths: off by less than one of them
        assert abs(masks.kept - wanted) < 2 * len(masks)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("method", METHODS)
def test_exactly_round_density_times_total_is_kept(method: Method, name: str) -> None:
    given = example(name)
    net = Net.of(given.model)
    scopes = ("global", "local") if method.score else ("global",)
    for scope in scopes:
        for density in (1 / net.total, 0.103, 0.5, 1.0):
            with refusals(method, skip=True):
                masks = foreprune.prune(
                    given.model, method.name, density=density, scope=scope, **given.arguments(method)
                )
            assert_count(method, masks, density)
            assert masks.shapes == {key: tuple(weight.shape) for key, weight in net.weights.items()}


@pytest.mark.parametrize("method", SCORED)
def test_local_scope_keeps_the_same_fraction_of_every_layer(method: Method) -> None:
    given = example("residual")
    masks = foreprune.prune(given.model, method.name, density=0.3, scope="local", **given.arguments(method))
    for name, (kept, total) in masks.layer_counts().items():
        assert abs(kept - 0.3 * total) < 1, name


@pytest.mark.parametrize("method", [param for param in METHODS if param.values[0].score is None])
def test_methods_that_set_layer_densities_refuse_a_local_scope(method: Method) -> None:
    given = example("mlp")
    with pytest.raises(ValueError, match='sets the layer densities itself; leave scope="global"'):
        foreprune.prune(given.model, method.name, density=0.5, scope="local", **given.arguments(method))


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("method", SCORED)
def test_exact_count_when_all_scores_are_equal(method: Method, scope: Any) -> None:
    given = example("conv")
    net = Net.of(given.model)

    def equal(net: Net, task: Any, masks: Masks, **hyper: Any) -> dict[str, torch.Tensor]:
        assert method.score is not None
        return {key: torch.ones_like(value) for key, value in method.score(net, task, masks, **hyper).items()}

    hyper = {key: value for key, value in given.arguments(method).items() if key == "rounds"}
    task = _task(method, net, given)
    for density in (1 / net.total, 0.2, 0.999):
        masks = by_score(equal, net, task, density, scope=scope, **hyper)
        assert masks.kept == round(density * net.total)


@pytest.mark.parametrize("method", METHODS)
def test_exact_count_when_all_weights_are_equal(method: Method) -> None:
    given = example("mlp")
    with torch.no_grad():
        for index, parameter in enumerate(given.model.parameters()):
            parameter.fill_(0.1 + 0.01 * index)
        given.model[4].weight.copy_(torch.tensor([0.1, 0.2, 0.3])[:, None].expand(3, 8))  # or the loss has no slope
    for density in (0.05, 0.5):
        masks = foreprune.prune(given.model, method.name, density=density, **given.arguments(method))
        assert_count(method, masks, density)


@pytest.mark.parametrize("name", ["mlp", "residual", "tied"])
@pytest.mark.parametrize("method", ITERATIVE)
def test_masks_only_shrink_unless_the_method_revives(
    method: Method, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = example(name)
    rounds = _record_rounds(monkeypatch)
    foreprune.prune(given.model, method.name, density=0.05, **{**given.arguments(method), "rounds": 6})
    total = rounds[0].total
    before_the_last = [total - int((1 - 0.05 ** (k / 6)) * total) for k in range(1, 6)]
    assert [masks.kept for masks in rounds] == [*before_the_last, round(0.05 * total)]
    shrinking = all(later & earlier == later for earlier, later in itertools.pairwise(rounds))
    if not method.revives:
        assert shrinking


def test_force_revives_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    given = example("mlp")
    rounds = _record_rounds(monkeypatch)
    foreprune.prune(given.model, "force", density=0.05, data=(given.x, given.y), rounds=10)
    assert any(later & earlier != later for earlier, later in itertools.pairwise(rounds))


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("revives", [False, True])
def test_scores_that_change_from_round_to_round_revive_nothing(
    revives: bool, scope: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random or signed scores may put a pruned weight above a living one; only FORCE means it."""
    given = example("mlp")
    net = Net.of(given.model)
    seen: list[Masks] = []

    def score(net: Net, task: Any, masks: Masks) -> dict[str, torch.Tensor]:
        seen.append(masks)
        return {name: torch.randn(w.shape, generator=task.generator) for name, w in net.weights.items()}

    task = _task(foreprune.get_method("random"), net, given)
    seen.append(by_score(score, net, task, 0.2, rounds=6, scope=scope, revives=revives))
    shrinking = all(later & earlier == later for earlier, later in itertools.pairwise(seen))
    assert shrinking != revives
    assert seen[-1].kept == round(0.2 * net.total)


@pytest.mark.parametrize("method", ITERATIVE)
def test_the_default_number_of_rounds_is_run(method: Method) -> None:
    """A default that is only documented would make every iterative method a one-shot method."""
    given = example("mlp")
    seen: list[tuple[int, int]] = []
    arguments = {key: value for key, value in given.arguments(method).items() if key != "rounds"}
    foreprune.prune(
        given.model, method.name, density=0.5, progress=lambda done, rounds: seen.append((done, rounds)), **arguments
    )
    wanted = method.settings["rounds"]
    assert seen == [(done, wanted) for done in range(1, wanted + 1)]


def test_settings_default_to_those_of_the_papers() -> None:
    iterative = {"schedule": "exponential"}
    paths = {"batchnorm": "scale", "precision": "double", **iterative}
    papers: dict[str, dict[str, Any]] = {
        "er": {},
        "erk": {},
        "force": {"rounds": 60, "batchnorm": "train", **iterative},
        "grasp": {"keep": "signed", "temperature": None, "batchnorm": "train"},
        "iterative-snip": {"rounds": 100, "batchnorm": "train", **iterative},
        "magnitude": {},
        "random": {},
        "snip": {"batchnorm": "train"},
        "synflow": {"rounds": 100, **paths},
        "synflow-dist": {"rounds": 100, **paths},
        "synflow-l2": {"rounds": 100, "form": "theta", **paths},
        "synflow-l2-dist": {"rounds": 100, "form": "theta", **paths},
        "uniform": {},
    }
    registered = {method.name: dict(method.settings) for method in foreprune.list_methods()}
    assert {name: registered[name] for name in papers} == papers


@pytest.mark.parametrize("method", METHODS)
def test_every_method_says_what_it_is(method: Method) -> None:
    assert method.name == method.name.lower()
    assert "arXiv" in method.paper
    assert method.summary.endswith(".")
    assert method.needs <= {"shape", "images", "labels", "mean image"}
    assert method.paper in str(method)
    for name in method.settings:
        assert name in str(method)


def _record_rounds(monkeypatch: pytest.MonkeyPatch) -> list[Masks]:
    rounds: list[Masks] = []
    original = net_room.keep_best

    def recording(*args: Any, **kwargs: Any) -> Masks:
        rounds.append(original(*args, **kwargs))
        return rounds[-1]

    monkeypatch.setattr(net_room, "keep_best", recording)
    return rounds


def _task(method: Method, net: Net, given: Any) -> Any:
    arguments = {key: value for key, value in given.arguments(method).items() if key != "rounds"}
    return task_for(net, method.needs, asking=method.name, **arguments)
