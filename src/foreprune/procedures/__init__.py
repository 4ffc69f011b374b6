"""Procedures: what trains in order to prune, and which dense trainings a list of runs shares. Torch-free at load."""

from foreprune.procedures.procedures import Procedure, dense_of, snapshots_for, steps_needed, steps_of

__all__ = ["Procedure", "dense_of", "snapshots_for", "steps_needed", "steps_of"]
