"""Procedures: what trains in order to prune, one file each, and the dense trainings that runs share. Torch-free.

What needs torch is in `foreprune.procedures.shared`.
"""

from foreprune.procedures.dense_steps import dense_of, snapshots_for, steps_needed, steps_of
from foreprune.procedures.registered import (
    END,
    Procedure,
    Start,
    ablation_of,
    check_procedure,
    get_procedure,
    list_procedures,
    procedure,
    procedure_of,
    registry,
    settings_of,
)

__all__ = [
    "END",
    "Procedure",
    "Start",
    "ablation_of",
    "check_procedure",
    "dense_of",
    "get_procedure",
    "list_procedures",
    "procedure",
    "procedure_of",
    "registry",
    "settings_of",
    "snapshots_for",
    "steps_needed",
    "steps_of",
]
