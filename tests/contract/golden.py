"""What methods without random draws keep of the small networks, pinned in `golden.json`.

    PYTHONPATH=src:tests python tests/contract/golden.py

writes the file anew; do so only if masks are meant to change, and say why in the changelog.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

from contract.nets import NETS, example

import foreprune

FILE = Path(__file__).with_suffix(".json")
DENSITIES = (0.3, 0.08)
ROUNDS = 6  # so that a replay has some of them
ITERATIVE_PATHS = ("synflow", "synflow-l2", "synflow-dist", "synflow-l2-dist")
METHODS = (*ITERATIVE_PATHS, "px", "magnitude", "snip", "iterative-snip", "force", "grasp")


def digests(name: str, net: str) -> list[str]:
    """One for each density: the method's masks of the network, as the first characters of their SHA-256."""
    found, given = [], example(net)
    arguments = given.arguments(foreprune.get_method(name))
    if "rounds" in arguments:
        arguments["rounds"] = ROUNDS
    if net in ("encoder", "attention"):  # on paths, queries and keys have no score
        arguments["gates"] = "score"
    for density in DENSITIES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", foreprune.LayerCollapse)
            masks = foreprune.prune(given.model, name, density=density, **arguments)
        digest = hashlib.sha256()
        for key, mask in masks.items():
            digest.update(key.encode() + mask.numpy().tobytes())
        found.append(digest.hexdigest()[:16])
    return found


if __name__ == "__main__":
    pinned = {name: {net: digests(name, net) for net in NETS} for name in METHODS}
    FILE.write_text(json.dumps(pinned, indent=1) + "\n")
