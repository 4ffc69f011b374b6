"""What the driver makes of what Ray and its tasks say. Ray is a fake here, so every order of events can be had."""

from __future__ import annotations

import errno
import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foreprune.records import RECORD, Epoch, Experiment, Record, read_records, run_folder, write_record
from foreprune.runner import Event, ray_task, run_all
from foreprune.runner.executor import Death, Started, Trouble
from foreprune.runner.locks import locked
from foreprune.training.recipes import Recipe

run_on_ray = functools.partial(run_all, executor="ray")


class RayError(Exception):
    cause: BaseException | None = None


class RayTaskError(RayError):
    def __init__(self, cause: BaseException) -> None:
        super().__init__(f"traceback of {cause}")
        self.cause = cause


class WorkerCrashedError(RayError):
    pass


class NodeDiedError(RayError):
    pass


class OutOfMemoryError(RayError):
    pass


ERRORS = SimpleNamespace(
    **{each.__name__: each for each in (RayError, RayTaskError, WorkerCrashedError, NodeDiedError, OutOfMemoryError)}
)
Said = Started | Epoch | Record | Trouble | Death | RayError
Script = Callable[[Experiment, int], Iterator[Said]]


class Task:
    """One submitted task: an iterator over what it says."""

    def __init__(self, said: Iterator[Said]) -> None:
        self.said = said

    def __iter__(self) -> Task:
        return self

    def __next__(self) -> Said:
        return next(self.said)


class FakeRay:
    """A cluster in which tasks say one thing at a time, in turn."""

    __version__ = "2.99"
    exceptions = ERRORS

    def __init__(self, script: Script, *, cpus: int = 4, client: bool = False) -> None:
        self.script, self.cpus = script, cpus
        self.util = SimpleNamespace(client=SimpleNamespace(ray=SimpleNamespace(is_connected=lambda: client)))
        self.client = client
        self.options: list[dict[str, Any]] = []
        self.orders: list[dict[str, Any]] = []
        self.at_once: list[int] = []
        self.canceled: list[tuple[Task, bool]] = []
        self.shut_down = 0

    def is_initialized(self) -> bool:
        return False

    def init(self, **settings: Any) -> None:
        assert settings["address"] == "local"

    def shutdown(self) -> None:
        self.shut_down += 1

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": float(self.cpus)}}]

    def remote(self, **options: Any) -> Callable[[Any], Any]:
        self.options.append(options)

        def submit(order: dict[str, Any]) -> Task:
            json.dumps(order)  # plain, for workers of other versions
            self.orders.append(order)
            return Task(self.script(Experiment.model_validate_json(order["experiment"]), order["attempt"]))

        return lambda function: SimpleNamespace(remote=submit)

    def wait(self, tasks: list[Task], **settings: Any) -> tuple[list[Task], list[Task]]:
        self.at_once.append(len(tasks))
        return tasks[:1], tasks[1:]

    def get(self, said: Any) -> Said:
        if isinstance(said, Task):  # not a stream: the last word
            *_, said = said
        if isinstance(said, RayError):
            raise said
        return said

    def cancel(self, task: Task, *, force: bool) -> None:
        self.canceled.append((task, force))
        if len(self.canceled) == 1:
            raise RuntimeError("this one is gone already")


def experiment(seed: int) -> Experiment:
    return Experiment(data="digits", model="fc-8", method="snip", density=0.5, seed=seed, recipe=Recipe(epochs=1))


def record(what: Experiment, *, top1: float = 0.5, status: str = "finished") -> Record:
    return Record.model_validate({"id": what.id, "experiment": what, "status": status, "top1": top1})


def run_well(out: Path) -> Script:
    def script(what: Experiment, attempt: int) -> Iterator[Said]:
        yield Started()
        yield Epoch(epoch=1, lr=0.1, train_loss=1.0, train_top1=0.5, seconds=1.0)
        write_record(out, record(what))
        yield record(what)

    return script


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeRay], FakeRay]:
    def put(fake: FakeRay) -> FakeRay:
        monkeypatch.setitem(sys.modules, "ray", fake)
        return fake

    monkeypatch.setattr(ray_task, "_PATIENCE", 0.0)
    return put


