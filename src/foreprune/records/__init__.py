"""What a run is, what it measured, and where records are kept. Nothing here imports torch."""

try:
    import pydantic as _  # noqa: F401
except ImportError as error:
    raise ImportError("records of runs need pydantic: pip install 'foreprune[cli]'", name="pydantic") from error

from foreprune.records.experiment import Experiment, Scalar
from foreprune.records.frame import empty_share, frame, load_frame, row_of
from foreprune.records.provenance import command_line, commit, environment, now
from foreprune.records.run_record import FORMAT, LayerRecord, Record
from foreprune.records.store import (
    RECORD,
    RUNS,
    Records,
    check_formats,
    earlier,
    finished,
    is_full,
    make_folder,
    read_record,
    read_records,
    remove_unfinished,
    run_folder,
    set_aside,
    write_record,
)
from foreprune.training.history import Epoch

__all__ = [
    "FORMAT",
    "RECORD",
    "RUNS",
    "Epoch",
    "Experiment",
    "LayerRecord",
    "Record",
    "Records",
    "Scalar",
    "check_formats",
    "command_line",
    "commit",
    "earlier",
    "empty_share",
    "environment",
    "finished",
    "frame",
    "is_full",
    "load_frame",
    "make_folder",
    "now",
    "read_record",
    "read_records",
    "remove_unfinished",
    "row_of",
    "run_folder",
    "set_aside",
    "write_record",
]
