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
from foreprune.core.by_score import LayerCollapse


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
        "parameters": "185",
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
    with pytest.raises(ValueError, match=r"unknown method 'zzz'; known: er, erk, .*, synflow, .*, uniform, gmp, imp, "):
        prune("zzz", density=0.5)
    for wrong in (None, 3, ["snip"]):
        with pytest.raises(
            TypeError, match=r"method must be a name such as 'synflow', a Method, .* not (NoneType|int|list)"
        ):
            prune(wrong, density=0.5)  # type: ignore[arg-type]


def test_a_record_is_as_good_as_its_name() -> None:
    record = foreprune.get_method("magnitude")
    assert prune(record, density=0.5) == prune("magnitude", density=0.5)  # type: ignore[arg-type]
    assert prune(record, density=0.5).metadata["method"] == "magnitude"  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"method 'erk' builds masks directly and has no scores; use .*\(model, 'erk'"):
        foreprune.score(example("mlp").model, foreprune.get_method("erk"))


def test_unknown_settings_suggest_near_ones() -> None:
    with pytest.raises(TypeError, match="method 'snip' has no setting 'batch_norm'; did you mean 'batchnorm'"):
        prune("snip", density=0.5, batch_norm="eval")
    with pytest.raises(TypeError, match="method 'synflow' has no setting 'zzz'; it takes rounds, schedule"):
        prune("synflow", density=0.5, zzz=1)
    with pytest.raises(TypeError, match="method 'random' has no setting 'rounds'; it takes none"):
        prune("random", density=0.5, rounds=3)
    with pytest.raises(TypeError, match="method 'snip' has no setting 'rounds'"):
        foreprune.score(example("mlp").model, "snip", rounds=3)
    with pytest.raises(TypeError, match="method 'synflow' takes no mean_image; leave it out, or use 'synflow-dist'"):
        prune("synflow", density=0.5, inputs=torch.zeros(1, 6), mean_image=torch.ones(6))


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("synflow", {"rounds": 0}, "rounds must be a whole number of at least 1, not 0"),
        ("synflow", {"rounds": 2.5}, "method 'synflow': rounds must be a whole number, not 2.5"),
        ("synflow", {"rounds": True}, "rounds must be a whole number, not True"),
        (
            "synflow",
            {"schedule": "cosine"},
            "method 'synflow': schedule must be one of 'exponential', 'linear', not 'cosine'",
        ),
        ("synflow-l2", {"form": "l2"}, "method 'synflow-l2': form must be one of 'theta', 'theta2', not 'l2'"),
        ("synflow-l2-dist", {"form": None, "mean_image": torch.ones(6)}, "form must be .* not None"),
        ("grasp", {"keep": "best"}, "'grasp': keep must be one of 'signed', 'magnitude', 'inverted', not 'best'"),
        ("grasp", {"temperature": "hot"}, "method 'grasp': temperature must be a number, not 'hot'"),
        ("grasp", {"temperature": True}, "method 'grasp': temperature must be a number, not True"),
        ("grasp", {"temperature": 0}, "method 'grasp': temperature must be positive, not 0"),
        ("grasp", {"temperature": float("nan")}, "method 'grasp': temperature must be finite, not nan"),
        ("snip", {"batchnorm": "frozen"}, "method 'snip': batchnorm must be one of 'train', 'eval', not 'frozen'"),
    ],
)
def test_settings_that_cannot_be(method: str, settings: dict[str, Any], message: str) -> None:
    given = example("mlp")
    with pytest.raises((TypeError, ValueError), match=message):
        prune(method, density=0.5, data=(given.x, given.y), inputs=given.x, **settings)


def test_whole_numbers_are_numbers_and_numpy_has_them_too() -> None:
    given = example("mlp")
    data = (given.x, given.y)
    wanted = prune("grasp", density=0.3, data=data, temperature=50.0)
    assert prune("grasp", density=0.3, data=data, temperature=50) == wanted
    assert prune("grasp", density=0.3, data=data, temperature=np.float32(50)) == wanted
    assert prune("synflow", density=0.3, inputs=given.x, rounds=np.int64(3)).kept == round(0.3 * 164)


