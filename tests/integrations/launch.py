"""Run a program where torchvision may be broken: python launch.py PROGRAM ARGUMENT..."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from contract.extras import imported

if __name__ == "__main__":
    imported("torch")
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
