"""Where a Ray cluster is, and what a run may take of it. No Ray is started here."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from foreprune.runner import ray_cluster
from foreprune.runner.ray_cluster import Share, connected, import_ray, places, reach, share_of

GRPC = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # an empty SETTINGS frame, as every HTTP/2 server begins


@contextmanager
def server(answer: bytes) -> Iterator[str]:
    """Something that listens, reads a little, answers and hangs up; its address."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(10)
    assert not thread.is_alive(), "nobody said hello"


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def node(cpus: float | None = None, gpus: float | None = None, *, alive: bool = True) -> dict[str, Any]:
    given = {"CPU": cpus, "GPU": gpus, "memory": 1e9}
    return {"Alive": alive, "Resources": {name: value for name, value in given.items() if value is not None}}


def test_without_ray_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"runs on a Ray cluster need ray: pip install 'foreprune\[sweep\]'"):
        import_ray()


def test_ray_is_told_not_to_report_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    assert import_ray() is fake
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    import_ray()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1", "who wants to report may"


@pytest.mark.parametrize(
    "address", ["nonsense", "host", ":6379", "host:", "host:port", "host:0", "host:70000", "http://host:8265", ""]
)
def test_an_address_has_a_form(address: str) -> None:
    with pytest.raises(
        ValueError, match=r"must be 'auto', 'host:port' of the head node .* or 'ray://host:port'.*not '"
    ):
        reach(address)


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_an_address_where_nothing_answers_fails_in_seconds(prefix: str) -> None:
    address = f"{prefix}127.0.0.1:{closed_port()}"
    begun = time.monotonic()
    with pytest.raises(ConnectionError, match=rf"no answer from {address} \(.*is Ray running there"):
        reach(address)
    assert time.monotonic() - begun < 5


def test_what_answers_must_speak_as_ray_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for prefix in ("", "ray://"):
        with server(GRPC) as address:
            reach(prefix + address)
    with server(GRPC[:5]) as address, pytest.raises(ConnectionError, match=f"what answers at {address} is not Ray"):
        reach(address)
    dashboard = b"HTTP/1.1 400 Bad Request\r\n\r\n"
    with server(dashboard) as address, pytest.raises(ConnectionError, match=f"what answers at {address} is not Ray"):
        reach(address)
    monkeypatch.setattr(ray_cluster, "_SECONDS_TO_ANSWER", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=rf"no answer from {address} \(timed out\)"):
            reach(address)
    reach("auto")  # Ray looks for itself


class Connection:
    """Stands for the module `ray`, and notes what is asked of it."""

    def __init__(self, *, here: str | None = None, error: BaseException | None = None, times: int = 9) -> None:
        self.here, self.error, self.times = here, error, times
        self.calls: list[Any] = []

    def is_initialized(self) -> bool:
        return self.here is not None

    def get_runtime_context(self) -> SimpleNamespace:
        return SimpleNamespace(gcs_address=self.here)

    def init(self, **settings: Any) -> None:
        self.calls.append(settings)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))  # as Ray does
        self.times -= 1
        if self.error is not None and self.times >= 0:
            raise self.error

    def shutdown(self) -> None:
        self.calls.append("shutdown")


def test_what_was_started_is_shut_down_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ray_cluster, "cores", lambda: 3)
    local: Any = Connection()
    with connected(local, None):
        assert signal.getsignal(signal.SIGTERM) is before
        assert [type(call) for call in local.calls] == [dict]
    settings, last = local.calls
    assert last == "shutdown"
    # never a cluster that happens to run here, whatever RAY_ADDRESS says
    assert (settings["address"], settings["num_cpus"]) == ("local", 3)
    assert settings["include_dashboard"] is False
    assert settings["log_to_driver"] is False

    interrupted: Any = Connection()
    with pytest.raises(KeyboardInterrupt), connected(interrupted, None):
        raise KeyboardInterrupt
    assert interrupted.calls[1:] == ["shutdown"]

    remote: Any = Connection()
    with server(GRPC) as address, connected(remote, address):
        pass
    settings, last = remote.calls
    assert (settings["address"], last) == (address, "shutdown")
    assert "num_cpus" not in settings

    ours: Any = Connection(here="10.0.0.1:6379")
    for same in (None, "auto", "10.0.0.1:6379"):
        with connected(ours, same):
            pass
    assert ours.calls == []
    with (
        pytest.raises(
            ValueError, match=r"connected to the Ray cluster at '10\.0\.0\.1:6379' already; leave out the addr"
        ),
        connected(ours, "10.0.0.2:6379"),
    ):
        pass


