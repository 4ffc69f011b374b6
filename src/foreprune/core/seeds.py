"""Random generators that have nothing in common with those of the same seed elsewhere."""

from __future__ import annotations

import hashlib

import torch


def generator_for(purpose: str, seed: int) -> torch.Generator:
    """A generator on the CPU that depends on `seed` and on what it is for.

    A network whose weights were drawn under `torch.manual_seed(0)` and masks drawn from a generator seeded with 0 use
    the same numbers: random scores then follow the magnitude of the weights, and random pruning keeps the large ones.
    """
    digest = hashlib.sha256(f"foreprune/{purpose}/{seed}".encode()).digest()
    return torch.Generator(device="cpu").manual_seed(int.from_bytes(digest[:4], "big"))  # torch uses 32 bits of a seed
