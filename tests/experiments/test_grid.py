from __future__ import annotations

import pytest

from foreprune.experiments import grid, parse_density, parse_method, parse_timed_method, shortened
from foreprune.training.recipes import Recipe


def test_methods_with_settings() -> None:
    assert parse_method("snip") == ("snip", {})
    assert parse_method("grasp:keep=magnitude,temperature=1,x=true,y=null") == (
        "grasp",
        {"keep": "magnitude", "temperature": 1, "x": True, "y": None},
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [("snip:batchnorm", "not of the form name=value"), ("snip:=1", "not of the form"), ("a:b=1,b=2", "sets 'b' twice")],
)
def test_bad_settings_are_explained(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_method(text)


def test_densities_with_patterns() -> None:
    assert parse_density(()) is None
    assert parse_density(("0.1",)) == 0.1
    found = parse_density(("head=1", "0.1", "re:a=b=.5", "*.qkv[q,k]=5e-1"))
    assert found == {"head": 1.0, "*": 0.1, "re:a=b": 0.5, "*.qkv[q,k]": 0.5}
    assert isinstance(found, dict)
    assert list(found) == ["head", "*", "re:a=b", "*.qkv[q,k]"]  # the first that fits decides
    assert parse_density(("head=1",)) == {"head": 1.0}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("tenth",), "^density 'tenth' is neither a number nor PATTERN=NUMBER; write e.g. 0.1 "),
        (("head=",), "density 'head=' is neither"),
        (("=0.1",), "density '=0.1' is neither"),
        (("head=nan",), "density 'head=nan' is neither"),
        (("0.1", "0.2"), "^density has two numbers for what no pattern fits, 0.1 and 0.2; keep one$"),
        (("head=1", "head=0.5"), "^density has two numbers for 'head', 1 and 0.5; keep one$"),
    ],
)
def test_densities_that_cannot_be_read(texts: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_density(texts)


def test_the_step_to_prune_at_follows_the_name() -> None:
    assert parse_timed_method("snip") == ("snip", {}, 0)
    assert parse_timed_method("snip@1000") == ("snip", {}, 1000)
    assert parse_timed_method("grasp@20:keep=magnitude") == ("grasp", {"keep": "magnitude"}, 20)
    assert parse_timed_method("m:bias=a@b") == ("m", {"bias": "a@b"}, 0)


@pytest.mark.parametrize("text", ["snip@", "snip@end", "snip@-1", "snip@1e3", "snip@1.5", "snip@1@2"])
def test_a_step_that_is_no_number_is_explained(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no optimizer step; write e\.g\. snip@1000"):
        parse_timed_method(text)


def test_milestones_keep_their_place() -> None:
    full = Recipe(epochs=160, schedule="milestones", milestones=(80, 120), warmup_epochs=8)
    short = shortened(full, 16)
    assert (short.epochs, short.milestones, short.warmup_epochs) == (16, (8, 12), 0.8)
    assert shortened(full, 160) is full
    tiny = shortened(full, 1)
    assert tiny.epochs == 1
    assert all(0 < mark <= 1 for mark in tiny.milestones)
    assert shortened(Recipe(epochs=20), 5).epochs == 5
    none = shortened(full, 0)
    assert (none.epochs, none.schedule, none.milestones) == (0, "constant", ())
    with pytest.raises(ValueError, match="epochs must be at least 0"):
        shortened(full, -1)


def test_grid_has_each_run_once_and_the_dense_ones_first() -> None:
    runs = grid(
        data="digits",
        model="m",
        methods=["random", "snip", "dense", "snip", "snip:batchnorm=eval"],
        densities=[0.1, 0.5],
        seeds=range(3),
        recipe=Recipe(),
    )
    assert [run.method for run in runs[:3]] == ["dense"] * 3
    assert len(runs) == 3 + 3 * 2 * 3
    assert len({run.id for run in runs}) == len(runs)
    assert [run.seed for run in runs[3:]] == sorted(run.seed for run in runs[3:])
    ablated = grid(
        data="d",
        model="m",
        methods=["snip"],
        densities=[0.1],
        seeds=[0],
        recipe=Recipe(),
        ablations=["shuffle", "invert"],
    )
    assert [run.ablation for run in ablated] == ["none", "none", "shuffle", "invert"]
    with pytest.raises(ValueError, match="nothing to run"):
        grid(data="d", model="m", methods=[], densities=[0.1], seeds=[0], recipe=Recipe())


def test_grid_of_late_and_widened_runs() -> None:
    runs = grid(
        data="d",
        model="m",
        methods=["snip@100", "snip"],
        densities=[0.1],
        seeds=[0],
        recipe=Recipe(),
        ablations=["widen:0.5"],
    )
    assert [(run.method, run.prune_at, run.ablation, run.widen) for run in runs] == [
        ("dense", 0, "none", 1.0),
        ("snip", 100, "none", 1.0),
        ("snip", 100, "widen", 0.5),
        ("snip", 0, "none", 1.0),
        ("snip", 0, "widen", 0.5),
    ]