Use = Callable[[FakeRay], FakeRay]


def words(events: list[Event], what: Experiment) -> list[str]:
    return [f"{event.kind} {event.attempt}" for event in events if event.experiment == what]


def test_runs_end_in_records_in_order_and_finished_ones_start_nothing(tmp_path: Path, use: Use) -> None:
    experiments = [experiment(seed) for seed in range(5)]
    fake = use(FakeRay(run_well(tmp_path)))
    events: list[Event] = []
    records = run_on_ray([*experiments, experiments[0]], out=tmp_path, on_event=events.append)
    assert [each.experiment for each in records] == [*experiments, experiments[0]]
    assert len(fake.orders) == 5
    for each in experiments:
        assert words(events, each) == ["started 1", "epoch 1", "ended 1"]
    assert fake.shut_down == 1
    assert fake.canceled == []
    assert fake.options == [
        {"num_returns": "streaming", "num_cpus": 1, "num_gpus": 0.0, "max_calls": 1, "max_retries": 0}
    ]

    again = use(FakeRay(lambda *_: pytest.fail("it was run twice")))
    skipped: list[Event] = []
    assert run_on_ray(experiments, out=tmp_path, on_event=skipped.append) == records[:5]
    assert [event.kind for event in skipped] == ["skipped"] * 5
    assert again.shut_down == 0, "Ray was started for nothing"


def test_jobs_bound_the_runs_at_a_time_and_share_the_cores(tmp_path: Path, use: Use) -> None:
    experiments = [experiment(seed) for seed in range(30)]
    for jobs, most, threads in ((0, 8, 1), (3, 3, 1), (2, 2, 2), (1, 1, 4)):
        out = tmp_path / str(jobs)
        fake = use(FakeRay(run_well(out)))
        run_on_ray(experiments, out=out, jobs=jobs)
        assert max(fake.at_once) == most
        assert fake.options[0]["num_cpus"] == threads
        assert {order["threads"] for order in fake.orders} == {threads}


def test_paths_are_absolute_for_the_workers(tmp_path: Path, use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given, variable, there in (
        (None, "", None),
        (None, "sets", str(tmp_path / "sets")),
        ("mine", "sets", str(tmp_path / "mine")),
    ):
        monkeypatch.setenv("FOREPRUNE_DATA", variable)
        out = f"out-{given}-{variable}"
        fake = use(FakeRay(run_well(tmp_path / out)))
        run_on_ray([experiment(0)], out=out, data_dir=given)
        assert fake.orders[0]["out"] == str(tmp_path / out)
        assert fake.orders[0]["data_dir"] == there


def test_steps_that_runs_share_are_saved_by_whichever_comes_first(tmp_path: Path, use: Use) -> None:
    settings: dict[str, Any] = {"data": "digits", "model": "fc-8", "recipe": Recipe(epochs=2)}
    later = [Experiment(method="snip", density=0.5, prune_at=step, **settings) for step in (5, 9)]
    fake = use(FakeRay(run_well(tmp_path)))
    run_on_ray([*later, Experiment(method="dense", **settings)], out=tmp_path)
    assert [tuple(order["snapshots"]) for order in fake.orders] == [(5, 9, -1)] * 3


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (WorkerCrashedError(), "was killed or crashed"),
        (NodeDiedError(), "was lost with its node"),
        (OutOfMemoryError(), "was ended by Ray because memory ran out"),
        (RayError("first line\nsecond"), "was lost (RayError: first line)"),
        (Death("ended with exit code 7"), "ended with exit code 7"),
    ],
)
def test_lost_workers_are_retried_so_often_and_then_recorded(
    error: RayError | Death, reason: str, tmp_path: Path, use: Use
) -> None:
    good, bad, lucky = experiments = [experiment(seed) for seed in range(3)]

    def script(what: Experiment, attempt: int) -> Iterator[Said]:
        if what == bad or (what == lucky and attempt < 3):
            yield Started()
            yield error
        else:
            yield from run_well(tmp_path)(what, attempt)

    use(FakeRay(script))
    events: list[Event] = []
    records = run_on_ray(experiments, out=tmp_path, retries=2, on_event=events.append)
    assert [each.status for each in records] == ["finished", "failed", "finished"]
    attempts = ["started 1", "retried 1", "started 2", "retried 2", "started 3"]
    assert words(events, bad) == [*attempts, "ended 3"]
    assert words(events, lucky) == [*attempts, "epoch 3", "ended 3"]
    assert words(events, good) == ["started 1", "epoch 1", "ended 1"]
    assert all(event.note.startswith(reason) for event in events if event.kind == "retried")
    failed = records[1]
    assert (failed.error or "").startswith(f"the process {reason}")
    assert (failed.error or "").endswith(", 3 times")
    assert failed.attempts == 3
    assert failed.environment["executor"] == "ray"
    assert failed.environment["versions"]["ray"] == "2.99"
    assert "machine" not in failed.environment
    assert failed in read_records(tmp_path).records


