"""What is known to be wrong before any run begins."""

from __future__ import annotations

import pytest
import torch

from foreprune.experiments import check, resolve_device
from foreprune.procedures import list_procedures
from foreprune.records import Experiment
from foreprune.training.recipes import Recipe

SHORT = Recipe(epochs=2, batch_size=128, lr=0.1)


def experiment(method: str = "snip", **changes: object) -> Experiment:
    base = {"data": "digits", "model": "fc-16", "method": method, "density": 0.5, "recipe": SHORT}
    if method == "dense":
        base["density"] = 1.0
    return Experiment.model_validate(base | changes)


def test_check_finds_what_would_fail() -> None:
    check([experiment(), experiment("dense")], data_dir=None)
    with pytest.raises(ValueError, match="did you mean 'synflow'"):
        check([experiment("sinflow")], data_dir=None)
    with pytest.raises(TypeError, match="'grasp' has no setting 'temprature'"):
        check([experiment("grasp", hyper={"temprature": 1})], data_dir=None)
    with pytest.raises(ValueError, match="keeps none of"):
        check([experiment(density=1e-9)], data_dir=None)
    with pytest.raises(ValueError, match="unknown"):
        check([experiment(model="lennet")], data_dir=None)
    with pytest.raises(
        ValueError, match="train_size=1443: digits has 1442 training images; write a smaller number, or 0"
    ):
        check([experiment(), experiment(train_size=1443)], data_dir=None)
    check([experiment(train_size=1442)], data_dir=None)
    with pytest.raises(FileNotFoundError, match="FOREPRUNE_DATA"):
        check([experiment(data="mnist")], data_dir="/nowhere")


def test_check_knows_what_prunes_later() -> None:
    check([experiment(found.name) for found in list_procedures()], data_dir=None)
    check([experiment(prune_at=24), experiment("ltr", hyper={"rewind_to": 24})], data_dir=None)  # 2 epochs of 12 steps
    with pytest.raises(ValueError, match=r"unknown method 'magnitud-after'; did you mean 'magnitude-after'"):
        check([experiment("magnitud-after")], data_dir=None)
    with pytest.raises(TypeError, match="procedure 'gmp' has no setting 'evry'; did you mean 'every'"):
        check([experiment("gmp", hyper={"evry": 1})], data_dir=None)
    with pytest.raises(ValueError, match="procedure 'gmp' takes no ablation 'reinit'; allowed: none"):
        check([experiment("gmp", ablation="reinit")], data_dir=None)
    with pytest.raises(ValueError, match=r"no step 25 in the dense training: it has 24 .* prune or rewind at one of 0"):
        check([experiment(prune_at=25)], data_dir=None)
    with pytest.raises(ValueError, match="no step 24 in the dense training: it has 2 optimizer steps"):
        check([experiment("ltr", hyper={"rewind_to": 24}, train_size=100)], data_dir=None)


def test_device() -> None:
    assert resolve_device("cpu") == "cpu"
    if torch.cuda.is_available():
        assert resolve_device("auto") == "cuda"
    else:
        assert resolve_device("auto") == "cpu"
        with pytest.raises(ValueError, match="no CUDA device"):
            resolve_device("cuda")
