"""Records as a pandas table, one row per run; pandas is imported when a table is made, torch never."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreprune.records.run_record import LayerRecord, Record
from foreprune.records.store import read_records

if TYPE_CHECKING:
    import pandas

_SETTINGS = (
    *("data", "model", "method", "density", "sparsity", "seed"),
    *("scope", "prune_at", "ablation", "widen", "init", "samples_per_class", "train_size"),
)
_RESULTS = ("status", "error", "kept", "total", "top1", "top5", "test_loss", "seconds_prune", "seconds_train")
_DERIVED = ("best_top1", "empty_units", "empty_channels")
_COLUMNS = ("id", *_SETTINGS, *_RESULTS, *_DERIVED)
_COUNTS = ("seed", "prune_at", "samples_per_class", "train_size", "kept", "total")
_NUMBERS = ("density", "sparsity", "widen", "top1", "top5", "test_loss", "seconds_prune", "seconds_train", *_DERIVED)


def frame(records: Sequence[Record]) -> pandas.DataFrame:
    """One row per record: settings, results, and `hyper.*` and `recipe.*` columns for the nested settings.

    Columns: id, data, model, method, density, sparsity, seed, scope, prune_at, ablation, widen, init,
    samples_per_class, train_size, status, error, kept, total, top1, top5 (fractions), test_loss, seconds_prune,
    seconds_train, best_top1 (the highest of all epochs, which some papers print), empty_units (the share of units, over
    all prunable layers, without an incoming weight), empty_channels (the same of convolutions only), then `analysis.*`,
    `hyper.*` and `recipe.*`. `density` and `sparsity` are those asked for; `kept / total` is what was kept. Missing
    counts are `<NA>`, missing numbers NaN.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("records as a table need pandas: pip install 'foreprune[report]'") from error
    rows = [row_of(record) for record in records]
    nested = sorted({key for row in rows for key in row if "." in key})
    table = pandas.DataFrame(rows, columns=[*_COLUMNS, *nested])
    counts = dict.fromkeys(_COUNTS, "Int64")
    numbers = dict.fromkeys(_NUMBERS, "float64")
    return table.astype(counts | numbers)


def row_of(record: Record) -> dict[str, Any]:
    """The row of `frame` for one record; what is missing is None or left out."""
    experiment = record.experiment
    row: dict[str, Any] = {"id": record.id}
    row |= {key: getattr(experiment, key) for key in _SETTINGS}
    row |= {key: getattr(record, key) for key in _RESULTS}
    row["best_top1"] = max((epoch.test_top1 for epoch in record.curve if epoch.test_top1 is not None), default=None)
    row["empty_units"] = empty_share(record.layers)
    row["empty_channels"] = empty_share(layer for layer in record.layers if len(layer.shape) > 2)
    row |= {f"analysis.{key}": value for key, value in record.analysis.items()}
    row |= {f"hyper.{key}": value for key, value in experiment.hyper.items()}
    row |= {f"recipe.{key}": value for key, value in experiment.model_dump(mode="json")["recipe"].items()}
    return row


def empty_share(layers: Iterable[LayerRecord]) -> float | None:
    """The share of units without an incoming weight; None without units."""
    pairs = [(layer.units, layer.units_alive) for layer in layers]
    units, alive = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
    return (units - alive) / units if units else None


def load_frame(folder: str | Path) -> pandas.DataFrame:
    """Read every record under `folder` into a pandas frame, one row per run; see `frame` for the columns.

    Warns:
        UserWarning: some files could not be read; `read_records(folder).problems` lists them all.

    Raises:
        ImportError: pandas is not installed.
        OSError: the folder is missing or may not be read.
    """
    found = read_records(folder)
    if found.problems:
        path, reason = found.problems[0]
        message = f"{len(found.problems)} record(s) left aside, the first {path}: {reason}"
        warnings.warn(message, UserWarning, stacklevel=2)
    return frame(found.records)
