"""How much two masks agree, and how much they would by chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from foreprune.core.masks import Masks, check_same_weights


@dataclass(frozen=True)
class Overlap:
    """Counts of one tensor, or of all of them.

    Attributes:
        total: weights.
        first: kept by the first masks.
        second: kept by the second.
        both: kept by both.
        expected_both: mean of `both` for masks that keep as many weights of each tensor, at random positions.
    """

    total: int
    first: int
    second: int
    both: int
    expected_both: float

    @property
    def jaccard(self) -> float:
        """Kept by both over kept by either; 1 where neither keeps any."""
        return _jaccard(self.both, self.first, self.second)

    @property
    def expected_jaccard(self) -> float:
        """The same by chance: the ratio of the means of both counts."""
        return _jaccard(self.expected_both, self.first, self.second)

    @property
    def shared(self) -> float:
        """Kept by both over what the sparser one keeps; 1 if one is a subset of the other."""
        return self.both / least if (least := min(self.first, self.second)) else 1.0

    @property
    def expected_shared(self) -> float:
        """The same by chance."""
        return self.expected_both / least if (least := min(self.first, self.second)) else 1.0


@dataclass(frozen=True)
class MaskOverlap:
    """The overlap of each tensor, of all together given their counts, and by chance without regard to layers.

    Attributes:
        layers: name -> overlap.
        total: sums over the layers; `expected_both` keeps the number of weights of each layer, so that it says what
            agreement the layer densities alone bring.
        expected_both_global: mean of `total.both` if both masks were random over the whole network.
    """

    layers: Mapping[str, Overlap]
    total: Overlap
    expected_both_global: float


def overlap(first: Masks, second: Masks) -> MaskOverlap:
    """Compare two masks of the same network.

    Raises:
        TypeError: something else than masks.
        ValueError: masks of different networks.
    """
    for masks in (first, second):
        if not isinstance(masks, Masks):
            raise TypeError(f"overlap compares two foreprune.Masks, not {type(masks).__name__}")
    check_same_weights(first.shapes, second.shapes, what="the second masks")
    common, counts, others = (first & second).layer_counts(), first.layer_counts(), second.layer_counts()
    layers = {}
    for name, (both, size) in common.items():
        kept, kept_second = counts[name][0], others[name][0]
        layers[name] = Overlap(size, kept, kept_second, both, kept * kept_second / size if size else 0.0)
    total = Overlap(
        total=sum(layer.total for layer in layers.values()),
        first=sum(layer.first for layer in layers.values()),
        second=sum(layer.second for layer in layers.values()),
        both=sum(layer.both for layer in layers.values()),
        expected_both=sum(layer.expected_both for layer in layers.values()),
    )
    return MaskOverlap(layers, total, total.first * total.second / total.total)


def _jaccard(both: float, first: int, second: int) -> float:
    either = first + second - both
    return both / either if either else 1.0
