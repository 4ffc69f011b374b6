"""A Ray cluster: start one here or reach one that runs, and how its cores and GPUs are shared out among runs."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from foreprune.runner.placement import cores

_SECONDS_TO_ANSWER = 5.0
_OBJECT_STORE = 80 * 2**20  # bytes, about the least that Ray takes; runs pass nothing large through it
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # RFC 9113, section 3.4
_SETTINGS_FRAME = 4
_FORMS = "'auto', 'host:port' of the head node (the port is usually 6379), or 'ray://host:port' of a Ray Client server"


@dataclass(frozen=True)
class Share:
    """What one run takes of a node: cores, and the part of a GPU."""

    cpus: int
    gpus: float


def import_ray() -> ModuleType:
    """The module `ray`.

    Raises:
        ImportError: it is not installed; the message says how to.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ImportError("runs on a Ray cluster need ray: pip install 'foreprune[sweep]'") from error
    module: ModuleType = ray
    return module


@contextlib.contextmanager
def connected(ray: ModuleType, address: str | None) -> Iterator[None]:
    """A connection to a Ray cluster; what was begun here is ended here, and nothing else.

    Args:
        ray: the module.
        address: None starts Ray on this machine, with the cores that this process may use, and stops it at the end;
            "auto", "host:port" and "ray://host:port" reach a cluster that runs and leave it running. A connection that
            this process has already is used, and left open.

    Raises:
        ValueError: an address of another form, or another one than this process is connected to.
        ConnectionError: nothing answers there, or something that is not Ray, or Ray refuses.
    """
    if ray.is_initialized():
        _check_same(ray, address)
        yield
        return
    local = {
        "address": "local",
        "num_cpus": cores(),
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE,
    }
    if address is None:
        settings: dict[str, Any] = local
        where = "start Ray on this machine"
    else:
        # Ray itself tries an address for two minutes and then ends the process
        reach(os.environ.get("RAY_ADDRESS", address) if address == "auto" else address)
        settings = {"address": address}
        where = f"reach the Ray cluster at {address!r}"
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _begin(ray, settings, where)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray puts one of its own there
    try:
        yield
    finally:
        ray.shutdown()


def _begin(ray: ModuleType, settings: dict[str, Any], where: str) -> None:
    for last in (False, True):
        try:
            ray.init(**settings, log_to_driver=False, logging_level=logging.ERROR)
        except (Exception, SystemExit) as error:
            ray.shutdown()
            reason = " ".join(str(error).split()) or type(error).__name__
            # Ray gives its own processes 30 seconds to start; on a busy machine the second time is faster
            if last or settings["address"] != "local" or "timed out" not in reason:
                raise ConnectionError(f"cannot {where}: {reason}") from error
        else:
            return


def _check_same(ray: ModuleType, address: str | None) -> None:
    if address in (None, "auto"):
        return
    here = ray.get_runtime_context().gcs_address
    if address != here:
        raise ValueError(
            f"this process is connected to the Ray cluster at {here!r} already; leave out the address {address!r}, or "
            "call ray.shutdown() first"
        )


def reach(address: str) -> None:
    """Say hello to the server at `address`, "host:port" or "ray://host:port"; "auto" is left to Ray.

    Raises:
        ValueError: an address of another form.
        ConnectionError: nothing answers within seconds, or what does is no server of Ray's, such as its dashboard.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16 or "/" in host:
        raise ValueError(f"the address of a Ray cluster must be {_FORMS}, not {address!r}")
    ask = f"is Ray running there (ray start --head), and is this its address? It must be {_FORMS}"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_ANSWER) as connection:
            if os.environ.get("RAY_USE_TLS", "0") == "1":
                return
            connection.sendall(_HELLO)
            answer = b""
            while len(answer) < len(_HELLO[-9:]) and (more := connection.recv(64)):
                answer += more
    except OSError as error:
        raise ConnectionError(f"no answer from {address} ({error}); {ask}") from error
    if len(answer) < 9 or answer[3] != _SETTINGS_FRAME:
        raise ConnectionError(f"what answers at {address} is not Ray; {ask}")


def share_of(nodes: Sequence[Mapping[str, Any]], *, device: str, jobs: int) -> Share:
    """What each run may take, so that `jobs` of them go on at a time and the cores are shared out evenly.

    Args:
        nodes: as `ray.nodes()` says.
        device: "cpu", or "cuda" for the GPUs of the cluster.
        jobs: runs at a time in the whole cluster; 0 means one per core, or one per GPU.

    Raises:
        ValueError: no node has what a run needs, or a device that is not Ray's to give.
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(
            f"on a Ray cluster the device must be 'cpu', or 'cuda' for GPUs that Ray gives, not {device!r}"
        )
    found = [_resources(node) for node in nodes if node["Alive"]]
    if device == "cuda":
        found = [(cpus, gpus) for cpus, gpus in found if gpus]
        if not found:
            raise ValueError("no node of the Ray cluster has a GPU; write device 'cpu', or add nodes that have one")
        each = max(1, -(-jobs // sum(gpus for _, gpus in found)))
        return Share(max(1, min(cpus // (gpus * each) for cpus, gpus in found)), 1 / each)
    most = max((cpus for cpus, _ in found), default=0)
    if not most:
        raise ValueError("no node of the Ray cluster has a core to give; start one with ray start --num-cpus")
    total = sum(cpus for cpus, _ in found)
    return Share(max(1, min(most, total // jobs)) if jobs else 1, 0.0)


def places(nodes: Sequence[Mapping[str, Any]], share: Share) -> int:
    """How many runs the nodes take at a time, at least 1: more nodes may come."""
    counts = []
    for cpus, gpus in (_resources(node) for node in nodes if node["Alive"]):
        by_gpu = int(gpus) * round(1 / share.gpus) if share.gpus else cpus // share.cpus
        counts.append(min(cpus // share.cpus, by_gpu))
    return max(1, sum(counts))


def _resources(node: Mapping[str, Any]) -> tuple[int, int]:
    resources = node["Resources"]
    return int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