def test_settings_are_checked_before_anything_runs() -> None:
    def fail(*_: Any) -> None:
        raise AssertionError

    given = example("mlp")
    given.model.register_forward_hook(fail)
    for call in (foreprune.prune, foreprune.score):
        density = {"density": 0.5} if call is foreprune.prune else {}
        with pytest.raises(TypeError, match="temperature must be a number"):
            call(given.model, "grasp", data=(given.x, given.y), temperature="hot", **density)  # type: ignore[operator]


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
    with pytest.raises(ValueError, match=r"'synflow-dist' needs the mean image of the data: pass mean_image= .* data="):
        prune("synflow-dist", density=0.5, inputs=torch.zeros(1, 6))


def test_images_do_where_labels_are_not_looked_at() -> None:
    given = example("mlp")
    wanted = prune("px", density=0.3, data=(given.x, given.y), rounds=3)
    halves = [given.x[:4], given.x[4:]]
    for data in (given.x, (given.x, -given.y), [given.x], iter(halves), [(half, None) for half in halves]):
        assert prune("px", density=0.3, data=data, rounds=3) == wanted
    image = prune("synflow-dist", density=0.3, inputs=given.x, mean_image=given.x.mean(0), rounds=3)
    assert prune("synflow-dist", density=0.3, data=given.x, rounds=3) == image
    with pytest.raises(TypeError, match=r"data must be a batch \(input, target\)"):
        prune("snip", density=0.3, data=given.x)


@pytest.mark.parametrize("seed", [-1, 1.5, "3", True, 2**32, None])
def test_seeds_that_cannot_be(seed: Any) -> None:
    with pytest.raises(ValueError, match=r"seed must be a whole number from 0 to .* not"):
        prune(density=0.5, seed=seed)


def test_progress_that_cannot_be_called() -> None:
    with pytest.raises(TypeError, match=r"progress must be callable as progress\(done, rounds\), not bool"):
        prune(density=0.5, progress=True)


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
        with pytest.raises(ValueError, match=r"every score is zero, so no weight .*: no signal .* exclude"):
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

    from foreprune.core.by_score import by_score
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
    names = [method.name for method in foreprune.list_methods()]
    assert names == sorted(names)
    assert [method.name for method in foreprune.list_methods("synflow*")] == sorted(
        n for n in names if n.startswith("synflow")
    )
    assert foreprune.list_methods("zzz") == ()
    record = foreprune.get_method("snip")
    assert record.name == "snip"
    assert "needs: data with labels\n" in str(record)
    assert "needs: example inputs" in str(foreprune.get_method("synflow"))
    assert "needs: data (labels are not looked at)\n" in str(foreprune.get_method("px"))
    assert "counts) and the mean image of the data\n" in str(foreprune.get_method("synflow-dist"))
    assert "needs: nothing but the model\n  settings: none" in str(foreprune.get_method("magnitude"))


def test_procedures_answer_too_and_are_not_run() -> None:
    assert foreprune.get_method("imp").name == "imp"
    for call in (lambda: prune("imp", density=0.5), lambda: foreprune.score(example("mlp").model, "imp")):
        with pytest.raises(
            ValueError, match=r"'imp' trains the network in order to prune it, .* compare --methods imp"
        ):
            call()
    with pytest.raises(ValueError, match="unknown method 'magnitude-aftr'; did you mean 'magnitude-after'"):
        foreprune.get_method("magnitude-aftr")


def test_methods_work_without_the_room_of_procedures() -> None:
    program = (
        "import sys; sys.modules['foreprune.procedures'] = None; import foreprune\n"
        "assert foreprune.get_method('snip').name == 'snip'\n"
        "try: foreprune.get_method('imp')\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("unknown method 'imp'; ")
    assert done.stdout.endswith(", uniform\n")


def test_public_names_resolve_and_others_say_what_there_is() -> None:
    module = importlib.import_module("foreprune")
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert name in dir(module)
    with pytest.raises(AttributeError, match="module 'foreprune' has no attribute 'zzz'; it has Experiment, "):
        _ = module.zzz
