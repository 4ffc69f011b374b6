"""Masks of the small networks are those of `golden.json`, with the acceleration of path methods and without it."""

from __future__ import annotations

import json

import pytest
from contract.golden import FILE, ITERATIVE_PATHS, METHODS, digests
from contract.nets import NETS

PINNED = json.loads(FILE.read_text())


def test_every_method_and_network_is_pinned() -> None:
    assert {name: list(nets) for name, nets in PINNED.items()} == {name: list(NETS) for name in METHODS}
    every = [digest for nets in PINNED.values() for pair in nets.values() for digest in pair]
    assert len(set(every)) > len(every) / 2


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", METHODS)
def test_masks_are_those_pinned(name: str, net: str) -> None:
    assert digests(name, net) == PINNED[name][net]


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", ITERATIVE_PATHS)
@pytest.mark.usefixtures("without_replay")
def test_masks_are_those_pinned_also_without_replay(name: str, net: str) -> None:
    assert digests(name, net) == PINNED[name][net]
