"""How the density falls from round to round of an iterative method."""

from __future__ import annotations

from collections.abc import Callable

Schedule = Callable[[float, int], list[float]]


def exponential(density: float, rounds: int) -> list[float]:
    """d_k = d^(k/n) for k = 1..n (Tanaka et al. 2020). In *densities*: the exponent on the sparsity, as some papers
    print it, would remove nearly everything in the first round."""
    return [density ** (k / rounds) for k in range(1, rounds)] + [density]


def linear(density: float, rounds: int) -> list[float]:
    """d_k = 1 - (1 - d) k/n for k = 1..n."""
    return [1 - (1 - density) * k / rounds for k in range(1, rounds)] + [density]


SCHEDULES: dict[str, Schedule] = {"exponential": exponential, "linear": linear}


def densities(density: float, *, rounds: int, schedule: str) -> list[float]:
    """The density after each of `rounds` rounds; the last is `density` itself.

    Raises:
        ValueError: unknown schedule, or fewer than one round.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, not {schedule!r}")
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise ValueError(f"rounds must be a whole number of at least 1, not {rounds!r}")
    return SCHEDULES[schedule](density, rounds)
