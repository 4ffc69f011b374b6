"""Masks under trainers of others, each in a file of its own and behind an extra: `transformers`, `lightning`,
`accelerate`. The page Trainers of the documentation shows one line for each.

`mask_metrics` are the numbers that they log, for loops of one's own.
"""

from __future__ import annotations

from foreprune.integrations.metrics import mask_metrics

__all__ = ["mask_metrics"]
