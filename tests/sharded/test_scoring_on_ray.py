"""The program of docs/ray.md that spreads batches over Ray workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPARED = """
ray.shutdown()
assert [one == masks for one in same] == [True]
assert [len(batches_of(rank, 2)) for rank in range(2)] == [4, 4]
print("spread:", masks == fp.prune(make_model(), "snip", density=0.1, data=batches_of(0, 1)), masks.kept)
print("half:", masks == fp.prune(make_model(), "snip", density=0.1, data=batches_of(0, 2)))
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_batches_spread_over_ray_workers(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    section = (ROOT / "docs" / "ray.md").read_text().partition("## Batches spread over Ray workers")[2]
    program = section.partition("```python sketch\n")[2].partition("```")[0]
    (tmp_path / "program.py").write_text(program + COMPARED)
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    set_here = {"PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={**os.environ, **set_here},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert "spread: True 150\nhalf: False\n" in done.stdout, done.stdout
