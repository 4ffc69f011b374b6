"""What one run measured (`Record`). Nothing here imports torch."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel

from foreprune.records.experiment import Experiment
from foreprune.training.history import Epoch

FORMAT: Final = "foreprune-record/1"


class LayerRecord(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """One prunable weight: how many entries were kept, and how many of its output units are still fed. Where a tensor
    holds several layers each has a row of its own, "attn.qkv.weight[q]".

    `unit_densities` counts the output units by the fraction of their incoming weights that was kept: the first entry
    those that keep nothing, then twenty of width 0.05, open below and closed above, so that their sum is `units`. Empty
    in records of earlier versions.
    """

    name: str
    shape: tuple[int, ...]
    kept: int
    total: int
    units: int
    units_alive: int
    unit_densities: tuple[int, ...] = ()


class Record(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """What one run measured. `status` is "finished" or "failed"; a failed run carries `error` and no accuracy.

    `top1` and `top5` are test accuracies of the *last* epoch, fractions in [0, 1] (`top5` only with 6 classes or more).
    `analysis` holds the numbers of `foreprune.analyze` on the pruned initial network: effective_density, width (mean
    over layers of the share of units on a kept path), dead_layers, log10_paths, log10_path_norm,
    log10_path_kernel_trace, macs, dense_macs; and what training adds: weight_distance and output_distance, the
    Euclidean distance of the kept weights, and the mean over up to 1,000 test images of that of the outputs, between
    the first and the last step (Gebhart et al. 2021, figures 1-2). Outputs are compared without dropout and with batch
    normalization by the statistics of each batch of 250 images, before and after: running statistics mean nothing
    before training (records of versions up to 0.2.0 took them). For networks pruned before training also
    log10_path_kernel_trace_1, the trace with the weights after the first epoch (figure 1). None where they have no
    meaning or are infinite.
    `warnings` are what the library warned of, such as layers that lost all their weights. `attempts` counts the
    processes that the last sweep started for the run: more than one if some of them died.
    """

    format: Literal["foreprune-record/1"] = FORMAT
    id: str
    experiment: Experiment
    status: Literal["finished", "failed"]
    error: str | None = None
    top1: float | None = None
    top5: float | None = None
    kept: int | None = None
    total: int | None = None
    layers: tuple[LayerRecord, ...] = ()
    analysis: dict[str, float | int | None] = {}
    curve: tuple[Epoch, ...] = ()
    seconds_prune: float | None = None
    seconds_train: float | None = None
    warnings: tuple[str, ...] = ()
    attempts: int = 1
    environment: dict[str, Any] = {}

    @property
    def test_loss(self) -> float | None:
        """Test loss of the last epoch, the result where there are no classes to count."""
        return self.curve[-1].test_loss if self.curve else None

    @property
    def density(self) -> float | None:
        """Fraction of prunable weights really kept, from the counts."""
        return None if not self.total or self.kept is None else self.kept / self.total
