"""Everything that a run imports, in one place, so that a process can import it once and then be copied for each run.

Importing this starts no thread of torch's and leaves CUDA alone; otherwise the copies would not be safe.
"""

from __future__ import annotations

import safetensors.numpy
import torch._dynamo  # the first optimizer step imports it, for half of a second or more

import foreprune.experiments.run
from foreprune.methods import list_methods

__all__ = ["METHODS", "foreprune", "safetensors", "torch"]

METHODS = list_methods()
