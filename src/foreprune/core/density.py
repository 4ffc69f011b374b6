"""Densities: what a user asks for, and how a total is shared out over layers (uniform, Erdős-Rényi, ERK)."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping

Shapes = Mapping[str, tuple[int, ...]]


def as_density(
    *, density: float | None = None, sparsity: float | None = None, compression: float | None = None
) -> float:
    """Exactly one of density (fraction kept), sparsity (fraction removed), compression (total / kept), as a density.

    Raises:
        TypeError: none, several, or not a number.
        ValueError: outside (0, 1] for a density, [0, 1) for a sparsity, [1, inf) for a compression.
    """
    given = {"density": density, "sparsity": sparsity, "compression": compression}
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) != 1:
        what = "none" if not named else " and ".join(named)
        raise TypeError(
            "give exactly one of density= (fraction kept), sparsity= (fraction removed) or compression= "
            f"(total/kept); got {what}"
        )
    ((name, value),) = named.items()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, not {value!r}")
    allowed = {
        "density": (0 < value <= 1, "in (0, 1], the fraction of weights kept: 0.05 keeps 5 %"),
        "sparsity": (0 <= value < 1, "in [0, 1), the fraction of weights removed: 0.95 keeps 5 %"),
        "compression": (1 <= value < math.inf, "at least 1, total over kept weights: 20 keeps 5 %"),
    }
    fits, rule = allowed[name]
    if not fits:
        raise ValueError(f"{name} must be {rule}; got {value!r}")
    value = float(value)
    # 1 - 0.9 is 0.0999...98 in floating point, which could round a count the wrong way
    return value if name == "density" else round(1 - value, 12) if name == "sparsity" else 1 / value


def keep_count(density: float, total: int) -> int:
    """`round(density * total)`, the exact number of weights every method keeps.

    Raises:
        ValueError: that is zero.
    """
    if not total:
        raise ValueError("there is no weight to keep any of: give at least one tensor that is not empty")
    keep = round(density * total)
    if not keep:
        raise ValueError(
            f"density {density:g} keeps none of {total:,} weights; the smallest that keeps one is {1 / total:.3g}"
        )
    return keep


def round_count(density: float, total: int) -> int:
    """The number of weights kept after a round before the last: `int((1 - density) * total)` are removed.

    As in the code of SynFlow's authors, in its floating-point arithmetic. That is the density rounded up, where
    `keep_count` rounds to the nearest: hundreds of rounds amplify a difference of one weight.
    """
    return total - int((1.0 - density) * total)


def uniform(shapes: Shapes, density: float) -> dict[str, float]:
    """The same density in every layer."""
    return dict.fromkeys(shapes, density)


def erdos_renyi(shapes: Shapes, density: float) -> dict[str, float]:
    """ER (Mocanu et al. 2018): d_l = min(1, eps (out + in) / (out in)), kernels counted as dense blocks."""
    return _scaled(shapes, density, lambda shape: sum(shape[:2]) / math.prod(shape[:2]))


def erdos_renyi_kernel(shapes: Shapes, density: float) -> dict[str, float]:
    """ERK (Evci et al. 2020): d_l = min(1, eps (out + in + kh + kw) / (out in kh kw))."""
    return _scaled(shapes, density, lambda shape: sum(shape) / math.prod(shape))


def _scaled(shapes: Shapes, density: float, raw: Callable[[tuple[int, ...]], float]) -> dict[str, float]:
    """Densities proportional to `raw`, with eps such that the total is right; layers that would pass 1 become dense."""
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    relative = {name: raw(shape) if sizes[name] else 0.0 for name, shape in shapes.items()}
    dense: set[str] = set()
    while True:
        free = [name for name in shapes if name not in dense and sizes[name]]
        budget = density * sum(sizes.values()) - sum(sizes[name] for name in dense)
        weight = sum(relative[name] * sizes[name] for name in free)
        eps = budget / weight if weight else 0.0
        full = {name for name in free if eps * relative[name] >= 1}
        if not full:
            return {name: 1.0 if name in dense or not sizes[name] else eps * relative[name] for name in shapes}
        dense |= full


def apportion(ideal: Mapping[str, float], room: Mapping[str, int], keep: int) -> dict[str, int]:
    """Whole numbers near `ideal`, at most `room`, that add up to exactly `keep`.

    Largest remainders first (Hamilton's method); what no remainder can take goes where there is room.

    Raises:
        ValueError: `keep` is more than there is room for.
    """
    total = sum(room.values())
    if not 0 <= keep <= total:
        raise ValueError(f"cannot keep {keep:,} of {total:,} weights; ask for a number from 0 to {total:,}")
    counts = {name: min(math.floor(ideal[name]), room[name]) for name in room}
    while (missing := keep - sum(counts.values())) != 0:
        step = 1 if missing > 0 else -1
        open_ = [name for name in room if (counts[name] < room[name] if step > 0 else counts[name] > 0)]
        open_.sort(key=lambda name: (counts[name] - ideal[name]) * step)
        for name in open_[: abs(missing)]:
            counts[name] += step
    return counts
