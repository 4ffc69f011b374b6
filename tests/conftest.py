"""Settings for all tests. This folder is on the import path, so tests share `contract.nets` and `oracles.*`."""

from __future__ import annotations

import os

# Tiny networks are slower on several threads; this must come before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

settings.register_profile("foreprune", deadline=None, derandomize=True, database=None)
settings.load_profile("foreprune")
