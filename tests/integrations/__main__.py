"""`python -m integrations` (`make trainers`): run every cell of the matrix of trainers, and write the table of
docs/trainers.md.

The exit code is 1 if some cell is not right.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from integrations import cells, page


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m integrations", description=__doc__)
    parser.add_argument("trainers", nargs="*", metavar="TRAINER", help=f"of {', '.join(cells.TRAINERS)}; default: all")
    parser.add_argument("--layout", nargs="+", choices=cells.LAYOUTS, default=list(cells.LAYOUTS))
    chosen = parser.parse_args(arguments)
    if odd := [trainer for trainer in chosen.trainers if trainer not in cells.TRAINERS]:
        parser.error(f"no trainer {odd[0]!r}; there are {', '.join(cells.TRAINERS)}")
    wrong = 0
    for trainer in chosen.trainers or cells.TRAINERS:
        for layout in chosen.layout:
            try:
                for name in (trainer, *cells.FEATURES):
                    cells.need(name)
            except ImportError as error:
                print(f"{trainer} is left out: {error}", flush=True)
                break
            begun = time.perf_counter()
            found = cells.run(trainer, layout)
            for feature, cell in found.items():
                if said := cells.not_right(trainer, layout, feature, cell):
                    wrong += 1
                    print(f"{trainer}, {layout}, {feature}: {said}", flush=True)
            page.save(page.Row.of(trainer, layout, found))
            print(f"{trainer}, {layout}: {time.perf_counter() - begun:.0f} s", flush=True)
    page.write()
    print(f"{page.PAGE}: {wrong} cells that are not right")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