def test_auto_asks_where_the_environment_points_to(monkeypatch: pytest.MonkeyPatch) -> None:
    fake: Any = Connection()
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port()}")
    with pytest.raises(ConnectionError, match=r"no answer from 127\.0\.0\.1"), connected(fake, "auto"):
        pass
    assert fake.calls == []


@pytest.mark.parametrize("error", [RuntimeError("Version mismatch:\n Ray 1 and 2"), SystemExit(15), ConnectionError()])
def test_a_refusal_of_ray_is_one_line(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for address, what in ((None, "start Ray on this machine"), ("auto", "reach the Ray cluster at 'auto'")):
        fake: Any = Connection(error=error)
        with pytest.raises(ConnectionError, match=f"^cannot {what}: [^\n]+$"), connected(fake, address):
            pass
        assert fake.calls[-1] == "shutdown"


@pytest.mark.parametrize(
    ("cpus", "jobs", "share"),
    [
        ((8,), 0, 1),
        ((8,), 2, 4),
        ((8,), 3, 2),
        ((8,), 8, 1),
        ((8,), 100, 1),
        ((4, 4, 16), 2, 12),
        ((4, 4), 1, 4),  # a run cannot span nodes
        ((0, 6), 1, 6),  # a head node that gives nothing
    ],
)
def test_cores_are_shared_out(cpus: tuple[int, ...], jobs: int, share: int) -> None:
    nodes = [node(count) for count in cpus]
    assert share_of([*nodes, node(999, alive=False)], device="cpu", jobs=jobs) == Share(share, 0.0)


@pytest.mark.parametrize(
    ("machines", "jobs", "share"),
    [
        (((16, 4),), 0, Share(4, 1.0)),
        (((16, 4),), 3, Share(4, 1.0)),
        (((16, 4),), 8, Share(2, 0.5)),
        (((16, 4),), 9, Share(1, 1 / 3)),
        (((16, 4), (64, 2), (128, 0)), 12, Share(2, 0.5)),
        (((2, 4),), 0, Share(1, 1.0)),
    ],
)
def test_gpus_are_shared_out(machines: tuple[tuple[int, int], ...], jobs: int, share: Share) -> None:
    assert share_of([node(cpus, gpus) for cpus, gpus in machines], device="cuda", jobs=jobs) == share


def test_places_are_counted_node_by_node() -> None:
    nodes = [node(5), node(3), node(100, alive=False), node()]
    assert places(nodes, Share(1, 0.0)) == 8
    assert places(nodes, Share(2, 0.0)) == 3
    assert places(nodes, Share(50, 0.0)) == 1, "nodes may come"
    gpus = [node(16, 4), node(2, 4), node(64)]
    assert places(gpus, Share(4, 1.0)) == 4
    assert places(gpus, Share(1, 1 / 3)) == 12 + 2


def test_what_no_node_has_is_refused() -> None:
    with pytest.raises(ValueError, match="no node of the Ray cluster has a GPU; write device 'cpu'"):
        share_of([node(8), node(8, 2, alive=False)], device="cuda", jobs=0)
    with pytest.raises(ValueError, match="no node of the Ray cluster has a core to give"):
        share_of([node(0), node(4, alive=False)], device="cpu", jobs=0)
    with pytest.raises(ValueError, match="must be 'cpu', or 'cuda' for GPUs that Ray gives, not 'cuda:1'"):
        share_of([node(8, 2)], device="cuda:1", jobs=0)


def test_ray_may_be_slow_to_start_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    slow = RuntimeError("The current node timed out during startup.")
    fake: Any = Connection(error=slow, times=1)
    with connected(fake, None):
        pass
    assert [call if call == "shutdown" else "init" for call in fake.calls] == ["init", "shutdown"] * 2
    for address, tries in ((None, 2), ("auto", 1)):
        fake = Connection(error=slow)
        with pytest.raises(ConnectionError, match="timed out during startup"), connected(fake, address):
            pass
        assert fake.calls.count("shutdown") == tries
