"""Which run goes to which device; no GPU is needed."""

from __future__ import annotations

import pytest
import torch

from foreprune.runner.placement import assign, at_a_time, cores, device_names, visible


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_names("cpu") == ("cpu",)
    assert device_names("cuda:1") == ("cuda:1",)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert device_names("cuda") == ("cuda:0", "cuda:1", "cuda:2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="device 'cuda': torch sees no CUDA device here; write device='cpu'"):
        device_names("cuda")


def test_runs_go_to_the_device_with_the_fewest() -> None:
    devices = ("cuda:0", "cuda:1", "cuda:2")
    busy: list[str] = []
    for _ in range(7):
        busy.append(assign(devices, busy))
    assert busy == ["cuda:0", "cuda:1", "cuda:2"] * 2 + ["cuda:0"]
    busy.remove("cuda:1")
    busy.remove("cuda:1")
    assert assign(devices, busy) == "cuda:1"
    busy.remove("cuda:0")
    assert assign(devices, ["cuda:1", *busy]) == "cuda:1"
    assert assign(["cpu"], ["cpu", "cpu"]) == "cpu"


def test_how_many_at_a_time() -> None:
    gpus = ("cuda:0", "cuda:1")
    assert at_a_time(0, devices=gpus, runs=10) == 2
    assert at_a_time(6, devices=gpus, runs=10) == 6
    assert at_a_time(6, devices=gpus, runs=4) == 4
    assert at_a_time(0, devices=("cuda:1",), runs=10) == 1
    assert at_a_time(0, devices=("cpu",), runs=10_000) == cores()


def test_a_process_sees_its_own_gpu_alone() -> None:
    assert visible("cpu", None) is None
    assert visible("cuda", "0,1") is None
    assert visible("cuda:2", None) == "2"
    assert visible("cuda:2", "") == "2"
    assert visible("cuda:1", "4, 7") == "7"
    assert visible("cuda:0", "GPU-8932f937,GPU-1") == "GPU-8932f937"
    with pytest.raises(ValueError, match="device 'cuda:2': CUDA_VISIBLE_DEVICES='4,7' lets only 2 be used"):
        visible("cuda:2", "4,7")
