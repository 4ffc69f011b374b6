"""Iterative magnitude pruning."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from foreprune.procedures.ltr import check_rewinding
from foreprune.procedures.registered import END, Start, procedure
from foreprune.records import make_folder, remove_unfinished

if TYPE_CHECKING:
    from torch import Tensor

    from foreprune.core.masks import Masks
    from foreprune.procedures.shared import RunContext


def round_counts(density: float, *, total: int, keep: int, rate: float) -> tuple[int, ...]:
    """How many of `total` weights are kept after each round; the last entry is `keep`.

    Round r leaves total * (1 - rate)^r, so runs of different density share their first rounds.
    """
    counts: list[int] = []
    # rounded, so that the density 0.64 is two rounds of 0.2 although 0.8 * 0.8 is a little more
    while (level := round((1.0 - rate) ** (len(counts) + 1), 12)) > round(density, 12):
        counts.append(max(keep, round(total * level)))
    return (*counts, keep)


def _check(*, rewind_to: int, rate: float) -> None:
    check_rewinding(rewind_to=rewind_to)
    if not 0 < rate < 1:
        raise ValueError(f"rate must be the fraction of the weights that a round removes, between 0 and 1, not {rate}")


@procedure(
    "imp",
    paper="Frankle & Carbin, ICLR 2019, arXiv:1803.03635; Frankle et al., ICML 2020, arXiv:1912.05671",
    dense_steps=lambda *, rewind_to, **_: (rewind_to, END),
    trainings=lambda density, *, rate, **_: len(round_counts(density, total=1, keep=1, rate=rate)),
    in_steps={"rewind_to": 0},
    ablates=("masks", "weights"),
    check=_check,
)
def imp(run: RunContext, *, rewind_to: int = 0, rate: float = 0.2) -> Start:
    """Iterative magnitude pruning: train, remove the smallest of the weights that are left, the fraction rate of them,
    go back to the weights of step rewind_to, and again. The last round removes fewer, so that the density is exact.

    What a round has trained is kept beside the dense training, for runs of other densities: all but the last round are
    the same for them.
    """
    from foreprune.core.density import keep_count
    from foreprune.procedures.shared import (
        deleted_on_failure,
        dense_weights,
        keep_largest,
        lock,
        network_at,
        order_at,
        read_snapshot,
        state_of,
        train,
        unpruned,
        warn_of_collapse,
        write_snapshot,
    )

    scope, seed, order = run.experiment.scope, run.experiment.seed, order_at(run, rewind_to)
    dense = unpruned(run, run.network())
    keep = keep_count(run.experiment.density, dense.total)
    counts = round_counts(run.experiment.density, total=dense.total, keep=keep, rate=rate)
    folder = make_folder(run.dense_folder / f"imp-rewind{rewind_to}-rate{rate!r}-{scope}")

    def about(number: int) -> dict[str, str]:
        return {"round": f"{folder.parent.name}/{folder.name}/{number}"}

    def read(number: int) -> tuple[dict[str, Tensor], Masks] | None:
        """Weights at the end of a round that has been trained, and its masks. Round 0 is the dense training."""
        if number == 0:
            return dense_weights(run, END), dense
        found = read_snapshot(folder / f"round-{number}.safetensors", about=about(number))
        if found is None:
            return None
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "masks": {}}
        for key, value in found.tensors.items():
            part, _, name = key.partition("/")
            parts[part][name] = value
        return parts["weights"], dense.replaced(parts["masks"])

    def pruned(weights: dict[str, Tensor], among: Masks, kept: int) -> Masks:
        return keep_largest(weights, kept, among=among.to("cpu"), scope=scope, seed=seed)

    def trained(number: int) -> tuple[dict[str, Tensor], Masks]:
        """As `read`, trained now if need be, with all rounds before it that are missing."""
        if found := read(number):
            return found
        masks = pruned(*trained(number - 1), counts[number - 1])
        model = network_at(run, rewind_to)
        checkpoint = folder / f"round-{number}.pt"
        with deleted_on_failure(checkpoint):
            train(run, model, order=order, masks=masks, checkpoint=checkpoint)
        state = state_of(model)
        tensors = {f"weights/{name}": value for name, value in state.items()}
        tensors |= {f"masks/{name}": mask.cpu() for name, mask in masks.items()}
        write_snapshot(folder / f"round-{number}.safetensors", tensors, about=about(number))
        checkpoint.unlink(missing_ok=True)
        return state, masks

    last = len(counts) - 1
    found = read(last)
    if found is None:
        with lock(folder / "lock") as alone:
            if alone:
                remove_unfinished(folder)
            found = trained(last)
    begun = time.perf_counter()
    masks = pruned(*found, keep).with_metadata(dense.metadata)
    seconds = time.perf_counter() - begun
    warn_of_collapse(run, masks)
    return Start(network_at(run, rewind_to), masks, order, seconds)
