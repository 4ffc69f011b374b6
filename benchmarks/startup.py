"""What scoring ResNet-20 once in a fresh process adds to importing torch, and how long `--help` takes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.timing import Row

_BUILD = "import torch\nfrom foreprune.zoo import models\nm = models.create('resnet-20', input_shape=(3, 32, 32))\n"
_SCORE = "import foreprune\nforeprune.score(m, 'synflow', inputs=torch.zeros(1, 3, 32, 32))\n"


def _seconds(code: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - begun


def rows() -> Iterator[Row]:
    pairs = [(_seconds(_BUILD + _SCORE), _seconds(_BUILD)) for _ in range(6)][1:]
    extra = sorted(with_score - without for with_score, without in pairs)
    middle = extra[len(extra) // 2]
    base = sorted(without for _, without in pairs)[len(pairs) // 2]
    yield Row(
        "fresh process: import torch, ResNet-20, one SynFlow score",
        "the same without the score, + 0.2 s",
        1000 * (base + middle),
        1000 * (base + 0.2),
        (base + middle) / (base + 0.2),
        (base + extra[0]) / (base + 0.2),
        (base + extra[-1]) / (base + 0.2),
        1.0,
    )
    times = sorted(
        _seconds(
            "import sys; sys.argv = ['foreprune', 'compare', '--help']\n"
            "from contextlib import redirect_stdout, suppress\nimport io\n"
            "from foreprune.cli import main\n"
            "with suppress(SystemExit), redirect_stdout(io.StringIO()): main()"
        )
        for _ in range(7)
    )
    yield Row("foreprune compare --help", "0.5 s", 1000 * times[3], 500, 2 * times[3], 2 * times[0], 2 * times[-1], 1.0)
