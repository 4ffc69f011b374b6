"""The time left, from made-up runs with whole numbers."""

from __future__ import annotations

import pytest

from foreprune.records import Experiment
from foreprune.runner.remaining import RunProgress, seconds_left, work
from foreprune.training.recipes import Recipe


def run(
    method: str = "snip", *, epochs: int = 9, model: str = "a", data: str = "digits", density: float = 0.5
) -> Experiment:
    settings = {"data": data, "model": model, "method": method, "density": 1.0 if method == "dense" else density}
    return Experiment.model_validate({**settings, "recipe": Recipe(epochs=epochs)})


def whole(experiment: Experiment, seconds: float) -> RunProgress:
    return RunProgress(experiment, done=1.0, measured=1.0, seconds=seconds)


def test_the_work_of_a_run_is_its_epochs_and_one_dense_or_pruned() -> None:
    assert [work(run(epochs=9)), work(run("dense", epochs=9)), work(run(density=0.01, epochs=0))] == [10.0, 10.0, 1.0]


def test_nothing_is_known_at_first_and_nothing_left_at_last() -> None:
    assert seconds_left([RunProgress(run()), RunProgress(run())], at_a_time=2) is None
    assert seconds_left([whole(run(), 5.0)], at_a_time=2) == 0.0
    assert seconds_left([], at_a_time=1) == 0.0
    # runs that were skipped or failed say nothing
    assert seconds_left([RunProgress(run(), done=1.0), RunProgress(run())], at_a_time=1) is None


def test_runs_count_by_their_epochs() -> None:
    done = whole(run(epochs=9), 20.0)  # 2 seconds for each of 10
    assert seconds_left([done, RunProgress(run(epochs=49))], at_a_time=1) == 100.0
    rest = [RunProgress(run(epochs=9)), RunProgress(run(epochs=9)), RunProgress(run(epochs=9))]
    assert seconds_left([done, *rest], at_a_time=1) == 60.0
    assert seconds_left([done, *rest], at_a_time=3) == 20.0
    assert seconds_left([done, *rest[:2]], at_a_time=4) == 20.0  # one run cannot be divided


def test_a_run_under_way_tells_its_pace_and_counts_for_what_is_left_of_it() -> None:
    under_way = RunProgress(run(epochs=9), done=0.5, measured=0.5, seconds=30.0)
    assert seconds_left([under_way], at_a_time=1) == 30.0
    # continued at 0.4: what came before took no time now
    continued = RunProgress(run(epochs=9), done=0.5, measured=0.1, seconds=30.0)
    assert seconds_left([continued], at_a_time=1) == 150.0


def test_time_that_has_passed_is_behind_a_run() -> None:
    done = whole(run(), 50.0)
    assert seconds_left([done, RunProgress(run(), since=20.0)], at_a_time=1) == 30.0
    assert (
        seconds_left([done, RunProgress(run(), done=0.5, measured=0.5, seconds=25.0, since=5.0)], at_a_time=1) == 20.0
    )
    assert seconds_left([done, RunProgress(run(), since=70.0)], at_a_time=1) == 0.0


def test_the_pace_is_that_of_the_runs_most_alike() -> None:
    known = [whole(run("snip"), 10.0), whole(run("synflow"), 30.0), whole(run("snip", model="b"), 100.0)]
    for experiment, seconds in (
        (run("snip", density=0.1), 10.0),
        (run("synflow"), 30.0),
        (run("grasp"), 20.0),  # both methods on that network
        (run("grasp", model="b"), 100.0),
        (run("grasp", model="c"), 140.0 / 3),  # all
        (run("snip", data="mnist"), 140.0 / 3),
    ):
        assert seconds_left([*known, RunProgress(experiment)], at_a_time=1) == pytest.approx(seconds, rel=1e-12)
