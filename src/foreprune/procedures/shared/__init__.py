"""What procedures share: the run, its dense training, weights on disk, choosing masks. This part imports torch."""

from foreprune.procedures.shared.dense import (
    channels_last,
    check_step,
    deleted_on_failure,
    dense_run,
    dense_weights,
    network_at,
    order_at,
    train,
)
from foreprune.procedures.shared.pruning import keep_largest, prune_with, unpruned, warn_of_collapse
from foreprune.procedures.shared.run_context import RunContext
from foreprune.procedures.shared.snapshots import lock, read_snapshot, state_of, write_snapshot
from foreprune.procedures.shared.start import start_of

__all__ = [
    "RunContext",
    "channels_last",
    "check_step",
    "deleted_on_failure",
    "dense_run",
    "dense_weights",
    "keep_largest",
    "lock",
    "network_at",
    "order_at",
    "prune_with",
    "read_snapshot",
    "start_of",
    "state_of",
    "train",
    "unpruned",
    "warn_of_collapse",
    "write_snapshot",
]