def test_without_retries_a_lost_worker_is_a_failed_run(tmp_path: Path, use: Use) -> None:
    use(FakeRay(lambda what, attempt: iter([Started(), WorkerCrashedError()])))
    (failed,) = run_on_ray([experiment(0)], out=tmp_path, retries=0)
    assert (failed.status, failed.attempts) == ("failed", 1)
    assert "times" not in (failed.error or "")
    # it is done again by the next sweep
    fake = use(FakeRay(run_well(tmp_path)))
    assert run_on_ray([experiment(0)], out=tmp_path)[0].status == "finished"
    assert len(fake.orders) == 1


def test_a_worker_that_dies_after_its_work_is_not_repeated(tmp_path: Path, use: Use) -> None:
    def script(what: Experiment, attempt: int) -> Iterator[Said]:
        write_record(tmp_path, record(what))
        yield WorkerCrashedError()

    fake = use(FakeRay(script))
    assert run_on_ray([experiment(0)], out=tmp_path) == (record(experiment(0)),)
    assert len(fake.orders) == 1


def test_a_run_that_raises_is_not_repeated(tmp_path: Path, use: Use) -> None:
    def script(what: Experiment, attempt: int) -> Iterator[Said]:
        failed = record(what, status="failed")
        write_record(tmp_path, failed)
        yield failed

    fake = use(FakeRay(script))
    assert [each.status for each in run_on_ray([experiment(0)], out=tmp_path)] == ["failed"]
    assert len(fake.orders) == 1


def test_records_that_do_not_arrive_end_the_sweep(tmp_path: Path, use: Use) -> None:
    what = experiment(0)
    here = tmp_path / "here"
    message = f"the record of {what.id} is not under {here}: is the folder shared with the workers?"
    use(FakeRay(run_well(tmp_path / "there")))
    with pytest.raises(FileNotFoundError, match="is the folder shared") as raised:
        run_on_ray([what], out=here)
    assert message in str(raised.value)
    # an earlier record of the same run is not taken for the new one
    write_record(here, record(what, status="failed"))
    use(FakeRay(run_well(tmp_path / "there")))
    with pytest.raises(FileNotFoundError, match="is the folder shared"):
        run_on_ray([what], out=here)


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        (
            RayTaskError(ImportError("the worker on b has 0.2, and this process 0.1")),
            ImportError,
            r"a worker cannot begin \(the worker on b has 0.2, and .* 0.1\); install this foreprune on every node",
        ),
        (RayTaskError(FileNotFoundError("does not see it")), FileNotFoundError, "^does not see it$"),
        (RayTaskError(ModuleNotFoundError("No module named 'foreprune'")), ImportError, r"cannot begin \(No module"),
        (RayTaskError(PermissionError(errno.EACCES, "not yours")), OSError, "cannot write to .*not yours"),
        (Trouble(errno.ENOSPC, "No space left"), OSError, "disk full writing to .*; 0 finished runs are kept"),
    ],
)
def test_what_would_befall_every_run_ends_the_sweep(
    said: Said, kind: type[Exception], message: str, tmp_path: Path, use: Use
) -> None:
    fake = use(FakeRay(lambda what, attempt: iter([Started(), said])))
    with pytest.raises(kind, match=message):
        run_on_ray([experiment(seed) for seed in range(3)], out=tmp_path)
    assert len(fake.canceled) == 3
    assert all(force for _, force in fake.canceled)
    assert fake.shut_down == 1
    assert read_records(tmp_path).records == ()


