"""How the density falls from round to round of an iterative method."""

from __future__ import annotations

from typing import Literal

ScheduleName = Literal["exponential", "linear"]


def densities(density: float, *, rounds: int, schedule: ScheduleName) -> list[float]:
    """The density d_k after each round k = 1..n of `rounds`; the last is `density` itself.

    "exponential" is d_k = d^(k/n) (Tanaka et al. 2020), in *densities*: the exponent on the sparsity, as some papers
    print it, would remove nearly everything in the first round. "linear" is d_k = 1 - (1 - d) k/n.

    Raises:
        ValueError: fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be a whole number of at least 1, not {rounds!r}")
    if schedule == "linear":
        return [*(1 - (1 - density) * (k / rounds) for k in range(1, rounds)), density]
    return [*(density ** (k / rounds) for k in range(1, rounds)), density]
