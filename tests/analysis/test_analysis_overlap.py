"""Agreement of masks, counted by hand and by chance."""

from __future__ import annotations

import pytest
import torch

from foreprune.analysis.agreement import overlap
from foreprune.analysis.statistics import Overlap
from foreprune.core.masks import Masks


def masks(**signs: str) -> Masks:
    return Masks({name: torch.tensor([sign == "1" for sign in text], dtype=torch.bool) for name, text in signs.items()})


def test_counts_by_hand() -> None:
    found = overlap(masks(a="11100000", b="1111"), masks(a="01111000", b="0001"))
    assert found.layers["a"] == Overlap(total=8, first=3, second=4, both=2, expected_both=1.5)
    assert found.layers["b"] == Overlap(total=4, first=4, second=1, both=1, expected_both=1.0)
    assert found.total == Overlap(total=12, first=7, second=5, both=3, expected_both=2.5)
    assert found.expected_both_global == pytest.approx(35 / 12)
    assert found.layers["a"].jaccard == 2 / 5
    assert found.layers["a"].shared == 2 / 3
    assert found.total.jaccard == 3 / 9
    assert found.total.expected_jaccard == pytest.approx(2.5 / 9.5)
    assert found.layers["a"].expected_shared == 0.5
    assert found.layers["b"].shared == found.layers["b"].expected_shared == 1.0


def test_equal_disjoint_and_empty_masks() -> None:
    one, other, none = masks(a="1100"), masks(a="0011"), masks(a="0000")
    assert overlap(one, one).total.jaccard == 1
    assert overlap(one, other).total.jaccard == 0
    assert overlap(none, none).total.jaccard == overlap(none, none).total.expected_jaccard == 1
    assert overlap(one, none).total.jaccard == 0
    assert overlap(one, none).total.shared == overlap(one, none).total.expected_shared == 1


def test_random_masks_overlap_as_expected() -> None:
    generator = torch.Generator().manual_seed(0)
    size, kept = 100_000, (20_000, 30_000)

    def draw(count: int) -> Masks:
        mask = torch.zeros(size, dtype=torch.bool)
        mask[torch.randperm(size, generator=generator)[:count]] = True
        return Masks({"a": mask})

    found = overlap(draw(kept[0]), draw(kept[1])).total
    assert found.expected_both == 6_000
    deviation = (6_000 * 0.8 * 0.7) ** 0.5
    assert abs(found.both - 6_000) < 4 * deviation


def test_empty_tensors_and_strangers() -> None:
    assert overlap(masks(a="1", b=""), masks(a="1", b="")).layers["b"] == Overlap(0, 0, 0, 0, 0.0)
    with pytest.raises(ValueError, match="the second masks belong to another model: they lack 'a' and have 'b'"):
        overlap(masks(a="1"), masks(b="1"))
    with pytest.raises(TypeError, match=r"compares two foreprune\.Masks, not dict"):
        overlap(masks(a="1"), {"a": torch.ones(1).bool()})  # type: ignore[arg-type]