def test_ctrl_c_cancels_what_runs_and_keeps_what_is_finished(tmp_path: Path, use: Use) -> None:
    fake = use(FakeRay(run_well(tmp_path)))

    def interrupt(event: Event) -> None:
        if event.kind == "ended":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_on_ray([experiment(seed) for seed in range(4)], out=tmp_path, on_event=interrupt)
    assert [force for _, force in fake.canceled] == [True] * 3
    assert fake.shut_down == 1
    assert len(read_records(tmp_path).records) == 1
    with locked(tmp_path):
        pass  # the folder is free again
    fake = use(FakeRay(run_well(tmp_path)))
    run_on_ray([experiment(seed) for seed in range(4)], out=tmp_path)
    assert len(fake.orders) == 3


def test_a_ray_client_tells_beginnings_and_ends(tmp_path: Path, use: Use) -> None:
    fake = use(FakeRay(run_well(tmp_path), client=True))
    events: list[Event] = []
    records = run_on_ray([experiment(0)], out=tmp_path, on_event=events.append)
    assert [each.status for each in records] == ["finished"]
    assert words(events, experiment(0)) == ["started 1", "ended 1"]
    assert "num_returns" not in fake.options[0]


def test_a_damaged_record_is_set_aside_and_its_run_done_again(tmp_path: Path, use: Use) -> None:
    path = run_folder(tmp_path, experiment(0)) / RECORD
    path.parent.mkdir(parents=True)
    path.write_text("{half")
    use(FakeRay(run_well(tmp_path)))
    events: list[Event] = []
    assert run_on_ray([experiment(0)], out=tmp_path, on_event=events.append)[0].status == "finished"
    assert [event.kind for event in events] == ["damaged", "started", "epoch", "ended"]
    assert path.with_name("record.damaged-1.json").read_text() == "{half"


def test_records_of_another_format_are_left_alone(tmp_path: Path, use: Use) -> None:
    path = run_folder(tmp_path, experiment(0)) / RECORD
    path.parent.mkdir(parents=True)
    path.write_text('{"format": "foreprune-record/99"}')
    use(FakeRay(run_well(tmp_path)))
    with pytest.raises(ValueError, match="has the format 'foreprune-record/99'"):
        run_on_ray([experiment(1)], out=tmp_path)
    assert "99" in path.read_text()


def test_settings_are_checked_before_anything(tmp_path: Path, use: Use) -> None:
    use(FakeRay(run_well(tmp_path)))
    out = tmp_path / "none"
    with pytest.raises(ValueError, match="jobs must be at least 1, or 0 for one per core or GPU, not -1"):
        run_on_ray([experiment(0)], out=out, jobs=-1)
    with pytest.raises(ValueError, match="retries must be 0 or more, not -2"):
        run_on_ray([experiment(0)], out=out, retries=-2)
    assert not out.exists()
    with pytest.raises(ValueError, match="the device must be 'cpu', or 'cuda'"):
        run_on_ray([experiment(0)], out=out, device="cuda:1")
    with locked(tmp_path), pytest.raises(BlockingIOError, match="is in use by another run of foreprune"):
        run_on_ray([experiment(0)], out=tmp_path)
    assert run_on_ray([], out=tmp_path) == ()
