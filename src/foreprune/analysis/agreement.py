"""How much two masks agree, and how much they would by chance."""

from __future__ import annotations

from foreprune.analysis.statistics import MaskOverlap, overlap_of_counts
from foreprune.core.masks import Masks
from foreprune.core.targets import check_same_weights


def overlap(first: Masks, second: Masks) -> MaskOverlap:
    """Compare two masks of the same network: weights kept by each and by both, in each tensor and in all.

    Returns:
        Counts, with the Jaccard index and its value by chance as properties (`foreprune.analysis.statistics`).

    Raises:
        TypeError: something else than masks.
        ValueError: masks of different networks.
    """
    for masks in (first, second):
        if not isinstance(masks, Masks):
            raise TypeError(f"overlap compares two foreprune.Masks, not {type(masks).__name__}")
    check_same_weights(first.shapes, second.shapes, what="the second masks")
    one, other, both = (
        {name: kept for name, (kept, _) in masks.layer_counts().items()} for masks in (first, second, first & second)
    )
    return overlap_of_counts(one, other, both, sizes={name: size for name, (_, size) in first.layer_counts().items()})
