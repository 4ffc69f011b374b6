"""Compare two methods from Python: a grid of runs, one record for each, a table, and the report as HTML.

What `foreprune compare` does on the command line. Finished runs are kept in the folder: start it again and nothing is
run twice.
"""

from __future__ import annotations

import argparse

import foreprune as fp
from foreprune.experiments.grid import grid
from foreprune.report.render import write_report
from foreprune.runner import run_all


def main() -> None:
    """SynFlow against random pruning on the digits, two densities, three seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="runs/example", help="folder for records, masks and the report")
    out = parser.parse_args().out

    experiments = grid(
        data="digits",
        model="lenet-300-100",
        methods=["random", "synflow"],
        densities=[0.05, 0.01],
        seeds=range(3),
        recipe=fp.Recipe(epochs=10, batch_size=64, optimizer="adam", lr=3e-3, schedule="cosine", augment=False),
    )
    run_all(experiments, out=out)

    runs = fp.load_records(out)  # pandas, one row for each run
    table = runs.groupby(["method", "density"]).top1.agg(["mean", "std", "count"]).reset_index()
    print(table.to_string(index=False, float_format="{:.3f}".format))
    print("report:", write_report(out))


if __name__ == "__main__":
    main()  # runs are processes of their own, which import this file: keep the guard
