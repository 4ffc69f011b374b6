"""Lottery-ticket rewinding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foreprune.procedures.registered import END, Start, procedure

if TYPE_CHECKING:
    from foreprune.procedures.shared import RunContext


def check_rewinding(*, rewind_to: int, **_: object) -> None:
    """Raise ValueError for a step before the first."""
    if rewind_to < 0:
        raise ValueError(
            f"rewind_to must be an optimizer step of the dense training, a whole number from 0 on, not {rewind_to!r}"
        )


@procedure(
    "ltr",
    paper="Frankle et al., ICML 2020, arXiv:1912.05671; Frankle et al., ICLR 2021, arXiv:2009.08576, section 3",
    dense_steps=lambda *, rewind_to: (rewind_to, END),
    in_steps={"rewind_to": 0},
    ablates=("method", "masks", "weights"),
    check=check_rewinding,
)
def ltr(run: RunContext, *, rewind_to: int = 0) -> Start:
    """Lottery-ticket rewinding: the masks of magnitude-after, with the weights that the dense training had at step
    rewind_to, trained by the whole recipe. Frankle et al. 2021, table A.3, rewind LeNet-300-100 to 0, ResNet-20 and
    ResNet-18 to 1000, VGG-16 to 2000, ResNet-50 to 6255.
    """
    from foreprune.procedures.shared import network_at, order_at, prune_with

    masks, seconds = prune_with(run, network_at(run, END), "magnitude")
    return Start(network_at(run, rewind_to), masks, order_at(run, rewind_to), seconds)
