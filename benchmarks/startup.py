"""What scoring ResNet-20 once in a fresh process adds to importing torch, and how long `--help` takes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from benchmarks.timing import Row, summarized

_BUILD = "import torch\nfrom foreprune.zoo import models\nm = models.create('resnet-20', input_shape=(3, 32, 32))\n"
_SCORE = "import foreprune\nforeprune.score(m, 'synflow', inputs=torch.zeros(1, 3, 32, 32))\n"


_HELP = """import sys; sys.argv = ['foreprune', 'compare', '--help']
from contextlib import redirect_stdout, suppress
import io
from foreprune.cli import main
with suppress(SystemExit), redirect_stdout(io.StringIO()): main()
"""
_DEMO = (
    "import sys\nfrom foreprune.cli import main\nsys.argv = ['foreprune', 'compare', '--out', sys.argv[1]]\nmain()\n"
)


def _seconds(code: str, *arguments: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def rows() -> Iterator[Row]:
    pairs = [(_seconds(_BUILD + _SCORE), _seconds(_BUILD)) for _ in range(6)][1:]
    yield summarized(
        "fresh process: import torch, ResNet-20, one SynFlow score",
        [with_score for with_score, _ in pairs],
        [without + 0.2 for _, without in pairs],
        against="the same without the score, + 0.2 s",
        target=1.0,
    )
    helped = [_seconds(_HELP) for _ in range(7)]
    yield summarized("foreprune compare --help", helped, [0.5] * 7, against="0.5 s", target=1.0)


def demo_rows() -> Iterator[Row]:
    """What `make demo` runs, in a folder that is thrown away."""
    taken = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            taken.append(_seconds(_DEMO, folder))
    yield summarized("make demo, after installation", taken, [60.0] * 2, against="60 s", target=1.0)
