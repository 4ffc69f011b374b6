"""Magnitude pruning after training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foreprune.procedures.registered import END, Start, procedure

if TYPE_CHECKING:
    from foreprune.procedures.shared import RunContext


@procedure(
    "magnitude-after",
    paper="Renda et al., ICLR 2020, arXiv:2003.02389 (learning-rate rewinding); Frankle et al., ICLR 2021, "
    "arXiv:2009.08576, section 3",
    dense_steps=lambda: (END,),
    ablates=("method", "masks", "weights"),
)
def magnitude_after(run: RunContext) -> Start:
    """Train the dense network, keep its largest weights, compared over all layers, and train on from them by the whole
    recipe again.
    """
    from foreprune.procedures.shared import network_at, order_at, prune_with

    model = network_at(run, END)
    masks, seconds = prune_with(run, model, "magnitude")
    return Start(model, masks, order_at(run, END), seconds)
