"""Keeping the largest weights, and saying which layers were lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from procedures.lively_runs import (
    experiment,
    run,
)

from foreprune.core.masks import Masks
from foreprune.procedures.shared import (
    keep_largest,
)


def test_the_largest_are_kept_among_those_that_are_left() -> None:
    weights = {"a": torch.tensor([[-5.0, 4.0, 0.0], [3.0, -2.0, 1.0]]), "b": torch.tensor([[0.5, -9.0]])}
    among = Masks({"a": torch.tensor([[False, True, True], [True, True, True]]), "b": torch.tensor([[True, False]])})
    kept = keep_largest(weights, 3, among=among, scope="global", seed=0)
    assert kept["a"].tolist() == [[False, True, False], [True, True, False]]
    assert not kept["b"].any()
    local = keep_largest(weights, 4, among=among, scope="local", seed=0)
    assert local.layer_counts() == {"a": (3, 6), "b": (1, 2)}
    assert local["a"].tolist() == [[False, True, False], [True, True, False]]
    assert local["b"].tolist() == [[True, False]]
    with pytest.raises(ValueError, match="cannot keep 7 of 6 weights"):
        keep_largest(weights, 7, among=among, scope="global", seed=0)


@pytest.mark.parametrize("method", ["gmp", "imp", "ltr"])
def test_a_layer_that_is_lost_is_said(method: str, tmp_path: Path) -> None:
    hyper = {"rate": 0.9} if method == "imp" else {}
    record = run(experiment(method, density=1 / 1184, hyper=hyper), tmp_path)
    (lost,) = [layer.name for layer in record.layers if not layer.kept]
    assert len([said for said in record.warnings if f"leaves no weight in 1 of 2 layers: {lost}" in said]) == 1
