"""`prune` and `score` as users meet them: what comes back, what is said when something is wrong."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from contract.nets import example
from torch import nn

import foreprune
from foreprune.core import method as method_room
from foreprune.core.method import LayerCollapse, Method, masker, register, scorer


def prune(method: str = "magnitude", **arguments: Any) -> foreprune.Masks:
    return foreprune.prune(example("mlp").model, method, **arguments)


def test_masks_say_where_they_come_from() -> None:
    given = example("mlp")
    masks = prune("grasp", sparsity=0.9, data=(given.x, given.y), seed=np.int64(3), temperature=50.0, scope="local")
    assert masks.metadata == {
        "method": "grasp",
        "density": "0.1",
        "seed": "3",
        "scope": "local",
        "hyper.temperature": "50.0",
    }
    image = torch.ones(6)
    dist = prune("synflow-dist", density=0.5, inputs=given.x, mean_image=image, rounds=2)
    assert "hyper.mean_image" not in dist.metadata
    assert dist.metadata["hyper.rounds"] == "2"


def test_density_sparsity_and_compression_are_one_knob() -> None:
    assert prune(density=0.25) == prune(sparsity=0.75) == prune(compression=4)
    with pytest.raises(TypeError, match=r"give exactly one of density=.* got none"):
        prune()
    with pytest.raises(TypeError, match="got density and sparsity"):
        prune(density=0.5, sparsity=0.5)
    with pytest.raises(ValueError, match=r"density must be in \(0, 1\]"):
        prune(density=0.0)
    with pytest.raises(
        ValueError, match=r"density 0.001 keeps none of 164 weights; the smallest that keeps one is 0.0061"
    ):
        prune(density=0.001)


def test_unknown_methods_suggest_near_ones() -> None:
    with pytest.raises(ValueError, match="unknown method 'synflw'; did you mean 'synflow'"):
        prune("synflw", density=0.5)
    with pytest.raises(ValueError, match=r"unknown method 'zzz'; there are .*\ber, erk, .*\bsynflow, "):
        prune("zzz", density=0.5)
    for wrong in (None, 3, ["snip"]):
        with pytest.raises(TypeError, match="method must be a name such as 'synflow', not"):
            prune(wrong, density=0.5)  # type: ignore[arg-type]


def test_a_record_is_as_good_as_its_name() -> None:
    record = foreprune.method("magnitude")
    assert prune(record, density=0.5) == prune("magnitude", density=0.5)  # type: ignore[arg-type]
    assert prune(record, density=0.5).metadata["method"] == "magnitude"  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"method 'erk' builds masks directly and has no scores; use .*\(model, 'erk'"):
        foreprune.score(example("mlp").model, foreprune.method("erk"))


def test_unknown_hyperparameters_suggest_near_ones() -> None:
    with pytest.raises(TypeError, match="method 'snip' has no hyperparameter 'batch_norm'; did you mean 'batchnorm'"):
        prune("snip", density=0.5, batch_norm="eval")
    with pytest.raises(TypeError, match="method 'synflow' has no hyperparameter 'zzz'; it takes rounds, schedule"):
        prune("synflow", density=0.5, zzz=1)
    with pytest.raises(TypeError, match="method 'random' has no hyperparameter 'rounds'; it takes none"):
        prune("random", density=0.5, rounds=3)
    with pytest.raises(TypeError, match="method 'snip' has no hyperparameter 'rounds'"):
        foreprune.score(example("mlp").model, "snip", rounds=3)


@pytest.mark.parametrize(
    ("method", "hyper", "message"),
    [
        ("synflow", {"rounds": 0}, "rounds must be a whole number of at least 1, not 0"),
        ("synflow", {"schedule": "cosine"}, "schedule must be one of exponential, linear, not 'cosine'"),
        ("synflow-l2", {"form": "l2"}, r'form must be "theta" .* or "theta2" .*, not \'l2\''),
        ("synflow-l2-dist", {"form": "l2", "mean_image": torch.ones(6)}, "form must be"),
        ("grasp", {"keep": "largest"}, 'keep must be "signed", "magnitude" or "inverted", not \'largest\''),
        ("grasp", {"temperature": 0}, "temperature must be positive, not 0"),
        ("grasp", {"temperature": float("nan")}, "temperature must be positive, not nan"),
        ("snip", {"batchnorm": "frozen"}, 'batchnorm must be "train"'),
    ],
)
def test_hyperparameters_that_cannot_be(method: str, hyper: dict[str, Any], message: str) -> None:
    given = example("mlp")
    with pytest.raises(ValueError, match=message):
        prune(method, density=0.5, data=(given.x, given.y), inputs=given.x, **hyper)


def test_missing_data_and_inputs() -> None:
    for method in ("snip", "iterative-snip", "force", "grasp"):
        with pytest.raises(ValueError, match=rf"method '{method}' needs data: pass data=\(x, y\) .*data-free methods"):
            prune(method, density=0.5)
        with pytest.raises(ValueError, match="needs data"):
            prune(method, density=0.5, inputs=torch.zeros(1, 6))
    with pytest.raises(ValueError, match=r"method 'synflow' needs example inputs.*inputs=torch.zeros\(1, 3, 32, 32\)"):
        prune("synflow", density=0.5)
    with pytest.raises(ValueError, match="needs data"):
        foreprune.score(example("mlp").model, "snip")


@pytest.mark.parametrize("seed", [-1, 1.5, "3", True, 2**32, None])
def test_seeds_that_cannot_be(seed: Any) -> None:
    with pytest.raises(ValueError, match=r"seed must be a whole number from 0 to .* not"):
        prune(density=0.5, seed=seed)


def test_scopes_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r'scope must be "global" .* or "local" .*, not \'layer\''):
        prune(density=0.5, scope="layer")
    for method in ("er", "erk", "uniform"):
        with pytest.raises(ValueError, match=f"method '{method}' sets the layer densities itself"):
            prune(method, density=0.5, scope="local")


def test_what_is_no_model() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, not function"):
        foreprune.prune(lambda x: x, "magnitude", density=0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing to prune"):
        foreprune.prune(nn.ReLU(), "magnitude", density=0.5)


@pytest.mark.parametrize(("bad", "kind"), [(float("nan"), "NaN"), (float("inf"), "infinite")])
@pytest.mark.parametrize("scope", ["global", "local"])
def test_scores_that_are_not_finite_name_their_layer(bad: float, kind: str, scope: Any) -> None:
    model = example("mlp").model
    with torch.no_grad():
        model[2].weight[1, 1] = bad
    with pytest.raises(ValueError, match=rf"the scores of '2.weight' are {kind}: look for NaN or infinite weights"):
        foreprune.prune(model, "magnitude", density=0.5, scope=scope)


def test_overflow_in_half_precision_says_so() -> None:
    model = example("mlp").model.half()
    with torch.no_grad():
        model[4].weight.fill_(60000.0)
        model[4].bias.fill_(1.0)
    x, y = torch.ones(3, 6).half(), torch.tensor([0, 1, 2])
    with pytest.raises(ValueError, match=r"are (NaN|infinite): .*overflow in torch.float16 \(try model.double\(\)"):
        foreprune.prune(model, "snip", density=0.5, data=(x, y), loss=lambda output, y: (output * 1e4).sum())


@pytest.mark.parametrize("scope", ["global", "local"])
def test_scores_that_are_all_zero(scope: Any) -> None:
    model = example("mlp").model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    given = example("mlp")
    for method in ("magnitude", "snip", "synflow"):
        with pytest.raises(ValueError, match="every score is zero, so no weight is better than another: no signal"):
            foreprune.prune(model, method, density=0.5, scope=scope, data=(given.x, given.y), inputs=given.x)


def test_collapse_warns_and_names_the_layers() -> None:
    model = example("mlp").model
    with torch.no_grad():
        model[0].weight.mul_(1e-9)
    with pytest.warns(
        LayerCollapse, match="leaves no weight in 1 of 3 layers: 0.weight; keep more, or exclude them"
    ) as got:
        foreprune.prune(model, "magnitude", density=0.1)
    assert got[0].filename == __file__


def test_an_iterative_method_that_cuts_the_network_still_keeps_the_count() -> None:
    """When no signal is left in a later round, the last scores that had one decide about the rest."""
    given = example("mlp")
    seen: list[int] = []

    def score(net: Any, task: Any, masks: foreprune.Masks) -> dict[str, torch.Tensor]:
        seen.append(masks.kept)
        scale = 1.0 if masks.density > 0.5 else 0.0
        return {name: scale * weight.abs() for name, weight in net.weights.items()}

    from foreprune.core.method import by_score
    from foreprune.core.net import Net
    from foreprune.core.task import Task

    net = Net.of(given.model)
    task = Task((), None, None, torch.Generator())
    with pytest.warns(
        LayerCollapse, match=r"no signal gets through the network any more in round 3 of 4, at density 0\.\d+"
    ):
        masks = by_score(score, net, task, 0.2, rounds=4)
    assert masks.kept == round(0.2 * net.total)
    assert len(seen) == 3
    weights = torch.cat([weight.abs().flatten() for weight in net.weights.values()])
    kept = torch.cat([mask.flatten() for mask in masks.values()])
    assert weights[kept].min() >= weights[~kept].max()


def test_score_of_methods_that_have_none() -> None:
    with pytest.raises(
        ValueError, match=r"method 'erk' builds masks directly and has no scores; use prune\(model, 'erk', ...\)"
    ):
        foreprune.score(example("mlp").model, "erk")


def test_progress_is_called_after_every_round_and_may_stop_the_run() -> None:
    given = example("mlp")
    calls: list[tuple[int, int]] = []

    def progress(done: int, rounds: int) -> None:
        calls.append((done, rounds))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune("synflow", density=0.5, inputs=given.x, rounds=5, progress=progress)
    assert calls == [(1, 5), (2, 5)]


def test_methods_by_pattern_and_by_name() -> None:
    names = [method.name for method in foreprune.methods()]
    assert names == sorted(names)
    assert [method.name for method in foreprune.methods("synflow*")] == sorted(
        n for n in names if n.startswith("synflow")
    )
    assert foreprune.methods("zzz") == ()
    record = foreprune.method("snip")
    assert record.name == "snip"
    assert "needs: data with labels" in str(record)
    assert "needs: example inputs" in str(foreprune.method("synflow"))
    assert "needs: nothing but the model\n  hyperparameters: none" in str(foreprune.method("magnitude"))


def test_methods_can_be_listed_whatever_was_imported_before() -> None:
    """The package `foreprune.methods` takes the place of the public function of that name when it is imported."""
    program = (
        "import foreprune; foreprune.prune; assert len(foreprune.methods()) > 10; "
        "assert foreprune.methods('snip')[0].name == 'snip'; import foreprune.methods as room; room.method('snip'); "
        "import foreprune.methods.snip; assert len(foreprune.methods('syn*')) > 3"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.fixture
def empty_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(method_room, "_REGISTRY", dict(method_room._REGISTRY))


@pytest.mark.usefixtures("empty_registry")
def test_a_new_method_is_found_by_its_registration() -> None:
    @scorer("smallest", paper="nobody, arXiv:0000.00000", rounds=3)
    def smallest(net: Any, task: Any, masks: Any, *, power: float = 1.0) -> dict[str, torch.Tensor]:
        """Keep the smallest."""
        return {name: -(weight.abs() ** power) for name, weight in net.weights.items()}

    record = foreprune.method("smallest")
    assert dict(record.hyper) == {"rounds": 3, "schedule": "exponential", "power": 1.0}
    assert record.summary == "Keep the smallest."
    masks = prune("smallest", density=0.25, power=2.0)
    assert masks.kept == 41
    assert not (masks & prune("magnitude", density=0.25)).kept

    @masker("first", paper="nobody")
    def first(net: Any, task: Any, density: float) -> foreprune.Masks:
        """Keep the first layer."""
        return foreprune.Masks(
            {name: torch.full_like(w, name[0] == "0", dtype=torch.bool) for name, w in net.weights.items()}
        )

    assert foreprune.method("first").score is None
    with pytest.raises(ValueError, match="a method named 'first' is registered already; choose another name"):
        register(foreprune.method("first"))
    assert isinstance(foreprune.method("first"), Method)


def test_public_names_resolve_and_others_say_what_there_is() -> None:
    module = importlib.import_module("foreprune")
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert name in dir(module)
    with pytest.raises(AttributeError, match="module 'foreprune' has no attribute 'zzz'; it has Experiment, "):
        _ = module.zzz
